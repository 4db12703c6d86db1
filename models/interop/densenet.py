"""DenseNets: torchvision's older files, and the Weight Standardization ancestor's CIFAR networks (seeds.md 7)."""

LAYERS = 31  # in the deepest block of a CIFAR network that has files

DENSENET = ((r"(\.denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2."),)

CIFAR_DENSENET = (
    (r"^conv1\.", "features.conv0."),
    (r"^bn\.", "features.norm5."),
    (r"^fc\.", "classifier."),
    *((rf"^dense(\d)\.{i}\.", rf"features.denseblock\1.denselayer{i + 1}.") for i in range(LAYERS)),
    (r"(\.denselayer\d+\.)bn(\d)\.", r"\1norm\2."),
    (r"^trans(\d)\.bn1\.", r"features.transition\1.norm."),
    (r"^trans(\d)\.conv1\.", r"features.transition\1.conv."),
)
