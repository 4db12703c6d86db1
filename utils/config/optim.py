"""How weights move."""

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass
from tyro.conf import arg

from utils.config.strict import STRICT

NotNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
Kind = Literal["norm", "bias", "fc", "conv", "depthwise", "attention"]


@dataclass(frozen=True, config=STRICT)
class OptimConfig:
    """How weights move. But for weight decay, what is not given is what the optimizer's paper, or torch, has."""

    opt: Literal["sgd", "nesterov", "adamw", "rmsprop", "rmsprop_tf", "lars", "lamb", "lion", "muon", "adan"] = "sgd"
    """optimizer"""
    lr: Annotated[float | None, Field(gt=0)] = None
    """learning rate at the global batch; not together with --lr-base"""
    lr_base: Annotated[float | None, Field(gt=0)] = None
    """learning rate per 256 images, scaled with the global batch; 0.1 if neither is given, for sgd and nesterov"""
    momentum: Share | None = None
    """momentum: 0.9 of sgd, nesterov and lars, 0.95 of muon, 0 of rmsprop and rmsprop_tf if not given"""
    nesterov: bool = False
    """Nesterov momentum in sgd: --opt nesterov"""
    betas: Annotated[tuple[Share, ...] | None, arg(aliases=["--opt-betas"])] = None
    """shares of the moving averages that a step keeps: two, of adan three; also of the AdamW beside muon"""
    eps: Annotated[Positive | None, arg(aliases=["--opt-eps"])] = None
    """what keeps adamw, rmsprop, rmsprop_tf, lamb, adan and muon's AdamW from division by zero"""
    rmsprop_alpha: Annotated[Share | None, arg(aliases=["--alpha"])] = None
    """share of the mean square that a step of rmsprop (0.99) or rmsprop_tf (0.9) keeps"""
    trust_coefficient: Positive | None = None
    """of lars: how far a layer may move, as a share of its norm; 0.001 if not given"""
    fused: Literal["auto", "torch", "apex", "off"] = "auto"
    """kernels of the optimizer: torch's fused ones where it has them, NVIDIA apex's, or none; auto never takes apex"""
    lookahead: tuple[Annotated[int, Field(ge=1)], Annotated[float, Field(gt=0, le=1)]] | None = None
    """K ALPHA: every K steps move slow weights by ALPHA of the way to the fast ones, which start from there again"""
    sam: Positive | None = None
    """radius in which the worst loss is looked for before each step (sharpness-aware, two passes): 0.05"""
    weight_decay: Annotated[NotNegative, arg(aliases=["--wd"])] = 1e-4
    """L2 penalty on weights; of adamw, lamb, lion, muon and adan decay apart from the gradient"""
    no_wd_bias: Annotated[bool, arg(aliases=["--no-wd", "--nowd-bn"])] = False
    """no weight decay on biases and on gains of norms: on whatever has one dimension"""
    wd_skip: tuple[Kind, ...] = ()
    """kinds of parameters without weight decay: norm bias fc conv depthwise attention"""
    alpha_wd: NotNegative = 0.0
    """weight decay on the gains of pws"""
    el2: bool = False
    """e-shifted L2 in the place of weight decay on filters: pulls their deviation to --el2-eps, their mean to zero"""
    el2_eps: Annotated[NotNegative | None, arg(aliases=["--mineps"])] = None
    """standard deviation of a filter that --el2 pulls to; 0.001 if not given"""
    el2_lambda: Annotated[Positive | None, arg(aliases=["--lam"])] = None
    """strength of --el2; 0.0001 if not given"""
    gradient_centralization: Annotated[Literal["off", "conv", "all"], arg(aliases=["--gc"])] = "off"
    """take the mean out of each filter's gradient: of convolutions, or of all weights with two dimensions or more"""
    clip_grad: Annotated[float | None, Field(gt=0), arg(aliases=["--clip-grad-norm"])] = None
    """largest norm of the gradient, value of its elements, or share of a unit's norm (agc: 0.01), by --clip-mode"""
    clip_mode: Literal["norm", "value", "agc"] = "norm"
    """what --clip-grad bounds: the norm of all, each element, or each unit beside its weights (adaptive)"""
