"""Mobile networks in ModelZoo.pytorch's files (seeds.md 7); torchvision's names, where it has the network, are ours."""

from itertools import accumulate

from models.fairnas import FAIRNASES
from models.mobilenet import MOBILENETS, MobileNetV3Shape
from models.proxyless import PROXYLESSES

Rows = tuple[tuple[str, str], ...]

STEM: Rows = ((r"^first_(block|conv)\.([01])\.", r"features.0.\2."),)
CLASSIFIER: Rows = ((r"^output\.", "classifier.1."),)


def _numbered(theirs: str, blocks: int, first: int) -> Rows:
    """`blocks` modules, of which ours are numbered from `first` on."""
    return tuple((rf"^{theirs}\.{i}\.", f"features.{first + i}.") for i in range(blocks))


def _inside(names: dict[str, str]) -> Rows:
    """Their name of a layer inside a block -> ours."""
    return tuple((rf"^(features\.\d+)\.{theirs}\.", rf"\1.{ours}.") for theirs, ours in names.items())


V1 = (
    *STEM,
    *_numbered("mb_block", 13, first=1),
    *_inside({"seq.0": "0.0", "seq.1": "0.1", "seq.3": "1.0", "seq.4": "1.1"}),
    *CLASSIFIER,
)

_FIRST = {"3": "0.0", "4": "0.1", "6": "1", "7": "2"}  # the block without expansion, which they count to the stem
_LISTED = {"seq.0": "0.0", "seq.1": "0.1", "seq.3": "1.0", "seq.4": "1.1", "seq.6": "2", "seq.7": "3"}
_LISTED |= {"conv1": "0.0", "bn1": "0.1", "conv2": "1.0", "bn2": "1.1", "conv3": "2", "bn3": "3"}


def _listed(blocks: int) -> Rows:
    """MobileNetV2, FairNas and Proxyless with `blocks` inverted residuals, of which the first does not expand."""
    return (
        *STEM,
        *((rf"^first_block\.{theirs}\.", f"features.1.conv.{ours}.") for theirs, ours in _FIRST.items()),
        *_numbered("mb_blocks?", blocks - 1, first=2),
        *_inside({theirs: f"conv.{ours}" for theirs, ours in _LISTED.items()}),
        (r"^last_block\.", f"features.{blocks + 1}."),
        *CLASSIFIER,
    )


def _v3(shape: MobileNetV3Shape) -> Rows:
    """MobileNetV3, whose blocks count the layers that they have."""
    rows = [*STEM, *_numbered("mb_block", len(shape.blocks), first=1)]
    channels = shape.stem
    for i, (c_mid, c_out, _, _, squeezed, _) in enumerate(shape.blocks, start=1):
        at = 0  # their number of the next layer
        steps = [*["layer"] * (1 if c_mid == channels else 2), *["squeeze"] * squeezed, "layer"]
        for j, step in enumerate(steps):
            theirs, ours = rf"^features\.{i}\.seq\.", f"features.{i}.block.{j}."
            if step == "squeeze":
                rows += [(rf"{theirs}{at}\.out\.0\.", f"{ours}fc1."), (rf"{theirs}{at}\.out\.2\.", f"{ours}fc2.")]
                at += 1
            else:
                rows += [(rf"{theirs}{at}\.", f"{ours}0."), (rf"{theirs}{at + 1}\.", f"{ours}1.")]
                at += 3  # convolution, norm, activation
        channels = c_out
    last = f"features.{len(shape.blocks) + 1}."
    hidden = ((r"^last_block\.4\.", "classifier.0."), (r"^last_block\.", last), (r"^output\.", "classifier.3."))
    return (*rows, *hidden)


_EXPANDED = {"layer1": "0", "layer2": "1", r"se_layer\.se\.1": "2.fc1", r"se_layer\.se\.3": "2.fc2", "layer3": "3"}
_NOT_EXPANDED = {"layer2": "0", r"se_layer\.se\.1": "1.fc1", r"se_layer\.se\.3": "1.fc2", "layer3": "2"}

EFFICIENTNET = (
    *STEM,
    *_numbered("blocks", 7, first=1),
    *((rf"^(features\.1\.\d+)\.{theirs}\.", rf"\1.block.{ours}.") for theirs, ours in _NOT_EXPANDED.items()),
    *((rf"^(features\.\d+\.\d+)\.{theirs}\.", rf"\1.block.{ours}.") for theirs, ours in _EXPANDED.items()),
    (r"^last_process\.", "features.8."),
    *CLASSIFIER,
)

_GHOST = {
    **{f"ghost{i}.primary_conv": f"block.ghost{i}.primary" for i in (1, 2)},
    **{f"ghost{i}.cheap_operation": f"block.ghost{i}.cheap" for i in (1, 2)},
    "dw_conv": "block.depthwise",
    r"se\.block\.1": "block.se.fc1",
    r"se\.block\.3": "block.se.fc2",
    # Only before the name of a tensor: ours are shortcut.0.0 and so on.
    **{rf"shortcut\.{i}(?=\.[a-z])": f"shortcut.{i // 2}.{i % 2}" for i in range(4)},
}


def _ghost(stages: tuple[int, ...], *, nested: bool) -> Rows:
    """GhostNets, whose blocks are one list or one a stage (`nested`); the last convolution and norm end the list."""
    if nested:
        firsts = accumulate(stages, initial=1)
        blocks = [row for i, n in enumerate(stages) for row in _numbered(rf"stage\.{i}", n, first=next(firsts))]
    else:
        blocks = [*_numbered("stage", sum(stages), first=1)]
    last = len(stages) if nested else sum(stages)
    return (
        (r"^stem\.stem\.", "features.0."),
        *((rf"^stage\.{last + i}\.", f"features.{sum(stages) + 1}.{i}.") for i in (0, 1)),
        *blocks,
        *_inside(_GHOST),
        (r"^head\.head\.1\.", "classifier.0."),
        (r"^head\.head\.5\.", "classifier.3."),
    )


# (pattern of our network's name, rows).
MOBILE: tuple[tuple[str, Rows], ...] = (
    ("mobilenet_v1", V1),
    *((name, _v3(row)) for name, row in MOBILENETS.items() if isinstance(row, MobileNetV3Shape)),
    *((name, _listed(len(row.blocks))) for name, row in (FAIRNASES | PROXYLESSES).items()),
    ("mobilenet_v2", _listed(len(MOBILENETS["mobilenet_v2"].blocks))),
    ("efficientnet_.*", EFFICIENTNET),
    ("ghostnet", _ghost((16,), nested=False)),
    ("ghostnet600", _ghost((19,), nested=False)),
    ("ghostnet_a", _ghost((1, 1, 1, 1, 2, 1, 3, 3, 1, 5), nested=True)),
)
