"""Who takes part: our step under several flags, and the steps of others as their users run them.

Each runs in a process of its own, so that its memory is its own and what one compiles or chooses touches no other. A
peer's module has `network(name)`, the peer's network with fresh weights, and a `loop` that trains or infers it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import NamedTuple

CLASSES = 1000
WEIGHT_DECAY, RATE, MOMENTUM = 1e-4, 0.02, 0.9  # of all; a rate at which the loss falls without a warm-up
SEED = 0
STEPS_IN_ALL = 4000  # that a loop can take: an epoch of ours has so many
PLAIN = "ours"
PEER_NORM = "bn"  # of the peers' networks where they have none with ours


class Setup(NamedTuple):
    """What one process is to run. `model` is our name of the network, `network` the contender's own."""

    contender: str
    model: str
    network: str
    norm: str
    precision: str
    batch_size: int
    img_size: int
    device: str
    threads: int
    infer: bool
    bandwidth: float  # bytes a second, and multiply-adds a second: what the limits are counted with
    multiply_adds: float
    flags: tuple[str, ...] = ()  # of ours, besides those of all


@dataclass(frozen=True)
class Contender:
    """One row. `eager` names the contender that computes the same by torch's operations one by one; empty if this one
    does."""

    name: str
    module: str
    how: str  # in words and flags, for the reader of the table
    flags: tuple[str, ...] = ()  # of ours, besides those of all
    eager: str = ""
    shards: int = 1  # batches in a step
    package: str | None = None

    @property
    def is_installed(self) -> bool:
        return self.package is None or find_spec(self.package) is not None

    @property
    def is_ours(self) -> bool:
        return self.module == "with_ours"


def _table(*rows: Contender) -> dict[str, Contender]:
    return {row.name: row for row in rows}


def _ours(name: str, *flags: str, eager: str = "", shards: int = 1) -> Contender:
    return Contender(name, "with_ours", f"train_dist.py {' '.join(flags)}", flags, eager, shards)


_EAGER = ("--compile", "off", "--kernels", "plain")
_COMPILED = ("--compile", "default", "--kernels", "plain")
_NCHW = ("--channels-last", "off")
OURS = _table(
    _ours(PLAIN, *_EAGER),
    _ours("ours-nchw", *_EAGER, *_NCHW),
    _ours("ours-triton", "--compile", "off", "--kernels", "triton", eager=PLAIN),
    _ours("ours-compile", *_COMPILED, eager=PLAIN),
    _ours("ours-compile-nchw", *_COMPILED, *_NCHW, eager="ours-nchw"),
    _ours("ours-compile-triton", "--compile", "default", "--kernels", "triton", eager=PLAIN),
    _ours("ours-graphs", "--compile", "reduce-overhead", "--kernels", "plain", eager=PLAIN),
)
EXTRAS = _table(
    _ours("ours+grad-accum-steps", *_EAGER, "--grad-accum-steps", "2", shards=2),
    _ours("ours+model-ema", *_EAGER, "--model-ema"),
    _ours("ours+clip-grad", *_EAGER, "--clip-grad", "1"),
    _ours("ours+label-smoothing", *_EAGER, "--label-smoothing", "0.1"),
    _ours("ours+mixup", *_EAGER, "--mixup", "0.2"),
)
_TIMM = "--opt sgd --weight-decay 1e-4 --smoothing 0 --pin-mem --channels-last"
PEERS = _table(
    Contender("timm", "with_timm", f"its train.py: {_TIMM}", package="timm"),
    Contender("timm-compile", "with_timm", f"the same with --torchcompile: {_TIMM}", eager="timm", package="timm"),
    Contender("torchvision", "with_torchvision", "its references/classification/train.py: --wd 1e-4"),
    Contender("torchvision-channels-last", "with_torchvision", "the same with network and images in channels_last"),
)
ALL: Mapping[str, Contender] = OURS | EXTRAS | PEERS

# What peers call a network of ours with one of its norms; what is not here they are not known to have.
TIMM_NAMES: dict[tuple[str, str], str] = {
    **{(f"resnet{depth}", "bn"): f"resnet{depth}" for depth in (18, 34, 50, 101, 152)},
    ("resnet50", "gn"): "resnet50_gn",
    ("resnext50_32x4d", "bn"): "resnext50_32x4d",
    ("resnext101_32x8d", "bn"): "resnext101_32x8d",
    ("wide_resnet50_2", "bn"): "wide_resnet50_2",
    ("mobilenet_v2", "bn"): "mobilenetv2_100",
    ("mobilenet_v3_large", "bn"): "mobilenetv3_large_100",
    ("mobilenet_v3_small", "bn"): "mobilenetv3_small_100",
    ("ghostnet", "bn"): "ghostnet_100",
    ("efficientnet_b0", "bn"): "efficientnet_b0",
    ("regnet_y_4gf", "bn"): "regnety_040",
    ("densenet121", "bn"): "densenet121",
}
TORCHVISION_NAMES: dict[tuple[str, str], str] = {
    (name, "bn"): name
    for name in (
        *(f"resnet{depth}" for depth in (18, 34, 50, 101, 152)),
        *("resnext50_32x4d", "resnext101_32x8d", "wide_resnet50_2", "mobilenet_v2", "mobilenet_v3_large"),
        *("mobilenet_v3_small", "efficientnet_b0", "densenet121", "shufflenet_v2_x1_0"),
    )
}
# The flags of an arithmetic; of peers, fp32 and tf32 are torch's settings.
PRECISIONS = {
    "with_timm": {"bf16": "--amp --amp-dtype bfloat16", "fp16": "--amp"},
    "with_torchvision": {"bf16": "--amp, with bfloat16, which its script has not", "fp16": "--amp"},
}


def told(setup: Setup) -> str:
    """All that a contender is run with, in flags."""
    row = ALL[setup.contender]
    own = f"--precision {setup.precision}" if row.is_ours else PRECISIONS[row.module].get(setup.precision, "")
    return " ".join(filter(None, (row.how, own)))


NAMES = {"with_timm": TIMM_NAMES, "with_torchvision": TORCHVISION_NAMES}
