"""ShuffleNets V2 in the PytorchInsight ancestor's files (seeds.md 7): units in one list, spelled as there."""

FIRST, LAST = {2: 0, 3: 4, 4: 12}, 16  # of each stage, its first unit in the list; their number

SHUFFLENET = (
    *(
        (rf"^features\.{unit}\.", rf"stage{stage}.{unit - first}.")
        for stage, first in FIRST.items()
        for unit in range(first, FIRST.get(stage + 1, LAST))
    ),
    (r"\.banch([12])\.", r".branch\1."),
    (r"^conv_last\.", "conv5."),
    (r"^classifier\.0\.", "fc."),
    (r"(?<![^.])se\.fc\.0\.", "attention.fc1."),
    (r"(?<![^.])se\.fc\.2\.", "attention.fc2."),
    (r"(?<![^.])gl\.", "attention."),
)
