"""Names of tricks and the flags that each of them is. A new trick is a row here."""

from collections.abc import Sequence

from utils.errors import UsageError
from utils.registry import nearest

BASELINE = "baseline"

# Strengths are those of the paper or of the ancestor's ablation, seeds.md 5.7.
TRICKS: dict[str, str] = {
    # loss and labels
    "label-smoothing": "--label-smoothing 0.1",
    "bce": "--bce",
    "mixup": "--mixup 0.2",
    "cutmix": "--cutmix 1",
    "mixup-cutmix": "--mixup 0.2 --cutmix 1",
    # augmentation
    "color-jitter": "--color-jitter 0.4",
    "grayscale": "--grayscale 0.2",
    "lighting": "--lighting 0.1",
    "rotation": "--rotation 15",
    "autoaugment": "--auto-augment aa",
    "randaugment": "--auto-augment ra",
    "trivialaugment": "--auto-augment ta",
    "augmix": "--auto-augment augmix",
    "three-augment": "--three-augment",
    "cutout": "--cutout square",
    "random-erasing": "--random-erasing 0.25",
    "repeated-aug": "--repeated-aug 3",
    # regularisation and averages
    "no-wd-bias": "--no-wd-bias",
    "el2": "--norm ws_bn --el2",
    "dropout": "--dropout 0.3",
    "drop-path": "--drop-path 0.1",
    "drop-block": "--drop-block 0.1",
    "zero-gamma": "--zero-gamma",
    "gradient-centralization": "--gradient-centralization conv",
    "ghost-batch": "--ghost-batch 32",
    "precise-bn": "--precise-bn 50",
    "model-ema": "--model-ema",
    "model-ema-warmup": "--model-ema --model-ema-warmup power",
    # optimizers and schedules
    "nesterov": "--nesterov",
    "lookahead": "--lookahead 5 0.5",
    "sam": "--sam 0.05",
    "clip-grad": "--clip-grad 1",
    "agc": "--clip-grad 0.01 --clip-mode agc",
    "linear": "--sched linear",
    "no-warmup": "--warmup-epochs 0",
    "per-epoch": "--sched-per-epoch",
    # networks
    "pws": "--norm pws",
    "ws": "--norm ws",
    "ws-bn": "--norm ws_bn",
    "gn": "--norm gn",
    "in": "--norm in",
    "syncbn": "--norm syncbn",
    "switchnorm": "--norm switchnorm",
    "evonorm": "--norm evonorm_b0",
    "frn": "--norm frn",
    "relu6": "--act relu6",
    "swish": "--act swish",
    "hard-swish": "--act hard-swish",
    "leaky-relu": "--act leaky-relu",
    "prelu": "--act prelu",
    "mish": "--act mish",
    "se": "--attention se",
    "cbam": "--attention cbam",
    "sge": "--attention sge",
    "gc": "--attention gc",
    "srm": "--attention srm",
    "eca": "--attention eca",
    "pre-activation": "--block-order pre",
    "deep-stem": "--stem deep",
    "avg-down": "--avg-down",
    "blur": "--downsampling blur",
    "lip": "--downsampling lip",
    "bf16": "--precision bf16",
}


def flags_of(names: str) -> dict[str, list[str]]:
    """Trick -> its words on the command line, in the order of the list that --tricks was given."""
    chosen = [name.strip() for name in names.split(",") if name.strip()]
    if not chosen:
        raise UsageError(f"--tricks names none; there are {', '.join(TRICKS)}")
    _refuse(chosen)
    return {name: TRICKS[name].split() for name in chosen}


def _refuse(chosen: Sequence[str]) -> None:
    for name in chosen:
        if name not in TRICKS:
            guess = nearest(name, TRICKS)
            hint = f"did you mean {guess}?" if guess else f"there are {', '.join(TRICKS)}"
            raise UsageError(f"--tricks {name}: there is no such trick; {hint}")
        if chosen.count(name) > 1:
            raise UsageError(f"--tricks names {name} twice; once is enough")
