"""Shards make one training of any number of processes: gradients, statistics, and under --exact every bit."""

import copy
import functools
import itertools
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.utils import replication_work
from tests.utils.replication_work import RADIUS, SHARDS, images, loss_of, network
from tests.utils.worlds import on_each_of
from utils.config import TrainingConfig
from utils.distributed import World
from utils.errors import UsageError
from utils.replication import PairwiseSum, RunningStatistics, count_shards, refuse_compression, replicate

ALONE = World(0, 1, 0, torch.device("cpu"))
Cases = dict[str, dict[str, Tensor]]


@functools.cache
def by_hand() -> dict[str, Tensor]:
    """One step from the definition: each shard in a network of its own, then means over shards, in float64."""
    copies = [copy.deepcopy(network(torch.float64)) for _ in range(SHARDS)]
    for shard, model in enumerate(copies):
        loss_of(model(images(0, shard, torch.float64))).backward()
    found = {}
    for name, value in network(torch.float64).state_dict().items():
        values = [model.state_dict()[name] for model in copies]
        found[name] = sum(values) / SHARDS if value.is_floating_point() else values[0]
    for name, _ in copies[0].named_parameters():
        found[f"grad {name}"] = sum(dict(model.named_parameters())[name].grad for model in copies) / SHARDS
        found[name] = found[name] - 0.1 * found[f"grad {name}"]
    return found


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[Cases]]:
    """What each rank found in worlds of 1, 2 and 4 processes."""
    folder = tmp_path_factory.mktemp("worlds")
    many = {size: on_each_of(size, replication_work.all_cases, folder / str(size)) for size in (2, 4)}
    return many | {1: [replication_work.all_cases(ALONE)]}


def assert_same_bits(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("kind", ["fast", "exact in float64"])
def test_step_is_the_mean_over_shards_on_any_number_of_processes(
    size: int, kind: str, worlds: dict[int, list[Cases]]
) -> None:
    for cases in worlds[size]:
        found = cases[kind]
        assert found.keys() == by_hand().keys()
        for name, expected in by_hand().items():
            # Only the order of additions differs: 1e-9 in float64 is far above it and far below any mistake.
            torch.testing.assert_close(found[name], expected, rtol=1e-9, atol=1e-12, msg=f"{kind}, {size}: {name}")


@pytest.mark.parametrize("size", [1, 2, 4])
def test_compressed_gradients_are_the_mean_to_the_rounding_of_bfloat16(
    size: int, worlds: dict[int, list[Cases]]
) -> None:
    for cases in worlds[size]:
        rounded = 0.0
        for name, expected in by_hand().items():
            found = cases["compressed"][name]
            assert found.dtype == expected.dtype
            if name.startswith("grad "):
                # Each process rounds its part (2^-9 of it), and each of the additions the sum so far.
                torch.testing.assert_close(found, expected, rtol=0, atol=4 * 2**-9 * expected.abs().max().item())
                rounded = max(rounded, (found - expected).abs().max().item())
        assert rounded < 1e-12 if size == 1 else rounded > 1e-6
        for name in ("grad 0.weight", "grad 6.bias"):
            assert torch.equal(cases["compressed"][name], worlds[size][0]["compressed"][name])


def test_a_static_graph_has_the_bits_of_a_free_one(tmp_path: Path) -> None:
    """On three processes, where the limits of buckets decide the order of additions."""
    for found in on_each_of(3, replication_work.either_graph, tmp_path / "worlds"):
        assert found.pop("static graph") and found.pop("free graph")
        names = [name.removeprefix("free ") for name in found if name.startswith("free ")]
        assert len(names) == 26
        for name in names:
            assert torch.equal(found[f"static {name}"], found[f"free {name}"]), name


@pytest.mark.parametrize(
    ("size", "training", "reason"),
    [
        (2, {"exact": True}, "--ddp-compress bf16 rounds what --exact promises to the last bit"),
        (1, {}, "--ddp-compress bf16 has no effect on one process"),
    ],
)
def test_compression_is_refused_where_it_has_no_place(size: int, training: dict[str, bool], reason: str) -> None:
    refuse_compression(TrainingConfig(ddp_compress="bf16"), 2)
    with pytest.raises(UsageError, match=reason):
        refuse_compression(TrainingConfig(ddp_compress="bf16", **training), size)


@functools.cache
def sharp_by_hand() -> dict[str, Tensor]:
    """Sharpness-aware gradients (arXiv 2010.01412, equation 3) from the definition: those at w + r g / |g|, g the mean
    over shards at w. Statistics are those of the pass at w."""
    started, moved = network(torch.float64), network(torch.float64)
    slopes = {name.removeprefix("grad "): value for name, value in by_hand().items() if name.startswith("grad ")}
    length = torch.cat([value.flatten() for value in slopes.values()]).norm()
    with torch.no_grad():
        for name, parameter in moved.named_parameters():
            parameter += RADIUS * slopes[name] / length
    copies = [copy.deepcopy(moved) for _ in range(SHARDS)]
    for shard, model in enumerate(copies):
        loss_of(model(images(0, shard, torch.float64))).backward()
    found = dict(started.named_parameters()) | {n: by_hand()[n] for n, _ in started.named_buffers()}
    for name in slopes:
        found[f"grad {name}"] = sum(dict(model.named_parameters())[name].grad for model in copies) / SHARDS
    return found | {f"taken back {name}": buffer for name, buffer in started.named_buffers()}


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("kind", ["sharp", "sharp and exact"])
def test_second_pass_is_at_the_worst_weights_and_moves_no_statistics(
    size: int, kind: str, worlds: dict[int, list[Cases]]
) -> None:
    for cases in worlds[size]:
        assert cases[kind].keys() == sharp_by_hand().keys()
        for name, expected in sharp_by_hand().items():
            close = {"rtol": 1e-9, "atol": 1e-12}
            torch.testing.assert_close(cases[kind][name], expected.detach(), msg=f"{kind}, {size}: {name}", **close)


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("kind", ["fast", "exact in float64", "exact", "left alone"])
def test_all_ranks_end_a_step_with_the_same_bits(size: int, kind: str, worlds: dict[int, list[Cases]]) -> None:
    for cases in worlds[size][1:]:
        assert_same_bits(cases[kind], worlds[size][0][kind])


@pytest.mark.parametrize("kind", ["exact", "exact in float64"])
def test_exact_steps_have_the_same_bits_at_any_number_of_processes(kind: str, worlds: dict[int, list[Cases]]) -> None:
    for size in (2, 4):
        assert_same_bits(worlds[size][0][kind], worlds[1][0][kind])


@pytest.mark.parametrize("size", [1, 2, 4])
def test_new_replicas_go_on_with_the_same_bits(size: int, worlds: dict[int, list[Cases]]) -> None:
    for cases in worlds[size]:
        assert_same_bits(cases["resumed"], cases["left alone"])


@pytest.mark.parametrize("size", [1, 2, 4])
def test_rehearsal_leaves_weights_and_statistics_alone(size: int, worlds: dict[int, list[Cases]]) -> None:
    start = network(torch.float64).state_dict()
    for cases in worlds[size]:
        assert_same_bits(cases["rehearsed"], dict(start))


@pytest.mark.parametrize("size", [2, 4])
def test_replicas_start_as_the_first_rank(size: int, worlds: dict[int, list[Cases]]) -> None:
    for cases in worlds[size]:
        assert_same_bits(cases["other start"], worlds[1][0]["other start"])


def test_running_statistics_move_by_the_mean_of_the_shards_moments() -> None:
    """running <- (1 - m) running + m mean over shards, with the unbiased variance, and the counter by one."""
    model = nn.BatchNorm2d(3, momentum=0.3).double()
    model.running_mean.copy_(torch.tensor([1.0, -2.0, 3.0]))
    model.running_var.copy_(torch.tensor([0.5, 1.5, 2.5]))
    replicas = replicate(model, ALONE, SHARDS, exact=False)
    start = [model.running_mean.clone(), model.running_var.clone()]
    batches = [images(0, shard, torch.float64) for shard in range(SHARDS)]
    replicas.begin()
    for shard, batch in enumerate(batches):
        with replicas.shard(shard):
            model(batch).sum().backward()
    replicas.reduce()
    columns = [batch.transpose(0, 1).reshape(3, -1).numpy() for batch in batches]
    means = sum(column.mean(1) for column in columns) / SHARDS
    variances = sum(column.var(1, ddof=1) for column in columns) / SHARDS
    torch.testing.assert_close(model.running_mean, 0.7 * start[0] + 0.3 * torch.tensor(means), rtol=1e-12, atol=0)
    torch.testing.assert_close(model.running_var, 0.7 * start[1] + 0.3 * torch.tensor(variances), rtol=1e-12, atol=0)
    assert model.num_batches_tracked.item() == 1


@pytest.mark.parametrize("exact", [False, True])
def test_every_shard_starts_from_the_statistics_of_the_last_step(exact: bool) -> None:
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 1)).double()
    replicas = replicate(model, ALONE, 4, exact)
    seen = []
    model.register_forward_pre_hook(lambda *_: seen.append([b.clone() for b in model.buffers()]))
    for step in range(2):
        replicas.begin()
        for shard in range(4):
            with replicas.shard(shard):
                model(torch.randn(8, 2, dtype=torch.float64)).sum().backward()
        replicas.reduce()
        assert model[0].num_batches_tracked.item() == step + 1
    for step in range(2):
        for shard in range(4):
            assert all(map(torch.equal, seen[4 * step + shard], seen[4 * step]))
    assert not torch.equal(seen[4][0], seen[0][0])


@pytest.mark.parametrize("exact", [False, True])
def test_a_step_begins_without_the_gradients_of_the_last(exact: bool) -> None:
    """Four steps with the same images and weights have the same gradients."""
    model = network(torch.float64)
    replicas = replicate(model, ALONE, SHARDS, exact)
    found = []
    for _ in range(2):
        replication_work.gradients(replicas, 0, torch.float64)
        found.append([parameter.grad.clone() for parameter in model.parameters()])
    assert all(map(torch.equal, *found))


def test_statistics_are_put_back_where_the_step_is_not_finite() -> None:
    model = network(torch.float32)
    statistics = RunningStatistics(model)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    for finite in (False, True):
        statistics.keep()
        model(images(0, 0, torch.float32))
        model[1].running_var[0] = torch.nan if not finite else 1.0
        statistics.keep_where(torch.tensor(finite))
        changed = {name for name, value in model.state_dict().items() if not torch.equal(value, start[name])}
        buffers = {f"{layer}.{name}" for layer in (1, 4) for name in ("running_mean", "running_var")}
        assert changed == (buffers | {"1.num_batches_tracked", "4.num_batches_tracked"} if finite else set())


@pytest.mark.parametrize("exact", [False, True])
def test_network_without_statistics_is_replicated_too(exact: bool) -> None:
    model = nn.Linear(4, 2).double()
    replicas = replicate(model, ALONE, 2, exact)
    batches = [torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(s)) for s in (0, 1)]
    replicas.begin()
    for shard, batch in enumerate(batches):
        with replicas.shard(shard):
            (model(batch).sum() * replicas.share).backward()
    replicas.reduce()
    expected = sum(batch.sum(0) for batch in batches) / 2
    torch.testing.assert_close(model.weight.grad, expected.expand(2, 4), rtol=1e-12, atol=1e-15)
    replicas.statistics.keep_where(torch.tensor(False))


def tree(values: list[Tensor]) -> Tensor:
    """The sum of two halves, each summed alike."""
    if len(values) == 1:
        return values[0]
    half = len(values) // 2
    return tree(values[:half]) + tree(values[half:])


@pytest.mark.parametrize("count", [1, 2, 4, 8, 16, 32])
def test_pairwise_sum_is_a_binary_tree_to_the_bit(count: int) -> None:
    draw = torch.Generator().manual_seed(count)
    lists = [[torch.randn(50, generator=draw), torch.randn(3, 2, generator=draw) * 1e3] for _ in range(count)]
    pairwise = PairwiseSum()
    for tensors in lists:
        pairwise.add([tensor.clone() for tensor in tensors])
    for part, total in enumerate(pairwise.total()):
        assert torch.equal(total, tree([tensors[part] for tensors in lists]))
    if count >= 8:
        one_by_one = functools.reduce(torch.add, [tensors[0] for tensors in lists])
        assert not torch.equal(one_by_one, tree([tensors[0] for tensors in lists])), "any order would pass"


def test_pairwise_sum_is_empty_after_its_total_and_leaves_its_terms_alone() -> None:
    pairwise, terms = PairwiseSum(), [torch.ones(2), torch.ones(2)]
    for expected in (2, 2):
        for term in terms:
            pairwise.add([term])
        assert pairwise.total()[0].tolist() == [expected] * 2
    assert all(term.tolist() == [1, 1] for term in terms)


# (--shards, --grad-accum-steps, processes, of the checkpoint) -> V
COUNTS = [
    ((None, None, 1, None), 1),
    ((None, None, 8, None), 8),
    ((8, None, 2, None), 8),
    ((None, 4, 2, None), 8),
    ((8, 4, 2, None), 8),
    ((None, None, 2, 8), 8),
    ((None, None, 8, 8), 8),
    ((4, None, 2, 8), 4),  # refused later, as another run, with both values named
    ((None, 2, 4, 8), 8),
]


@pytest.mark.parametrize(("given", "expected"), COUNTS)
def test_number_of_shards(given: tuple[int | None, ...], expected: int) -> None:
    shards, steps, processes, saved = given
    assert count_shards(TrainingConfig(shards=shards, grad_accum_steps=steps), processes, saved) == expected


NO_COUNTS = [
    ((3, None, 2, None), False, "3 shards do not divide among 2 processes; start 1, 3 processes"),
    ((None, None, 3, 8), False, "8 shards do not divide among 3 processes; start 1, 2, 4, 8 processes"),
    ((4, None, 8, None), False, "4 shards do not divide among 8 processes"),
    ((4, 4, 2, None), False, "--shards 4 and --grad-accum-steps 4 on 2 processes contradict each other: 4 x 2 is 8"),
    ((6, None, 2, None), True, "--exact .* power of two of shards, not 6"),
    ((None, None, 3, None), True, "--exact .* power of two of shards, not 3"),
]


@pytest.mark.parametrize(("given", "exact", "message"), NO_COUNTS)
def test_impossible_numbers_of_shards_are_refused(given: tuple[int | None, ...], exact: bool, message: str) -> None:
    shards, steps, processes, saved = given
    training = TrainingConfig(shards=shards, grad_accum_steps=steps, exact=exact)
    with pytest.raises(UsageError, match=message):
        count_shards(training, processes, saved)


@pytest.mark.parametrize("exact", [False, True])
def test_ranks_share_the_shards_in_order(exact: bool) -> None:
    carried = [list(replicate_without_peers(rank, 4, 8, exact).shards) for rank in range(4)]
    assert list(itertools.chain(*carried)) == list(range(8))
    assert all(len(shards) == 2 for shards in carried)


def replicate_without_peers(rank: int, size: int, shards: int, exact: bool) -> object:
    """Replicas of one rank of several of which the others are not there: nothing is replicated."""
    kind = type(replicate(nn.Linear(1, 1), ALONE, shards, exact))
    lonely = type("Lonely", (kind,), {"_replicate": lambda self, model: model})
    return lonely(nn.Linear(1, 1), World(rank, size, rank, torch.device("cpu")), shards)
