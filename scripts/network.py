"""A network on its device, with its averages, and all that it takes to measure it."""

import dataclasses
import hashlib
from pathlib import Path

import torch
from torch import Tensor, nn

from data.batches import Normalizer
from data.loaders import Split, refuse_device
from data.transfer import Transfer
from models import build_model
from models.layers.fused import refuse_kernels
from models.pretrained import pretrained_file
from models.starting import start_from
from utils import distributed
from utils.averaging import build_average, build_equal_average
from utils.compiling import compile_networks, filled_up, how, is_compiled
from utils.config import Config, TrainingConfig
from utils.distributed import World
from utils.errors import UsageError
from utils.layout import LAYOUTS, lay_out
from utils.memory import keep_freed_memory
from utils.precision import Precision
from utils.state import HasState


def folder_of(config: Config) -> Path:
    """The folder of a run, whether it is there or not."""
    return Path(config.run.output_dir or f"runs/{config.model.model}-{config.model.norm}")


class Network:
    """A network on its device with fresh weights, the same on every rank, and what it takes to measure it."""

    def __init__(self, config: Config, world: World, val: Split):
        refuse_device(config.data, world.device)
        if world.device.type == "cpu":
            keep_freed_memory()
        self.config, self.world, self.val = config, world, val
        self.classes = _number_of_classes(config, val)
        self.precision = Precision(config.training, world.device)
        refuse_kernels(config.model, world.device, self.precision.storage)
        torch.manual_seed(config.training.seed)
        model = build_model(config.model, self.classes)
        self.model = model.to(world.device, self.precision.storage)
        lay_out(self.model, LAYOUTS[config.training.channels_last])
        self.average = build_average(self.model, config.training)
        self.equal_average = build_equal_average(self.model, config.schedule)
        self.normalize = self.normalizer(LAYOUTS[config.training.channels_last])
        self.transfer = Transfer(world.device)
        self.folder = folder_of(config)  # where what is measured is written
        self.val_batch_size = config.run.val_batch_size or config.training.batch_size

    def normalizer(self, layout: torch.memory_format) -> Normalizer:
        """What makes images of uint8 pixels, in this layout."""
        data = self.config.data
        return Normalizer(data.mean, data.std, self.world.device, self.precision.storage, layout)

    def settle(self, training: TrainingConfig) -> None:
        """Take over settings in which nothing is auto any more."""
        self.config = dataclasses.replace(self.config, training=training)
        layout = LAYOUTS[training.channels_last]
        for model in self._all():
            lay_out(model, layout)
        self.normalize = self.normalizer(layout)

    def compile(self) -> None:
        """Compile it, its averages and its normalization, as --compile says."""
        compile_networks(self._all(), self.config.training.compile)
        self.normalize.compile(how("default"))  # one kernel: a CUDA graph of its own would only own its output

    def logits(self, measured: nn.Module, images: Tensor) -> Tensor:
        """What `measured` makes of images (n, side, side, 3) uint8: (n, k)."""
        count = len(images)
        if is_compiled(self.config.training):
            images = filled_up(images, self.val_batch_size)
        with self.precision.autocast():
            return measured(self.normalize(images))[:count]

    def _all(self) -> list[nn.Module]:
        averages = [average.network for average in (self.average, self.equal_average) if average]
        return [self.model, *averages]

    def start_from_file(self) -> None:
        """The weights that --init-from or --pretrained names, which must be the same on every rank."""
        model, run = self.config.model, self.config.run
        path = pretrained_file(model.model) if run.pretrained else Path(run.init_from)
        start_from(self.model, model, path, run.init_head)
        with open(path, "rb") as file:
            distributed.agree(self.world, {"--init-from": hashlib.file_digest(file, "sha256").hexdigest()})
        if self.average:
            self.average.restart(self.model)

    def parts(self) -> dict[str, HasState]:
        """What of it a checkpoint holds, under timm's names."""
        average = {"state_dict_ema": self.average.network} if self.average else {}
        equal = {"state_dict_swa": self.equal_average} if self.equal_average else {}
        return {"state_dict": self.model, **average, **equal}

    def measured(self) -> dict[str, nn.Module]:
        """What a validation measures: the network, and what averages of its weights there are."""
        average = {"val_ema": self.average.network} if self.average else {}
        equal = {"val_swa": self.equal_average.network} if self.equal_average and self.equal_average.count else {}
        return {"val": self.model, **average, **equal}


def _number_of_classes(config: Config, split: Split) -> int:
    found, wanted = len(split.store.classes), config.model.num_classes
    if wanted and wanted < found:
        raise UsageError(f"--num-classes {wanted} is fewer than the {found} classes of {split.store.describe()}")
    return wanted or found
