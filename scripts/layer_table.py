"""What networks cost, found on the meta device: no memory, no data. Prints what --model-info asks for."""

import torch

from models import build_model
from utils.complexity import Complexity, measure
from utils.config import Config, ModelConfig

CLASSES = 1000  # ImageNet's, where nothing says how many


def complexity(config: ModelConfig, classes: int, size: int) -> Complexity:
    """What the network of `config` costs for one image of `size` x `size` pixels."""
    with torch.device("meta"):
        model = build_model(config, classes)
    return measure(model, size, size)


def layer_table(config: Config) -> str:
    """The layers of a run's network, with 1000 classes where --num-classes says nothing: no data set is opened."""
    size, classes = config.data.img_size, config.model.num_classes or CLASSES
    title = f"{config.model.model}, norm {config.model.norm}, {classes} classes, one image of {size} x {size} pixels"
    return f"{title}\n{complexity(config.model, classes, size).table()}"
