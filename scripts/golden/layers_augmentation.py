"""Golden augmentations: PytorchInsight's cutout, a square at the same place of a whole normalized batch."""

from collections.abc import Mapping

import numpy as np
import torch

from data.augmentation.cutout import cover_square
from scripts.golden.layer import Meta, Outputs


def cutout_outputs(meta: Meta, arrays: Mapping[str, np.ndarray]) -> Outputs:
    """The batch after cutout, where the mean colour is zero; `cx` of the golden file counts rows."""
    images = torch.from_numpy(arrays["in.x"].copy())
    return {"out.y": cover_square(images, meta["cx"], meta["cy"], meta["cutout_size"], 0.0)}
