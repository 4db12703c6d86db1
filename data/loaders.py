"""The store and the engine of each split, as the settings ask for them."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

import torch

from data.augmentation.chain import asked_for
from data.batches import Loader
from data.channels import with_channels
from data.dali_loader import DaliLoader
from data.native_loader import GET_IT, NativeLoader, is_built
from data.plan import Plan, training_plan, validation_plan
from data.source import Source
from data.stores import Store, check_classes, open_store
from data.synthetic import SyntheticLoader, SyntheticStore
from data.torch_loader import TorchLoader
from utils.config.data import DataConfig
from utils.errors import EnvironmentFault, UsageError

# Each engine from a source and the number of its threads, or processes.
ENGINES: dict[str, Callable[[Source, int], Loader]] = {
    "native": NativeLoader,
    "torch": TorchLoader,
    "dali-cpu": lambda source, threads: DaliLoader(source, threads, device_id=None),
    "dali-gpu": lambda source, threads: DaliLoader(source, threads, _gpu()),
}
VALIDATION_SHARE = 10  # synthetic: training images for each one of validation


class Split(NamedTuple):
    """Training or validation: where its images are, and what loads them."""

    store: Store
    loader: Loader


class Data(NamedTuple):
    """Both splits of a data set."""

    train: Split
    val: Split


def open_data(config: DataConfig, seed: int) -> Data:
    """Both splits. UsageError or DataError if one is missing or damaged or their classes differ."""
    data = Data(open_training(config, seed), open_validation(config, seed))
    check_classes(data.train.store, data.val.store)
    return data


def open_training(config: DataConfig, seed: int) -> Split:
    """The training images, cropped, flipped and augmented as drawn from `seed`."""
    plan = training_plan(config, seed)
    _refuse_augmentations(config)
    if config.loader == "synthetic":
        return _synthetic(config, seed, config.synthetic_images, plan.side(0))
    store = open_store(_folder(config), "train")
    if plan.augmentations:
        plan = training_plan(with_channels(config, store), seed)  # some paint with the mean colour
    return _real(config, store, plan)


def open_validation(config: DataConfig, seed: int, split: Literal["train", "val"] = "val") -> Split:
    """The images of validation; those of training need not exist. Only synthetic images depend on `seed`.

    With `split` "train" those of training, shown as in validation.
    """
    plan = validation_plan(config)
    if config.loader == "synthetic":
        return _synthetic(config, seed + 1, -(-config.synthetic_images // VALIDATION_SHARE), plan.side(0))
    return _real(config, open_store(_folder(config), split), plan)


def refuse_device(config: DataConfig, device: torch.device) -> None:
    """UsageError if the engine is one for a GPU but the network is to run on the CPU."""
    if config.loader == "dali-gpu" and device.type == "cpu":
        raise UsageError("--loader dali-gpu puts images on a GPU, but --device is cpu; use --loader dali-cpu")


def _refuse_augmentations(config: DataConfig) -> None:
    """UsageError for what the engine does not carry out."""
    flag = asked_for(config)
    here = flag or (
        "--repeated-aug" if config.repeated_aug > 1 else "--img-size-start" if config.img_size_start else ""
    )
    if flag and config.loader == "dali-gpu":
        raise UsageError(f"{flag} is done on the CPU, but --loader dali-gpu has its images on a GPU; use dali-cpu")
    if config.loader == "synthetic" and here:
        raise UsageError(f"{here} has no effect on --loader synthetic, which shows random pixels; leave it out")


def engine(config: DataConfig) -> str:
    """The engine that --loader asks for."""
    if config.loader == "auto":
        return "native" if is_built() else "torch"
    return config.loader


def missed(config: DataConfig) -> str:
    """What to add to the line about the loader where the best one was not built."""
    return "" if config.loader != "torch" or is_built() else f" (--loader native was not built here; {GET_IT})"


def _real(config: DataConfig, store: Store, plan: Plan) -> Split:
    source = Source(store, plan, config.on_bad_image == "skip")
    return Split(store, ENGINES[engine(config)](source, threads_of(config)))


def _gpu() -> int:
    """The number of this process's GPU. EnvironmentFault if there is none."""
    if not torch.cuda.is_available():
        raise EnvironmentFault("--loader dali-gpu decodes on a GPU, and torch finds none; use --loader dali-cpu")
    return int(os.environ.get("LOCAL_RANK", 0))


def threads_of(config: DataConfig) -> int:
    """--workers, or this process's share of the machine's cores."""
    return cores() if config.workers is None else config.workers


def cores() -> int:
    """This process's share of the machine's cores."""
    processes = os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("SLURM_NTASKS_PER_NODE") or "1"
    return max(1, len(os.sched_getaffinity(0)) // int(processes))


def _synthetic(config: DataConfig, seed: int, count: int, side: int) -> Split:
    store = SyntheticStore(seed, count, config.synthetic_classes)
    return Split(store, SyntheticLoader(store, seed, side))


def _folder(config: DataConfig) -> Path:
    if config.data_dir is None:
        raise UsageError("--data-dir is not given; name a folder or LMDB with train/ and val/, or --loader synthetic")
    return Path(config.data_dir)
