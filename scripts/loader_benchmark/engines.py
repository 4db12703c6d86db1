"""Our engines, under our order and plan, checksums and labels included: as a training loads."""

import sys
from collections.abc import Callable, Iterator
from functools import partial

from data.loaders import open_training
from data.order import training_order, training_requests
from scripts.loader_benchmark.contenders import ENGINES, SHRUNK, Setup
from utils.config.data import DataConfig

SEED = 0


def settings(setup: Setup, engine: str = "auto") -> DataConfig:
    """A training's settings. The crop is named, for small sides have another one by themselves."""
    return DataConfig(
        data_dir=setup.path,
        loader=engine,
        workers=setup.workers,
        img_size=setup.img_size,
        train_crop="random-resized",
    )


def _stream(engine: str, setup: Setup) -> Iterator[int]:
    config = settings(setup, engine)
    store, loader = open_training(config, SEED)
    order = training_order(config, SEED, len(store))
    for batch in loader.batches(training_requests(order, setup.batch_size, 1, range(1), 0, sys.maxsize)):
        yield len(batch.labels)


def _engine(name: str) -> str:
    """The engine that a contender is, whatever records it loads."""
    for form in SHRUNK:
        name = name.removesuffix(f"-{form}")
    return name


STREAMS: dict[str, Callable[[Setup], Iterator[int]]] = {name: partial(_stream, _engine(name)) for name in ENGINES}
