"""The teacher of a run, found and checked before the run begins."""

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path

from torch import nn

from data.channels import IMAGENET
from models import build_model
from models.interop import load_weights, unwrap
from models.interop.files import load_file
from models.pretrained import pretrained_file
from models.starting import count_classes, settings_in
from utils.config import Config, DataConfig, LossConfig, ModelConfig
from utils.distillation import Criterion, Teacher, fingerprint, refuse_unused, taught, untaught
from utils.distributed import World, agree
from utils.errors import CheckpointError, UsageError
from utils.layout import LAYOUTS, lay_out
from utils.loss import build_loss
from utils.precision import Precision

Content = Mapping[str, object]


def build_teacher(config: Config, classes: int, precision: Precision, world: World) -> Teacher | None:
    """What --teacher asks for, on the device, the same on every rank. UsageError where it cannot teach this run."""
    refuse_unused(config.loss)
    if config.loss.teacher is None:
        return None
    path = _file(config.loss)
    content = load_file(path)
    settings = _settings(content, config.loss, path)
    _refuse_other_pixels({"config": {"data": IMAGENET}} if config.loss.teacher_pretrained else content, config.data)
    network = _loaded(content, settings, classes, path)
    known = fingerprint(_chosen(settings), network.state_dict())
    agree(world, {"a teacher of the sum": known})
    network = network.to(world.device, precision.storage)
    lay_out(network, LAYOUTS[config.training.channels_last])
    return Teacher(network, precision.autocast, known)


def _file(loss: LossConfig) -> Path:
    """The file of the teacher's weights."""
    teacher = Path(loss.teacher)
    given = [flag for flag in ("teacher_weights", "teacher_pretrained") if getattr(loss, flag)]
    if len(given) > 1:
        raise UsageError("--teacher-weights and --teacher-pretrained are both weights of the teacher; give one")
    if teacher.is_file() and given:
        told = f"--{given[0].replace('_', '-')}"
        raise UsageError(f"--teacher {teacher} is a file of weights itself; leave out {told}, or name a network")
    if not teacher.is_file() and not given:
        raise UsageError(
            f"--teacher {teacher} is no file, and a network by that name would know nothing; "
            "add --teacher-weights FILE or --teacher-pretrained"
        )
    if loss.teacher_pretrained:
        return pretrained_file(loss.teacher)
    return Path(loss.teacher_weights or loss.teacher)


def _settings(content: Content, loss: LossConfig, path: Path) -> ModelConfig:
    """Which network the teacher is: as its file says, or as it was named."""
    is_named = loss.teacher_pretrained or loss.teacher_weights is not None
    saved = content.get("config")
    if isinstance(saved, Mapping) and isinstance(saved.get("model"), Mapping):
        if is_named and saved["model"]["model"] != loss.teacher:
            raise UsageError(f"{path} says itself that it is of {saved['model']['model']}, not of {loss.teacher}")
        return replace(settings_in(content, ModelConfig(), path), num_classes=None)
    if not is_named:
        raise UsageError(f"{path} does not say of which network it is; add --teacher NAME --teacher-weights {path}")
    return ModelConfig(model=loss.teacher)


def _refuse_other_pixels(content: Content, data: DataConfig) -> None:
    """A teacher sees what the network sees: images that were normalized otherwise it would not know."""
    saved = content.get("config")
    theirs = saved.get("data", {}) if isinstance(saved, Mapping) else {}
    mean, std = tuple(theirs.get("mean") or data.mean), tuple(theirs.get("std") or data.std)
    if (mean, std) != (data.mean, data.std):
        numbers = f"--mean {' '.join(map(str, mean))} --std {' '.join(map(str, std))}"
        raise UsageError(f"the teacher knows images that were normalized otherwise than here; add {numbers}")


def _loaded(content: Content, settings: ModelConfig, classes: int, path: Path) -> nn.Module:
    network = build_model(settings, classes)
    try:
        weights = unwrap(content, settings.model)
        found = count_classes(settings, weights)
        if found == classes:
            load_weights(network, weights)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    if found != classes:
        raise UsageError(f"the teacher in {path} tells {found or 'no'} classes apart, and must tell {classes}")
    return network


def _chosen(settings: ModelConfig) -> dict[str, object]:
    """Settings that are not the default: one that a later version adds changes no sum."""
    return {f.name: getattr(settings, f.name) for f in fields(settings) if getattr(settings, f.name) != f.default}


def build_criterion(config: LossConfig, teacher: Teacher | None) -> Criterion:
    """A function of logits, targets and images to the loss of a step."""
    loss = build_loss(config)
    return taught(loss, teacher, config) if teacher else untaught(loss)
