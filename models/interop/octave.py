"""Octave ResNets in ModelZoo.pytorch's files, which keep one-frequency norms under two-frequency names.

Which norms have one frequency depends on the order inside blocks and on whether anything is low; a file's own names
tell: with both, the first block's first norm has low channels only where it is behind its convolution.
"""

_SIDES = {"W_HH": "high_high", "W_HL": "high_low", "W_LH": "low_high", "W_LL": "low_low"}
FREQUENCIES = (
    (r"\.h_bn\.", ".high."),
    (r"\.l_bn\.", ".low."),
    (r"^fc\.1\.", "fc."),  # behind a dropout
    *((rf"(?<![^.]){theirs}\.", f"{ours}.") for theirs, ours in _SIDES.items()),
)

# As `DIALECTS` of models.interop.families, which these are part of.
OCTAVE_DIALECTS = (
    (r"(module\.)?layer1\.0\.bn1\.l_bn\.", ((r"^(layer4\..*)\.h_bn\.", r"\1."), *FREQUENCIES)),
    (
        r"(module\.)?layer4\.0\.bn1\.l_bn\.",
        ((r"^(layer1\.0\.bn1|layer4\.(?!0\.bn1\.).*)\.h_bn\.", r"\1."), *FREQUENCIES),
    ),
    (r"(module\.)?layer1\.0\.bn1\.h_bn\.", ((r"\.h_bn\.", "."), *FREQUENCIES)),
)
