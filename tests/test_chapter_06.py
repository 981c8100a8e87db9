"""The definitions of chapter 06 agree with torch on inputs that the chapter never saw."""

import nbformat
import numpy
import pytest
import torch

from helpers import toy
from helpers.runtime import generator
from tests.test_chapters import definitions
from tools.surroundings import NOTEBOOKS


@pytest.fixture(scope="module")
def chapter():
    return definitions("06")


@pytest.fixture(params=range(3))
def data(request):
    """Return inputs, targets and a line (w, b), as float64."""
    draw = generator("chapter 06", request.param)
    x, y = 3 * torch.randn(2, 17, generator=draw, dtype=torch.float64) + request.param
    return x, y, torch.randn(2, generator=draw, dtype=torch.float64)


def mean_squared_error(line, x, y):
    return torch.nn.functional.mse_loss(line[0] * x + line[1], y)


def test_readings_are_those_of_the_helper():
    cells = nbformat.read(NOTEBOOKS / "06_gradients_by_hand.ipynb", as_version=4).cells
    typed = {"torch": torch}
    exec(next(cell.source for cell in cells if cell.source.startswith("t_c = torch.tensor(")), typed)
    for name, expected in zip(("t_c", "t_u"), toy.thermometer(), strict=True):
        assert torch.equal(typed[name], expected)


def test_loss(chapter, data):
    x, y, line = data
    expected = mean_squared_error(line, x, y)
    torch.testing.assert_close(chapter["loss_fn"](chapter["model"](x, *line), y), expected)
    torch.testing.assert_close(chapter["loss_at"](line.expand(2, 4, 2), x, y), expected.expand(2, 4))


def test_each_derivative(chapter, data):
    x, y, line = data
    predictions = (line[0] * x + line[1]).requires_grad_()
    (slope,) = torch.autograd.grad(torch.nn.functional.mse_loss(predictions, y), predictions)
    torch.testing.assert_close(chapter["dloss_dp"](predictions.detach(), y), slope)
    for k, name in enumerate(("dmodel_dw", "dmodel_db")):
        jacobian = torch.autograd.functional.jacobian(lambda line: line[0] * x + line[1], line)
        torch.testing.assert_close(chapter[name](x, *line), jacobian[:, k])


def test_gradient_and_hessian(chapter, data):
    x, y, line = data
    watched = line.clone().requires_grad_()
    (expected,) = torch.autograd.grad(mean_squared_error(watched, x, y), watched)
    torch.testing.assert_close(chapter["gradient"](x, y, *line), expected)
    curvature = torch.autograd.functional.hessian(lambda line: mean_squared_error(line, x, y), line)
    torch.testing.assert_close(chapter["hessian"](x), curvature)


def test_descend_is_sgd(chapter, data):
    x, y, line = data
    watched = line.clone().requires_grad_()
    optimizer = torch.optim.SGD([watched], lr=0.02)
    path = chapter["descend"](x, y, 0.02, 20, start=tuple(line.tolist()))
    for place in path:
        torch.testing.assert_close(watched.detach(), place)
        optimizer.zero_grad()
        mean_squared_error(watched, x, y).backward()
        optimizer.step()


def test_closed_form_is_least_squares(chapter, data):
    x, y, _ = data
    A = torch.stack([x, torch.ones_like(x)], dim=1)
    torch.testing.assert_close(chapter["closed_form"](x, y), torch.linalg.lstsq(A, y[:, None]).solution[:, 0])


def test_threshold_and_condition_number(chapter, data):
    x, _, _ = data
    A = torch.stack([x, torch.ones_like(x)], dim=1)
    singular = torch.linalg.svdvals(A)
    assert chapter["threshold"](x) == pytest.approx(len(x) / singular[0].item() ** 2)
    assert chapter["condition_number"](x) == pytest.approx(torch.linalg.cond(A).item() ** 2)


def test_steps_needed_counts_the_steps_of_descend():
    t_c, t_u = (values.double() for values in toy.thermometer())
    space = definitions("06", u=t_u, c=t_c)
    best = space["closed_form"](t_u, t_c)
    lowest = space["lowest"] = space["loss_at"](best, t_u, t_c).item()
    start = space["closed_form"](0.1 * t_u, t_u)
    lrs = torch.tensor([0.02, 0.03, 0.05], dtype=torch.float64)  # the last one explodes
    path = space["descend"](0.1 * t_u, t_c, lrs[1].item(), 700, start=tuple(start.tolist()))
    above = space["loss_at"](path, 0.1 * t_u, t_c) > 1.1 * lowest
    needed = space["steps_needed"](0.1 * t_u, lrs.expand(700, 3))
    assert needed[1] == above.nonzero().max() + 1 < needed[0] < needed[2] == 701


@pytest.mark.parametrize("doublings", [0, 1, 4])
def test_mixed_order_has_every_number_once(chapter, doublings):
    assert sorted(chapter["mixed_order"](doublings)) == list(range(1, 2**doublings + 1))


def test_chebyshev_rates_are_the_best_polynomial(chapter):
    low, high, n = 0.5, 40.0, 8
    rates = chapter["chebyshev_rates"](low, high, range(1, n + 1))
    roots = numpy.polynomial.chebyshev.chebroots([0] * n + [1])
    expected = 2 / (high + low - (high - low) * torch.from_numpy(numpy.sort(roots)))
    torch.testing.assert_close(rates.sort().values, expected)
    worst = 1 / numpy.polynomial.chebyshev.chebval((high + low) / (high - low), [0] * n + [1])
    assert chapter["worst_factor"](low, high, rates) == pytest.approx(worst, rel=1e-6)
