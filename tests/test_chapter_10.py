"""Chapter 10's trainer, written out, gives the numbers of `helpers.trainer`, on fresh inputs."""

import math

import pytest
import torch
from torch import nn

from helpers import trainer
from helpers.batches import Minibatches
from helpers.runtime import generator, seeded_weights
from helpers.stats import mean_interval
from tests.test_chapters import definitions


@pytest.fixture(scope="module")
def chapter():
    return definitions("10", device=torch.device("cpu"), SPLITS=range(40))


def points(N=61, seed=0):
    X = torch.randn(N, 3, generator=generator("points of chapter 10", seed))
    return X, X[:, :1].sin() + X[:, 1:2] * X[:, 2:]


def trained(kind, seed, batch_size, eval_every, patience, make, n_epochs=(9, 6)):
    """Train the same network with a trainer, in two pieces; return the trainer and its rows."""
    X, y = points(seed=seed)
    with seeded_weights(seed):
        model = nn.Sequential(nn.Linear(3, 11), nn.ReLU(), nn.Dropout(0.2), nn.Linear(11, 1))
        one = kind(model, make(model.parameters()), nn.MSELoss(), batch_size=batch_size, seed=seed)
        for n in n_epochs:
            history = one.fit(X[:40], y[:40], X[40:], y[40:], n_epochs=n, eval_every=eval_every, patience=patience)
    rows = getattr(history, "rows", history)
    return one, [{k: row[k] for k in ("epoch", "loss", "tune_loss") if k in row} for row in rows]


@pytest.mark.parametrize(
    ("seed", "batch_size", "eval_every", "patience"), [(0, 8, 1, None), (1, 40, 4, None), (2, 7, 2, 1), (3, 64, 3, 2)]
)
@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_trainer(chapter, seed, batch_size, eval_every, patience, name):
    """Same rows, same weights, same best weights, number for number; with dropout and early stopping."""

    def make(parameters):
        return getattr(torch.optim, name)(parameters, lr=0.03)

    settings = (seed, batch_size, eval_every, patience, make)
    (own, own_rows), (house, house_rows) = (trained(kind["Trainer"], *settings) for kind in (chapter, vars(trainer)))
    assert own_rows == house_rows
    assert (own.best_epoch, own.best_loss) == (house.best_epoch, house.best_loss)
    for state in ("best_state", None):
        pairs = [getattr(one, state) if state else one.model.state_dict() for one in (own, house)]
        assert all(torch.equal(pairs[0][key], pairs[1][key]) for key in pairs[1])
    assert own_rows[-1]["loss"] != own_rows[0]["loss"]


def test_early_stopping_was_seen(chapter):
    """The comparison above would be weaker if no run had stopped."""
    _, rows = trained(chapter["Trainer"], 2, 7, 1, 1, lambda p: torch.optim.SGD(p, lr=0.3), (60,))
    assert len(rows) < 60


def test_check_optimizer(chapter):
    model, twin = nn.Linear(1, 1), nn.Linear(1, 1)
    twin.load_state_dict(model.state_dict())
    for check in (chapter["check_optimizer"], trainer.check_optimizer):
        check(model, torch.optim.SGD(model.parameters(), lr=0.1))
        for wrong in (twin.parameters(), [model.weight], [*model.parameters(), twin.bias]):
            with pytest.raises(ValueError, match=r"lacks .* holds"):
                check(model, torch.optim.SGD(wrong, lr=0.1))


@pytest.mark.parametrize("batch_size", [1, 8, 61, 100])
def test_minibatches_are_the_house_s(chapter, batch_size):
    X, y = points()
    g, house = generator("walk", 1), Minibatches(X, y, batch_size, shuffle=generator("walk", 1))
    for _ in range(2):
        for own, theirs in zip(chapter["minibatches"](X, y, batch_size, g), house, strict=True):
            assert all(map(torch.equal, own, theirs))


def test_refusals(chapter):
    X, y = points()
    for X_wrong, y_wrong in ((X, y[:3]), (X[:0], y[:0])):
        with pytest.raises(ValueError, match="X holds"):
            next(chapter["minibatches"](X_wrong, y_wrong, 4, generator("any")))
    model = nn.Linear(3, 1)
    one = chapter["Trainer"](model, torch.optim.SGD(model.parameters(), lr=1e9), nn.MSELoss())
    with pytest.raises(FloatingPointError, match="nan or inf"):
        one.fit(X, y, X, y, n_epochs=50)


def test_rmse(chapter):
    guess, y = points()[1], points(seed=1)[1]
    assert chapter["rmse"](guess, y).item() == pytest.approx(nn.MSELoss()(guess, y).sqrt().item())
    many = torch.stack([guess, y, y])
    own = chapter["rmse"](many, y.expand(3, -1, -1))
    assert own.shape == (3,)
    torch.testing.assert_close(own, torch.tensor([own[0], 0.0, 0.0]))
    with pytest.raises(AssertionError):
        chapter["rmse"](guess, y[:, 0])


def test_line_is_least_squares(chapter):
    X, y = points()
    A = torch.cat([X, torch.ones(len(X), 1)], dim=1)
    expected = A[40:] @ torch.linalg.lstsq(A[:40], y[:40]).solution
    torch.testing.assert_close(chapter["line"](X[:40], y[:40], X[40:]), expected, atol=1e-4, rtol=1e-4)


def test_widened(chapter):
    """The half-width is t times the corrected deviation of Nadeau and Bengio."""
    values = torch.randn(40, generator=generator("widened")).tolist()
    plain = mean_interval(values)
    wide = chapter["widened"](plain, n_train=300, n_val=100)
    ratio = math.sqrt((1 / 40 + 100 / 300) / (1 / 40))
    assert wide.mean == plain.mean
    assert wide.high - wide.mean == pytest.approx(ratio * (plain.high - plain.mean))
    assert wide.mean - wide.low == pytest.approx(ratio * (plain.mean - plain.low))
