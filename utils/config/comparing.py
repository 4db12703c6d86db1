"""Which settings a resumed run may change, and which it changed without leave."""

from collections.abc import Iterable

from utils.config import Config
from utils.config.parsing import Settings, settings_of
from utils.errors import UsageError
from utils.registry import nearest

# Without effect on the weights that come out. Shards, grad_accum_steps and data_dir are compared by what they stand
# for: V, and the data set's fingerprint.
THE_MACHINE = ("data_dir", "workers", "shards", "grad_accum_steps", "device", "threads", "timeout")
PATIENCE = ("bad_image_budget",)
VALIDATION = ("val_resize", "val_crop", "val_batch_size", "val_interval", "evaluate", "class_accuracy")
WHAT_IS_TOLD = ("output_dir", "save_every", "keep_epochs", "log_interval", "log_indices", "model_info", "debug")
RESUMING = ("resume", "resume_allow")
MAY_CHANGE = frozenset(THE_MACHINE + PATIENCE + VALIDATION + WHAT_IS_TOLD + RESUMING)


def refuse_unknown(names: Iterable[str]) -> None:
    """UsageError for a name in --resume-allow that is no setting."""
    known = {"shards", "data"} | {name for section in settings_of(Config()).values() for name in section}
    for name in names:
        if name not in known:
            raise UsageError(f"--resume-allow {name}: there is no such setting; did you mean {nearest(name, known)}?")


def changed_settings(saved: Settings, config: Config) -> dict[str, tuple[object, object]]:
    """Settings that differ from the saved ones and matter: name -> (was, is). --resume-allow takes names out."""
    now = settings_of(config)
    return {
        name: (was, now[section][name])
        for section, values in saved.items()
        for name, was in values.items()
        if name in now.get(section, {})
        and now[section][name] != was
        and name not in MAY_CHANGE
        and name not in config.run.resume_allow
    }
