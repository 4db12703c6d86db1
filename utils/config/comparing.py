"""Which settings a resumed run may change, and which it changed without leave."""

from collections.abc import Iterable

from utils.config import Config
from utils.config.parsing import Settings, settings_of
from utils.errors import UsageError
from utils.registry import nearest

# Without effect on the weights that come out. Shards, grad_accum_steps, data_dir and the teacher are compared by what
# they stand for: V, the data set's fingerprint, and the sum of the teacher's weights.
THE_MACHINE = ("data_dir", "workers", "shards", "grad_accum_steps", "device", "threads", "timeout", "kernels")
PATIENCE = ("bad_image_budget",)
VALIDATION = ("val_resize", "val_crop", "val_batch_size", "val_interval", "evaluate", "class_accuracy")
WHAT_IS_TOLD = ("log_interval", "log_indices", "weight_stats", "profile", "model_info", "debug")
KEPT = ("output_dir", "save_every", "keep_epochs")
RESUMING = ("resume", "resume_allow")
TEACHER = ("teacher", "teacher_weights", "teacher_pretrained")
CONTRACT = ("top1", "tolerance", "best_of_run", "parameters", "source")
MAY_CHANGE = frozenset(THE_MACHINE + PATIENCE + VALIDATION + WHAT_IS_TOLD + KEPT + RESUMING + CONTRACT + TEACHER)


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
