"""ResNeSts in ModelZoo.pytorch's files (seeds.md 7), whose split attention is a module in its convolution."""

RESNEST = ((r"(?<![^.])spaconv\.", ""), (r"\.conv2\.bn\.", ".conv2.bn0."))
