"""Who takes part in the benchmark: our engines, the peers, and the limits that no loader can pass.

A contender is a module of this package with a table `STREAMS`, from the name to a function that takes a `Setup` and
yields, for each batch that it loaded, how many images it holds, as long as it is asked. Each runs in a process of its
own, which imports that module alone, so that nobody's memory holds the libraries of the others.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import NamedTuple

PIXELS, FLOATS, NOTHING = "uint8", "float", "nothing"


class Setup(NamedTuple):
    """What a contender is to load; `images` in each pass, and some more before it."""

    path: str
    workers: int
    batch_size: int
    img_size: int
    images: int


@dataclass(frozen=True)
class Contender:
    """One row of the benchmark. `form` is that of the data it reads (see `data_forms`), `makes` what a batch holds."""

    name: str
    module: str
    form: str
    makes: str
    how: str  # in words, for the reader of the table
    package: str | None = None  # that it needs and that the project does not
    get: str = ""  # how to install that

    @property
    def is_installed(self) -> bool:
        """Whether the package can be found; it is not imported."""
        if self.package is None:
            return True
        try:
            return find_spec(self.package) is not None
        except ModuleNotFoundError:  # of a.b, a is missing
            return False


def _table(*rows: Contender) -> dict[str, Contender]:
    return {row.name: row for row in rows}


# Records that are smaller than the images, at quality 90: what follows an engine's name, and how large they are. The
# second are as those that FFCV's file holds as JPEGs.
SHRUNK = {"256": "shorter side 256", "500": "longer side 500"}


def with_shrunk(engines: Mapping[str, Contender]) -> dict[str, Contender]:
    """Each engine, and the same on smaller records."""
    rows = list(engines.values())
    for form, words in SHRUNK.items():
        rows += [
            replace(one, name=f"{one.name}-{form}", form=form, how=f"{one.how}; {words}") for one in engines.values()
        ]
    return _table(*rows)


CROP_LIMIT, WHOLE_LIMIT = "crop limit", "whole limit"
LIMITS = _table(
    Contender(CROP_LIMIT, "limits", "lmdb", NOTHING, "libjpeg-turbo decodes the rows and columns of the crops"),
    Contender(WHOLE_LIMIT, "limits", "lmdb", NOTHING, "libjpeg-turbo decodes whole images"),
)
ENGINES = with_shrunk(
    _table(
        Contender("native", "engines", "lmdb", PIXELS, "ours, C threads"),
        Contender("torch", "engines", "lmdb", PIXELS, "ours, Pillow in processes"),
        Contender("dali-cpu", "engines", "lmdb", PIXELS, "ours, DALI's decoder"),
        Contender("dali-gpu", "engines", "lmdb", PIXELS, "ours, DALI on the GPU"),
    )
)
TORCHVISION = Contender("torchvision", "with_torchvision", "folder", FLOATS, "ImageFolder, PIL, DataLoader")
TIMM = Contender("timm", "with_timm", "folder", FLOATS, "create_loader", "timm", "pip install timm")
DALI = Contender("dali", "with_dali", "folder", FLOATS, "its file reader", "nvidia.dali", "pip install -e '.[dali]'")
WEBDATASET = Contender(
    "webdataset", "with_webdataset", "shards", FLOATS, "tar shards, PIL", "webdataset", "pip install webdataset"
)
FFCV = Contender(
    "ffcv",
    "with_ffcv",
    "beton",
    FLOATS,
    "its file, half JPEG, half raw pixels",
    "ffcv",
    "apt install g++ pkg-config libopencv-dev libturbojpeg0-dev, then pip install ffcv",
)
PEERS = _table(
    TORCHVISION,
    replace(TORCHVISION, name="torchvision-uint8", makes=PIXELS),
    replace(TORCHVISION, name="torchvision-v2", how="ImageFolder, decode_image, v2 on tensors, DataLoader"),
    replace(TORCHVISION, name="torchvision-v2-uint8", how="as torchvision-v2", makes=PIXELS),
    TIMM,
    replace(TIMM, name="timm-uint8", how="create_loader, without its prefetcher", makes=PIXELS),
    FFCV,
    replace(FFCV, name="ffcv-uint8", makes=PIXELS),
    replace(FFCV, name="ffcv-jpeg", form="beton-jpeg", how="its file, all JPEG"),
    replace(FFCV, name="ffcv-jpeg-uint8", form="beton-jpeg", how="its file, all JPEG", makes=PIXELS),
    WEBDATASET,
    replace(WEBDATASET, name="webdataset-uint8", makes=PIXELS),
    DALI,
    replace(DALI, name="dali-uint8", makes=PIXELS),
)
ALL: Mapping[str, Contender] = LIMITS | ENGINES | PEERS
