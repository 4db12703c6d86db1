"""The guard against steps that are not finite, and fp16's scale."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from utils.averaging import WeightAverage
from utils.checkpoint import load_checkpoint, save_checkpoint
from utils.config import OptimConfig, TrainingConfig
from utils.distributed import World
from utils.errors import EnvironmentFault, NumericsError, UsageError
from utils.optim import build_optimizer, parameter_groups, set_rate
from utils.precision import Precision, allow_tf32, refuse_unscaled
from utils.replication import replicate

CPU = torch.device("cpu")
ALONE = World(0, 1, 0, CPU)
PRECISIONS = ["fp32", "fp16", "bf16", "fp64"]
Loss = Callable[[Tensor], Tensor]


def mild(logits: Tensor) -> Tensor:
    """A loss whose gradients, times 65536, stay in fp16."""
    return 0.01 * logits.sum()


class Training:
    """A small network and all that a step needs, as train_dist.train_step does it."""

    def __init__(self, precision: str, exact: bool = False, loss_scale: float | None = None):
        torch.manual_seed(0)
        self.precision = Precision(TrainingConfig(precision=precision, loss_scale=loss_scale), CPU)
        layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2)]
        self.model = nn.Sequential(*layers).to(self.precision.storage)
        self.average = WeightAverage(self.model, 0.9)
        self.optimizer = build_optimizer(parameter_groups(self.model, [], OptimConfig()), OptimConfig())
        self.replicas = replicate(self.model, ALONE, 2, exact)

    def step(self, number: int, loss: Loss = mild, last_loss: Loss | None = None) -> Tensor:
        """One step of two shards; `last_loss` is the second one's."""
        self.replicas.begin()
        for shard in self.replicas.shards:
            draw = torch.Generator().manual_seed(2 * number + shard)
            images = torch.randn(5, 3, 4, 4, generator=draw).to(self.precision.storage)
            with self.replicas.shard(shard):
                with self.precision.autocast():
                    logits = self.model(images)
                chosen = last_loss if shard == 1 and last_loss else loss
                self.precision.backward(chosen(logits if logits.dtype == torch.float64 else logits.float()), 0.5)
        self.replicas.reduce()
        norm = self.precision.gradient_norm(self.optimizer)
        set_rate(self.optimizer, 0.01)
        self.precision.step(self.optimizer, norm.isfinite())
        self.replicas.statistics.keep_where(norm.isfinite())
        self.average.update(number, norm.isfinite())
        return norm

    def everything(self) -> dict[str, Tensor]:
        """Copies of weights, statistics, averages and momentum."""
        found = {f"model.{name}": value.clone() for name, value in self.model.state_dict().items()}
        found |= {f"average.{name}": value.clone() for name, value in self.average.network.state_dict().items()}
        for number, parameter in enumerate(self.model.parameters()):
            momentum = self.optimizer.state[parameter].get("momentum_buffer")
            if momentum is not None:
                found[f"momentum.{number}"] = momentum.clone()
        return found


def infinite(logits: Tensor) -> Tensor:
    return logits.sum() * math.inf


def nan(logits: Tensor) -> Tensor:
    return logits.sum() * math.nan


def infinite_without_gradient(logits: Tensor) -> Tensor:
    return (0 * logits).sum() + math.inf


def gradient_without_end(logits: Tensor) -> Tensor:
    """A finite loss, 0, whose gradient is infinite: the root of zero."""
    return (logits - logits.detach()).abs().sum().sqrt()


BAD = [infinite, nan, infinite_without_gradient, gradient_without_end]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("bad", BAD, ids=[loss.__name__ for loss in BAD])
@pytest.mark.parametrize("exact", [False, True])
def test_step_that_is_not_finite_leaves_every_bit_but_the_counters(precision: str, bad: Loss, exact: bool) -> None:
    training = Training(precision, exact)
    training.step(0)
    before = training.everything()
    assert sum(name.startswith("momentum") for name in before) == 6
    assert not training.step(1, last_loss=bad).isfinite()
    after = training.everything()
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert torch.equal(value, after[name]), name
    assert training.precision.values()["amp/skipped_steps"] == 1
    assert training.precision.state_dict()["skipped_in_a_row"] == 1


@pytest.mark.parametrize("precision", PRECISIONS)
def test_finite_step_moves_everything(precision: str) -> None:
    training = Training(precision)
    training.step(0)
    before = training.everything()
    assert training.step(1).isfinite()
    moved = {name for name, value in training.everything().items() if not torch.equal(value, before[name])}
    # A batch norm follows the first bias, which therefore has no gradient but rounding.
    assert before.keys() - moved <= {"model.0.bias", "average.0.bias", "momentum.1"}
    assert training.precision.values()["amp/skipped_steps"] == 0


@pytest.mark.parametrize("precision", PRECISIONS)
def test_skipped_step_is_as_if_it_had_not_been(precision: str) -> None:
    skipping, plain = Training(precision), Training(precision)
    if precision == "fp16":  # a skipped step halves the scale, which moves roundings: take powers of two apart
        skipping.precision.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**11)
        plain.precision.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for training in (skipping, plain):
        training.step(0)
    skipping.step(1, nan)
    for training in (skipping, plain):
        training.step(2)
    theirs = plain.everything()
    for name, value in skipping.everything().items():
        torch.testing.assert_close(
            value, theirs[name], rtol=1e-3 if precision == "fp16" else 0, atol=1e-5 * (precision == "fp16")
        )


@pytest.mark.parametrize("precision", ["fp32", "fp64"])
def test_skipped_first_step_is_as_if_it_had_not_been(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "empty_like", lambda like, **options: torch.full_like(like, 777.0))  # what memory holds
    skipping, plain = Training(precision), Training(precision)
    skipping.step(0, nan)
    for training in (skipping, plain):
        training.step(1)
    theirs = plain.everything()
    for name, value in skipping.everything().items():
        assert torch.equal(value, theirs[name]), name


def test_infinite_loss_of_one_shard_with_zero_gradient_is_noticed() -> None:
    training = Training("fp32")
    logits = torch.ones(2, requires_grad=True)
    infinite_without_gradient(logits).backward()
    assert logits.grad.tolist() == [0, 0], "this loss would go unnoticed"
    assert training.step(0, last_loss=infinite_without_gradient).isnan()


def test_twenty_skipped_steps_in_a_row_end_the_run() -> None:
    precision = Training("fp32")
    for step in range(19):
        precision.step(step, nan)
        precision.precision.check(step)
    precision.step(19, nan)
    with pytest.raises(
        NumericsError, match=r"not finite in 20 steps in a row up to step 20; .*--lr, --clip-grad"
    ) as error:
        precision.precision.check(20)
    assert error.value.exit_code == 5


@pytest.mark.parametrize("name", ["fp32", "fp16"])
def test_numbers_read_elsewhere_tell_what_the_device_had_then(name: str) -> None:
    training = Training(name)
    for step in range(20):
        training.step(step, infinite)
    precision = training.precision
    then = {name: number.clone().item() for name, number in precision.numbers().items()}
    assert all(number.ndim == 0 or number.numel() == 1 for number in precision.numbers().values())
    expected = precision.values()
    for step in range(20, 22):
        training.step(step)
    assert precision.values(then) == expected != precision.values({**then, "skipped": 21})
    precision.check(22)
    with pytest.raises(NumericsError, match="in 20 steps in a row up to step 20"):
        precision.check(20, then)
    if name == "fp16":
        with pytest.raises(NumericsError, match=r"loss scale fell to 3.05e-05 at step 9"):
            precision.check(9, {"skipped": 3, "skipped_in_a_row": 3, "scale": 2.0**-15})


def test_a_finite_step_begins_the_count_anew() -> None:
    optimizer = build_optimizer([{"params": [nn.Parameter(torch.ones(1))]}], OptimConfig())
    precision = Precision(TrainingConfig(), CPU)
    for good in [False] * 19 + [True] + [False] * 19:
        precision.step(optimizer, torch.tensor(good))
    precision.check(39)
    assert precision.state_dict() == {"skipped": 38, "skipped_in_a_row": 19}


def test_scale_of_fp16_halves_with_each_skipped_step_and_ends_the_run_at_its_floor() -> None:
    training = Training("fp16")
    assert training.precision.values()["amp/scale"] == 65536
    for step in range(4):
        training.step(step, infinite if step else mild)
    assert training.precision.values()["amp/scale"] == 65536 / 8
    training.precision.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**-13)
    training.step(4, infinite)
    training.step(5)  # not twenty in a row
    training.precision.check(6)
    training.step(6, infinite)
    training.step(7)
    with pytest.raises(NumericsError, match=r"loss scale fell to 3.05e-05 at step 8; use --precision bf16 or fp32"):
        training.precision.check(8)


def test_static_scale_stays_where_it_is() -> None:
    training = Training("fp16", loss_scale=128)
    training.precision.scaler.set_growth_interval(1)
    for step in range(4):
        assert training.step(step, infinite if step == 1 else mild).isfinite() == (step != 1)
        assert training.precision.values()["amp/scale"] == 128
    tiny = Training("fp16", loss_scale=1e-6)
    tiny.step(0)
    tiny.precision.check(1)


def test_static_scale_is_a_factor_on_the_gradients_before_they_are_unscaled() -> None:
    weight = nn.Parameter(torch.tensor([2.0]))
    precision = Precision(TrainingConfig(precision="fp16", loss_scale=96.0), CPU)
    precision.backward((3 * weight).sum(), 1.0)
    assert weight.grad.item() == 3 * 96
    assert precision.gradient_norm(build_optimizer([{"params": [weight]}], OptimConfig())).item() == 3


def test_static_scale_that_overflows_for_ever_is_told_by_name() -> None:
    training = Training("fp16", loss_scale=2.0**40)
    for step in range(20):
        training.step(step)
    with pytest.raises(NumericsError, match=r"a --loss-scale below 1.09951e\+12"):
        training.precision.check(20)


def test_static_scale_changed_by_leave_is_the_new_one() -> None:
    saved, resumed = Training("fp16", loss_scale=128), Training("fp16", loss_scale=64)
    saved.step(0)
    resumed.precision.load_state_dict(saved.precision.state_dict())
    resumed.step(1)
    assert resumed.precision.values()["amp/scale"] == 64


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp64"])
def test_static_scale_is_refused_where_nothing_is_scaled(precision: str) -> None:
    refuse_unscaled(TrainingConfig(precision="fp16", loss_scale=128))
    refuse_unscaled(TrainingConfig(precision=precision))
    with pytest.raises(UsageError, match=f"--loss-scale 128 has no effect with --precision {precision}"):
        refuse_unscaled(TrainingConfig(precision=precision, loss_scale=128))


def test_scale_does_not_change_the_gradients() -> None:
    plain, scaled = Training("fp32"), Training("fp32")
    scaled.precision.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    norms = [plain.step(0), scaled.step(0)]
    assert torch.equal(*norms)
    for ours, theirs in zip(plain.model.parameters(), scaled.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("precision", ["fp32", "fp64", "fp16"])
def test_gradient_norm_is_that_of_all_gradients_together(precision: str) -> None:
    training = Training(precision)
    norm = training.step(0, lambda logits: logits.square().mean())
    gradients = [value for p in training.model.parameters() for value in p.grad.double().flatten().tolist()]
    assert len(gradients) == 3 * 4 * 9 + 4 + 4 + 4 + 32 + 2
    expected = math.sqrt(math.fsum(value * value for value in gradients))
    assert norm.item() == pytest.approx(expected, rel=1e-12 if precision == "fp64" else 1e-6)


def test_share_of_a_shard_weighs_its_gradient() -> None:
    weight = nn.Parameter(torch.tensor([2.0], dtype=torch.float64))
    precision = Precision(TrainingConfig(precision="fp64"), CPU)
    for share in (0.25, 0.5):
        precision.backward((3 * weight).sum(), share)
    assert weight.grad.item() == 3 * 0.75


def test_state_of_fp16_goes_on_where_it_was(tmp_path: Path) -> None:
    training, resumed = Training("fp16"), Training("fp16")
    for step, loss in enumerate([mild, infinite, mild, infinite, infinite]):
        training.step(step, loss)
    state = training.precision.state_dict()
    state |= {"format": 1, "state_dict": {}}
    resumed.precision.load_state_dict(load_checkpoint(save_checkpoint(tmp_path, 1, state)))
    assert resumed.precision.values() == {"amp/skipped_steps": 3, "amp/scale": 65536 / 8}
    assert resumed.precision.state_dict() == training.precision.state_dict()
    assert resumed.precision.state_dict()["skipped_in_a_row"] == 2
    for half in (training, resumed):
        half.model.load_state_dict(plain_weights())
        half.optimizer.state.clear()
        half.step(9)
    for ours, theirs in zip(training.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def plain_weights() -> dict[str, Tensor]:
    return Training("fp16").model.state_dict()


def test_growth_of_the_scale_is_part_of_the_state() -> None:
    training, resumed = Training("fp16"), Training("fp16")
    training.precision.scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=3)
    for step in range(2):
        training.step(step)
    resumed.precision.load_state_dict(training.precision.state_dict())
    resumed.step(2)
    assert resumed.precision.values()["amp/scale"] == 8


def test_state_of_another_precision_leaves_the_scale_at_its_start() -> None:
    fp16 = Precision(TrainingConfig(precision="fp16"), CPU)
    fp16.load_state_dict({"skipped": 4, "skipped_in_a_row": 1})
    assert fp16.values() == {"amp/skipped_steps": 4, "amp/scale": 65536}
    fp32 = Precision(TrainingConfig(), CPU)
    fp32.load_state_dict(fp16.state_dict())
    assert fp32.values() == {"amp/skipped_steps": 4}


@pytest.mark.parametrize(
    ("precision", "storage", "compute"),
    [
        ("fp32", torch.float32, torch.float32),
        ("fp16", torch.float32, torch.float16),
        ("bf16", torch.float32, torch.bfloat16),
        ("fp64", torch.float64, torch.float64),
    ],
)
def test_precision_names_what_is_stored_and_what_computes(
    precision: str, storage: torch.dtype, compute: torch.dtype
) -> None:
    found = Precision(TrainingConfig(precision=precision), CPU)
    assert found.storage == storage
    with found.autocast():
        assert nn.Linear(2, 2, dtype=storage)(torch.ones(1, 2, dtype=storage)).dtype == compute


@pytest.mark.parametrize("allowed", [True, False])
def test_tf32_is_one_switch_for_all_who_ask(allowed: bool) -> None:
    """torch's own two ways to ask, and what its compiler asks."""
    allow_tf32(allowed)
    backends = torch.backends
    found = [backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32]
    found += [one.fp32_precision == "tf32" for one in (backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn)]
    found.append(torch.get_float32_matmul_precision() == "high")
    assert found == [allowed] * 6
    Precision(TrainingConfig(precision="bf16"), CPU)
    assert not backends.cuda.matmul.allow_tf32 and not backends.cudnn.allow_tf32


def test_tf32_needs_a_gpu_that_has_it() -> None:
    with pytest.raises(EnvironmentFault, match=r"--precision tf32 needs an NVIDIA GPU of Ampere or later, not cpu"):
        Precision(TrainingConfig(precision="tf32"), CPU)
