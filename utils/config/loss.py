"""What the network is asked for."""

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass
from tyro.conf import arg

from utils.config.strict import STRICT

Alpha = Annotated[float, Field(ge=0)]
Probability = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True, config=STRICT)
class LossConfig:
    """What the network is asked for."""

    label_smoothing: Annotated[float, Field(ge=0, lt=1), arg(aliases=["--smoothing"])] = 0.0
    """share of the target spread evenly over all classes (torch's definition)"""
    bce: Annotated[bool, arg(aliases=["--bce-loss"])] = False
    """binary cross-entropy of each class for itself, mean over images and classes, in the place of cross-entropy"""
    bce_sum: bool = False
    """bce: sum over the classes, mean over images only"""
    bce_threshold: Annotated[float | None, Field(ge=0, lt=1), arg(aliases=["--bce-target-thresh"])] = None
    """bce: a class with more than this share of a mixed target counts as 1, others as 0"""
    mixup: Annotated[Alpha, arg(aliases=["--mixup-alpha"])] = 0.0
    """alpha of mixup's Beta(alpha, alpha); 0 is off"""
    cutmix: Annotated[Alpha, arg(aliases=["--cutmix-alpha"])] = 0.0
    """alpha of CutMix's Beta(alpha, alpha); 0 is off"""
    mix_switch_prob: Annotated[Probability, arg(aliases=["--mixup-switch-prob"])] = 0.5
    """mixup and CutMix both on: probability that it is CutMix"""
    mix_prob: Annotated[Probability, arg(aliases=["--mixup-prob", "--cutmix-prob"])] = 1.0
    """probability that anything is mixed at all"""
    mix_per: Annotated[Literal["batch", "image"], arg(aliases=["--mixup-mode"])] = "batch"
    """what is drawn anew for each image, or once for a shard: share, box, and which of both it is"""
    mixup_off_epoch: Annotated[int, Field(ge=0), arg(aliases=["--mix-off-epoch"])] = 0
    """epochs after which nothing is mixed any more; 0 mixes to the end"""
    teacher: Annotated[str | None, arg(aliases=["--teacher-model", "--kd-model-name"])] = None
    """distillation: a checkpoint of this trainer, or a network's name beside one of the next two"""
    teacher_weights: Annotated[str | None, arg(aliases=["--teacher-path"])] = None
    """distillation: file of the teacher's weights: of this trainer, torchvision, timm, an ancestor; safetensors"""
    teacher_pretrained: bool = False
    """distillation: the teacher has torchvision's weights"""
    distill_alpha: Annotated[float, Field(gt=0, le=1), arg(aliases=["--distillation-alpha"])] = 0.5
    """distillation: share of the teacher's part in the loss"""
    distill_temperature: Annotated[float, Field(gt=0), arg(aliases=["--distillation-tau"])] = 4.0
    """distillation: what logits of both networks are divided by"""

    @property
    def mixes(self) -> bool:
        """Whether images are mixed at all."""
        return bool(self.mixup or self.cutmix) and self.mix_prob > 0
