"""ProxylessNAS for GPU, CPU and mobile phones (Cai et al., arXiv 1812.00332): MobileNetV2 with blocks found by search."""

from models.mobilenet import MobileNetV2Shape

PAPER = "arXiv 1812.00332"

# Blocks as (c_mid over c_in, c_out, kernel size, stride).
PROXYLESSES = {
    "proxyless_gpu": MobileNetV2Shape(
        stem=40,
        blocks=(
            (1, 24, 3, 1),
            (3, 32, 5, 2),
            *((3, 56, 7, 2), (3, 56, 3, 1)),
            *((6, 112, 7, 2), (3, 112, 5, 1)),
            *((6, 128, 5, 1), (3, 128, 3, 1), (3, 128, 5, 1)),
            *((6, 256, 7, 2), (6, 256, 7, 1), (6, 256, 7, 1), (6, 256, 5, 1)),
            (6, 432, 7, 1),
        ),
        last=1728,
        paper=PAPER,
    ),
    "proxyless_cpu": MobileNetV2Shape(
        stem=40,
        blocks=(
            (1, 24, 3, 1),
            *((6, 32, 3, 2), (3, 32, 3, 1), (3, 32, 3, 1), (3, 32, 3, 1)),
            *((6, 48, 3, 2), (3, 48, 3, 1), (3, 48, 3, 1), (3, 48, 5, 1)),
            *((6, 88, 3, 2), (3, 88, 3, 1)),
            *((6, 104, 5, 1), (3, 104, 3, 1), (3, 104, 3, 1), (3, 104, 3, 1)),
            *((6, 216, 5, 2), (3, 216, 5, 1), (3, 216, 5, 1), (3, 216, 3, 1)),
            (6, 360, 5, 1),
        ),
        last=1432,
        paper=PAPER,
    ),
    "proxyless_mobile": MobileNetV2Shape(
        stem=32,
        blocks=(
            (1, 16, 3, 1),
            *((3, 32, 5, 2), (3, 32, 3, 1)),
            *((3, 40, 7, 2), (3, 40, 3, 1), (3, 40, 5, 1), (3, 40, 5, 1)),
            *((6, 80, 7, 2), (3, 80, 5, 1), (3, 80, 5, 1), (3, 80, 5, 1)),
            *((6, 96, 5, 1), (3, 96, 5, 1), (3, 96, 5, 1), (3, 96, 5, 1)),
            *((6, 192, 7, 2), (6, 192, 7, 1), (3, 192, 7, 1), (3, 192, 7, 1)),
            (6, 320, 7, 1),
        ),
        last=1280,
        paper=PAPER,
    ),
}
