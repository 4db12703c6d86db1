"""RegNets in ModelZoo.pytorch's files (seeds.md 7), whose blocks are numbered lists."""

_BLOCK = {"0": "a.0", "1": "a.1", "3": "b.0", "4": "b.1", "7": "c.0", "8": "c.1"}
_BLOCK |= {"6.block.1": "se.fc1", "6.block.3": "se.fc2"}

REGNET = (
    (r"^stem\.block\.", "stem."),
    (r"^head\.block\.2\.", "fc."),
    *((rf"^(stage\.\d+\.\d+)\.block\.{theirs}\.", rf"\1.f.{ours}.") for theirs, ours in _BLOCK.items()),
    (r"\.skip_connection\.", ".proj."),
    *((rf"^stage\.{i}\.(\d+)\.", rf"trunk_output.block{i + 1}.block{i + 1}-\1.") for i in range(4)),
)
