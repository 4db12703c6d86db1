"""SimSiam: the loss by its formula, where gradients stop, heads of the published size, and what that is good for."""

import pytest
import torch
from torch import nn

from models.simsiam import SimSiam, negative_cosine, prediction_head, projection_head
from utils.neighbours import directions


def sizes(module: nn.Module) -> list[tuple[int, ...]]:
    return [tuple(value.shape) for value in module.parameters()]


def test_heads_are_those_of_the_paper() -> None:
    linear, norm = (2048, 2048), [(2048,), (2048,)]
    assert sizes(projection_head(2048)) == [linear, *norm] * 3
    assert sizes(prediction_head()) == [(512, 2048), (512,), (512,), (2048, 512), (2048,)]
    assert [type(layer).__name__ for layer in projection_head(8, 4)][-1] == "BatchNorm1d"
    assert projection_head(8, 4)(torch.randn(3, 8)).shape == prediction_head(4, 2)(torch.randn(3, 4)).shape == (3, 4)


def test_the_loss_is_minus_the_mean_cosine_and_takes_projections_as_given() -> None:
    torch.manual_seed(0)
    predictions, projections = (torch.randn(5, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    loss = negative_cosine(predictions, projections)
    cosines = [p @ z / (p.norm() * z.norm()) for p, z in zip(predictions, projections, strict=True)]
    torch.testing.assert_close(loss, -sum(cosines) / 5)
    loss.backward()
    assert projections.grad is None
    assert predictions.grad.abs().min() > 0


def test_both_views_count_the_same_and_no_gradient_flows_through_what_is_predicted() -> None:
    torch.manual_seed(0)
    model = SimSiam(nn.Flatten(), 12, channels=6, hidden=3).double()
    first, second = (torch.randn(4, 3, 2, 2, dtype=torch.float64) for _ in range(2))
    loss = model(first, second)
    torch.testing.assert_close(loss, model(second, first))
    loss.backward()
    found = [parameter.grad.clone() for parameter in model.projection.parameters()]
    projections = [model.projection(view.flatten(1)) for view in (first, second)]
    fixed = [projection.detach() for projection in projections]
    parts = [negative_cosine(model.prediction(projections[i]), fixed[1 - i]) for i in (0, 1)]
    expected = torch.autograd.grad(sum(parts) / 2, list(model.projection.parameters()))
    torch.testing.assert_close(found, list(expected))


def spread(model: SimSiam, views: torch.Tensor) -> float:
    """Mean deviation of projections of length one, times the root of their channels: 1 if all directions are in use,
    0 if all projections are the same (section 4.1 of the paper)."""
    with torch.no_grad():
        projections = directions(model.eval().projection(model.network(views)))
    return (projections.std(0).mean() * projections.shape[1] ** 0.5).item()


def test_views_of_digits_come_to_tell_each_other_and_projections_stay_apart() -> None:
    """Figure 2 of the paper, with 8x8 pixels in the place of ImageNet."""
    pixels = torch.from_numpy(pytest.importorskip("sklearn.datasets").load_digits().images).float()[:, None] / 16
    torch.manual_seed(0)
    model = SimSiam(nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU()), 64, channels=64, hidden=16)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    for _ in range(150):
        chosen = pixels[torch.randint(len(pixels), (128,))]
        views = [
            torch.roll(chosen, int(torch.randint(-1, 2, ())), 3) + 0.1 * torch.randn_like(chosen) for _ in range(2)
        ]
        optimizer.zero_grad()
        loss = model.train()(*views)
        loss.backward()
        optimizer.step()
    assert loss < -0.8  # 0 at the start
    assert spread(model, pixels) > 0.8
