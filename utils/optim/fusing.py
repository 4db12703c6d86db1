"""Fused optimizers of NVIDIA's apex, told from the other package of that name by what it holds.

PyPI's `apex` is a toolkit for Pyramid, a web framework, and is what `pip install apex` gets; NVIDIA's is built.
"""

import importlib.metadata
import importlib.util
from pathlib import Path
from types import ModuleType

from utils.errors import EnvironmentFault, UsageError
from utils.optim.guarding import Facts, Guarded

HOW_TO_BUILD = (
    "git clone https://github.com/NVIDIA/apex && cd apex && "
    "APEX_CPP_EXT=1 APEX_CUDA_EXT=1 pip install -v --no-build-isolation ."
)
CLASSES = {"sgd": "FusedSGD", "nesterov": "FusedSGD", "adamw": "FusedAdam", "lamb": "FusedLAMB"}


def apex_optimizers() -> ModuleType:
    """NVIDIA's `apex.optimizers`. EnvironmentFault if there is none, or another apex, or one without its kernels."""
    spec = importlib.util.find_spec("apex")
    if spec is None:
        raise EnvironmentFault(f"--fused apex needs NVIDIA's apex, which is not installed; build it: {HOW_TO_BUILD}")
    if not any((Path(place) / "optimizers").is_dir() for place in spec.submodule_search_locations or ()):
        told = f"the apex that is installed{_version()} is not NVIDIA's: it has no optimizers, as PyPI's, for Pyramid"
        raise EnvironmentFault(f"--fused apex: {told}; pip uninstall apex, then {HOW_TO_BUILD}")
    if importlib.util.find_spec("amp_C") is None:
        raise EnvironmentFault(f"--fused apex: NVIDIA's apex was built without its kernels (amp_C); {HOW_TO_BUILD}")
    try:
        import apex.optimizers
    except (ImportError, RuntimeError) as error:
        raise EnvironmentFault(f"--fused apex: NVIDIA's apex does not import ({error}); {HOW_TO_BUILD}") from error
    missing = [name for name in sorted({*CLASSES.values()}) if not hasattr(apex.optimizers, name)]
    if missing:
        raise EnvironmentFault(f"--fused apex: its apex.optimizers has no {', '.join(missing)}; {HOW_TO_BUILD}")
    return apex.optimizers


def _version() -> str:
    try:
        return f" ({importlib.metadata.version('apex')})"
    except importlib.metadata.PackageNotFoundError:
        return ""


def apex_optimizer(name: str, groups: list[Facts], settings: Facts) -> Guarded:
    """NVIDIA's optimizer for --opt `name`, with steps that are not finite taken back around it.

    FusedLAMB counts its steps on the host: those taken back count for its unbiased averages.
    """
    if name not in CLASSES:
        raise UsageError(f"--fused apex: NVIDIA's apex has no {name}; use --fused auto, or --opt {' '.join(CLASSES)}")
    kind = getattr(apex_optimizers(), CLASSES[name])
    own = {"adamw": {"capturable": True}, "lamb": {"max_grad_norm": float("inf"), "use_nvlamb": True}}
    try:
        return Guarded(kind(groups, lr=0.0, **settings, **own.get(name, {})))
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise EnvironmentFault(f"--fused apex: {CLASSES[name]} does not start: {reason}; use --fused auto") from error
