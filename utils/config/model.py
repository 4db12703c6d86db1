"""Which network is trained."""

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass
from tyro.conf import arg

from utils.config.strict import STRICT


@dataclass(frozen=True, config=STRICT)
class ModelConfig:
    """Which network is trained."""

    model: Annotated[str, arg(aliases=["--arch", "-a"])] = "resnet50"
    """network, such as resnet50; an unknown name lists them all"""
    norm: str = "bn"
    """normalization: bn, syncbn, bng2, gn, in, in_affine, ln, switchnorm, evonorm_b0, evonorm_s0, frn, none,
    ws (with gn), ws_bn, a1, wn, pws"""
    act: str = "auto"
    """activation: relu, relu6, leaky-relu, prelu, elu, swish, hard-swish, mish, gelu, quick-gelu;
    auto is the network's own"""
    attention: str = "auto"
    """attention: se, cbam, sge, gc, srm, eca, gl, bam, sk, sk_paper, split, split_paper, lambda;
    auto is the network's own"""
    attention_reduction: Annotated[int | None, Field(ge=1)] = None
    """channels over those inside an attention: 16 if not given, for se, cbam, bam, gc, sk and sk_paper; 4 for split"""
    attention_groups: Annotated[int | None, Field(ge=1)] = None
    """groups of channels of sge (64 if not given) and gl (4), and of grouped convolutions of sk and sk_paper (32)"""
    norm_groups: Annotated[int, Field(ge=1)] = 32
    """groups of group normalization, for gn, ws and evonorm_s0"""
    block_order: Literal["auto", "post", "pre", "pre-raw", "relu-first"] = "auto"
    """order inside residual blocks; auto is the network's own, and relu-first with pws, pre with evonorm and frn"""
    stem: Literal["auto", "imagenet", "deep", "small"] = "auto"
    """first layers: 7x7 stride 2 and pooling, three 3x3 in the place of the 7x7 (deep, ResNets only), or one 3x3 for
    images of about 32 px; auto is the network's own"""
    downsampling: Literal["stride", "blur", "lip"] = "stride"
    """what halves the resolution: strides and max pooling, blur pooling (arXiv 1904.11486), or local importance
    pooling (arXiv 1908.04156)"""
    avg_down: bool = False
    """average pooling before the projection of a shortcut, in the place of its stride (ResNet-D's, arXiv 1812.01187)"""
    caffe_stride: bool = False
    """the stride of a bottleneck on its first 1x1 convolution, as in caffe's ResNets, not on its 3x3"""
    deformable: bool = False
    """modulated deformable 3x3 convolutions in all stages but the first (DCNv2, arXiv 1811.11168)"""
    frozen_stages: Annotated[int | None, Field(ge=0)] = None
    """leave the stem and so many stages as they are, as --init-from gave them: no gradients, norms in evaluation"""
    freeze_norm: bool = False
    """leave the running statistics of norms as they are, and normalize with them; gains still train"""
    octave_alpha: Annotated[float | None, Field(ge=0, lt=1)] = None
    """share of channels at half the resolution in octave networks: 0.125 if not given, 0.25 where they have groups;
    published at 0.125 to 0.75"""
    width: Annotated[float, Field(gt=0)] = 1.0
    """width multiplier of a ResNet's or mobile network's channels; GhostNet was published at 0.5, 1.0 and 1.3"""
    num_classes: Annotated[int | None, Field(ge=1)] = None
    """outputs of the classifier; as many as the data set has classes if not given"""
    zero_gamma: Annotated[bool, arg(aliases=["--last-gamma", "--zero-init-residual"])] = False
    """start each residual branch at zero: the gain of its last norm is 0"""
    dropout: Annotated[float | None, Field(ge=0, lt=1)] = None
    """probability of each feature before the head to be zero (arXiv 1207.0580); the network's own if not given, mostly
    0"""
    conv_dropout: Annotated[float, Field(ge=0, lt=1), arg(aliases=["--drop"])] = 0.0
    """probability of each value to be zero between the convolutions of a wide ResNet's blocks (arXiv 1605.07146) and
    after the layers of a DenseNet"""
    drop_path: Annotated[float, Field(ge=0, lt=1), arg(aliases=["--stochastic-depth-prob"])] = 0.0
    """stochastic depth, or drop-connect: probability of the last residual branch to be left out, for each image, linear
    over blocks (arXiv 1603.09382)"""
    drop_block: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """probability of each value to be zero in a block of zeros, at the end of training, in the last two stages of
    ResNets (arXiv 1810.12890)"""
    drop_block_size: Annotated[int, Field(ge=1)] = 7
    """drop-block: side of a block, positions"""
    bn_momentum: Annotated[float | None, Field(gt=0, le=1)] = None
    """share of the batch in what batch norms keep of one step (torch's meaning); the network's own, mostly 0.1, if not
    given"""
    bn_eps: Annotated[float | None, Field(gt=0)] = None
    """what batch norms add to variances; the network's own, mostly 1e-5, if not given"""
    ghost_batch: Annotated[int | None, Field(ge=2), arg(aliases=["--virtual-batch-size"])] = None
    """images that a batch norm takes its statistics over, in training: groups of the batch (arXiv 1705.08741)"""
    pws_gamma: Annotated[float, Field(ge=0)] = 0.1
    """pws: what is added to the variance of a filter"""
    pws_equiv: Literal["on", "off"] = "on"
    """pws: gamma is a share of the variance at initialization (on) or absolute (off)"""
    pws_fan: Literal["in", "out"] = "in"
    """pws: the fan that fixes the scale of a kernel"""
    pws_gain: Literal["data", "one"] = "data"
    """pws: gains start from the first batch's variance (data) or at one"""
    kernels: Literal["auto", "plain", "triton"] = "auto"
    """norms with their ReLU and addition, and all weights of ws, a1 and pws, by torch's operations (plain) or as one
    kernel each way on a GPU (triton); auto is plain"""
