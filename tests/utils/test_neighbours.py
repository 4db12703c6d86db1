"""Neighbours: against scikit-learn, in chunks or not, without oneself, and votes by their formula."""

import numpy as np
import pytest
import torch
from torch import Tensor

from utils import neighbours
from utils.neighbours import Neighbours, directions, most_similar, same_class, votes


def features(count: int, seed: int = 0) -> Tensor:
    return directions(torch.randn(count, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))


def digits() -> tuple[Tensor, Tensor]:
    """1,797 handwritten digits of 8x8 pixels, which scikit-learn brings along."""
    found = pytest.importorskip("sklearn.datasets").load_digits()
    return torch.from_numpy(found.data), torch.from_numpy(found.target).long()


def test_directions_have_length_one_and_features_of_zero_stay() -> None:
    found = directions(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    torch.testing.assert_close(found, torch.tensor([[0.6, 0.8], [0.0, 0.0]]))


@pytest.mark.parametrize("chunk", [1, 7, 256])
def test_neighbours_are_the_most_similar_whatever_the_chunks(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "CHUNK", chunk)
    queries, bank = features(20), features(30, seed=1)
    found = most_similar(queries, bank, 4)
    expected = np.argsort(-(queries @ bank.T).numpy(), axis=1)[:, :4]
    np.testing.assert_array_equal(found.indices, expected)
    assert (found.similarities.diff(dim=1) <= 0).all()


@pytest.mark.parametrize("chunk", [3, 256])
def test_nobody_is_their_own_neighbour_when_left_out(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "CHUNK", chunk)
    bank = features(20)
    oneself = torch.arange(20)[:, None]
    assert (most_similar(bank, bank, 1).indices == oneself).all()
    others = most_similar(bank, bank, 19, leave_one_out=True).indices
    assert (others != oneself).all()
    assert torch.equal(others.sort(dim=1).values.sum(1), torch.full((20,), sum(range(20))) - torch.arange(20))


def test_votes_are_sums_of_exponentials() -> None:
    near = Neighbours(torch.tensor([[0.9, 0.5, 0.4]], dtype=torch.float64), torch.tensor([[2, 0, 3]]))
    labels = torch.tensor([1, 0, 0, 1])
    expected = torch.exp(torch.tensor([[0.9, 0.5, 0.4]], dtype=torch.float64) / 0.1)
    found = votes(near, labels, 3, temperature=0.1)
    torch.testing.assert_close(
        found / found.sum(), torch.stack([expected[:, 0], expected[:, 1:].sum(1), torch.zeros(1)], 1) / expected.sum()
    )
    assert votes(near, labels, 3, temperature=1e-6).argmax() == 0  # no overflow
    assert votes(near, labels, 3, temperature=1e6).argmax() == 1


def test_same_class_tells_which_neighbours_are_right() -> None:
    near = Neighbours(torch.zeros(2, 2), torch.tensor([[0, 1], [2, 1]]))
    assert same_class(near, torch.tensor([5, 6, 7]), torch.tensor([6, 7])).tolist() == [[False, True], [True, False]]


def test_pixels_of_digits_are_told_as_well_as_scikit_learn_does() -> None:
    pixels, labels = digits()
    bank, told = directions(pixels[:1000]), directions(pixels[1000:])
    classifier = pytest.importorskip("sklearn.neighbors").KNeighborsClassifier(
        10, metric="cosine", weights=lambda distances: np.exp((1 - distances) / 0.07)
    )
    theirs = classifier.fit(pixels[:1000], labels[:1000]).predict(pixels[1000:])
    ours = votes(most_similar(told, bank, 10), labels[:1000], 10).argmax(1)
    assert (ours.numpy() == theirs).mean() > 0.999  # equal similarities may be ranked in another order
    assert (ours == labels[1000:]).double().mean() > 0.93
