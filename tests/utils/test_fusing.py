"""NVIDIA's apex told from PyPI's, by stubs of both layouts."""

import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from utils.config import OptimConfig
from utils.errors import EnvironmentFault, UsageError
from utils.optim import build_optimizer, set_rate

ROOT = Path(__file__).resolve().parents[2]

# What PyPI's wheel of apex 0.9.10dev holds, as far as anyone looks: it imports what nobody here has.
PYRAMIDS = {
    "apex/__init__.py": "from pyramid_mailer import mailer_factory_from_settings\n",
    "apex/lib/__init__.py": "",
    "apex/lib/libapex.py": "",
    "apex-0.9.10.dev0.dist-info/METADATA": "Metadata-Version: 2.1\nName: apex\nVersion: 0.9.10.dev0\n",
}
# NVIDIA's: amp_C beside apex.optimizers, whose classes count how often they are made.
SGD = """import torch
class FusedSGD(torch.optim.SGD):
    def __init__(self, params, lr, momentum=0, dampening=0, weight_decay=0, nesterov=False):
        super().__init__(params, lr, momentum, dampening, weight_decay, nesterov)
class FusedAdam(torch.optim.AdamW):
    def __init__(self, params, lr, bias_correction=True, betas=(), eps=0, adam_w_mode=True, capturable=False):
        super().__init__(params, torch.tensor(lr), betas, eps)
class FusedLAMB(torch.optim.Optimizer):
    def __init__(self, params, lr, betas=(), eps=0, max_grad_norm=1.0, use_nvlamb=False):
        raise RuntimeError("apex.optimizers.FusedLAMB requires cuda extensions")
"""
NVIDIAS = {"apex/__init__.py": "", "apex/optimizers/__init__.py": SGD, "amp_C.py": ""}


def lay(files: dict[str, str], folder: Path) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.fixture(autouse=True)
def no_apex_yet() -> Iterator[None]:
    """Each test with a fresh idea of what is installed."""
    before = list(sys.path)
    yield
    sys.path[:] = before
    for name in [name for name in sys.modules if name.split(".")[0] in ("apex", "amp_C")]:
        del sys.modules[name]
    importlib.invalidate_caches()


def install(files: dict[str, str], folder: Path) -> None:
    sys.path.insert(0, str(lay(files, folder)))
    importlib.invalidate_caches()


def built(fused: str, opt: str = "sgd") -> tuple[object, nn.Parameter]:
    weight = nn.Parameter(torch.ones(2, 3))
    config = OptimConfig(opt=opt, fused=fused, lr=0.1)
    return build_optimizer([{"params": [weight], "weight_decay": 0.01}], config), weight


def test_pypis_apex_is_refused_by_name_and_auto_never_needs_any(tmp_path: Path) -> None:
    install(PYRAMIDS, tmp_path)
    with pytest.raises(
        EnvironmentFault, match=r"apex that is installed \(0.9.10.dev0\) is not NVIDIA's: .* Pyramid; .*git"
    ):
        built("apex")
    for fused in ("auto", "torch", "off"):
        built(fused)
    assert EnvironmentFault.exit_code == 7


def test_no_apex_is_told_with_how_to_build_it() -> None:
    if importlib.util.find_spec("apex"):
        pytest.skip("an apex is installed")
    with pytest.raises(EnvironmentFault, match="needs NVIDIA's apex, which is not installed; build it: git clone"):
        built("apex")


def test_nvidias_apex_without_its_kernels_is_refused(tmp_path: Path) -> None:
    install({name: text for name, text in NVIDIAS.items() if name != "amp_C.py"}, tmp_path)
    with pytest.raises(EnvironmentFault, match=r"was built without its kernels \(amp_C\)"):
        built("apex")


def test_nvidias_apex_is_used(tmp_path: Path) -> None:
    install(NVIDIAS, tmp_path)
    optimizer, weight = built("apex")
    plain, other = built("torch")
    for one, parameter in ((optimizer, weight), (plain, other)):
        for step in range(3):
            parameter.grad = torch.full((2, 3), 0.5 + step)
            one.found_inf = torch.tensor(float(step == 1))
            set_rate(one, 0.1)
            one.step()
    assert type(optimizer.inner).__name__ == "FusedSGD"
    torch.testing.assert_close(weight, other)


def test_a_rate_that_is_a_tensor_stays_one(tmp_path: Path) -> None:
    """As that of NVIDIA's FusedAdam where steps can be captured."""
    install(NVIDIAS, tmp_path)
    optimizer, _ = built("apex", "adamw")
    rate = optimizer.param_groups[0]["lr"]
    set_rate(optimizer, 0.25)
    assert optimizer.param_groups[0]["lr"] is rate
    assert rate == 0.25


def test_what_apex_has_not_or_cannot_is_one_line(tmp_path: Path) -> None:
    install(NVIDIAS, tmp_path)
    with pytest.raises(UsageError, match="NVIDIA's apex has no rmsprop; use --fused auto"):
        built("apex", "rmsprop")
    with pytest.raises(
        EnvironmentFault, match=r"FusedLAMB does not start: .* requires cuda extensions; use --fused auto"
    ):
        built("apex", "lamb")


def test_a_run_with_pypis_apex_ends_with_7_and_leaves_no_folder(
    image_lmdb: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(lay(PYRAMIDS, tmp_path / "packages")))
    output = tmp_path / "run"
    flags = ["--model", "resnet20", "--device", "cpu", "--fused", "apex", "--data-dir", str(image_lmdb)]
    command = [sys.executable, "train_dist.py", *flags, "--output-dir", str(output)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    told = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("error")]
    assert (done.returncode, len(told)) == (7, 1), done.stderr
    assert "is not NVIDIA's" in told[0]
    assert not output.exists()
