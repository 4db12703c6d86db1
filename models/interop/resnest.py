"""ResNeSts in ModelZoo.pytorch's files (seeds.md 7), whose split attention is a module in its convolution."""

# timm's files, whose averages before the projections of shortcuts are counted.
RESNEST_OF_TIMM = ((r"\.downsample\.1\.", ".downsample.0."), (r"\.downsample\.2\.", ".downsample.1."))

RESNEST = ((r"(?<![^.])spaconv\.", ""), (r"\.conv2\.bn\.", ".conv2.bn0."))
