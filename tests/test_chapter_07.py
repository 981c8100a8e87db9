"""Chapter 07's loop, rules and gradients give the numbers of `helpers.training` and of `torch.optim`."""

import pytest
import torch
from torch import nn

from helpers import training
from helpers.batches import Minibatches
from helpers.runtime import generator, seeded_weights
from tests.test_chapters import definitions


@pytest.fixture(scope="module")
def chapter():
    return definitions("07", loss_fn=nn.MSELoss())


def points(N=23, seed=0):
    """Return inputs N x 3 and targets N x 1 that depend on them."""
    X = torch.randn(N, 3, generator=generator("points", seed))
    return X, X[:, :1] ** 2 - X[:, 1:2]


def trained(loop, seed, batch_size, eval_every, make, dropout=0.3):
    """Train the same network over the same minibatches with a loop; return history and weights."""
    X, y = points(seed=seed)
    with seeded_weights(seed):
        model = nn.Sequential(nn.Linear(3, 7), nn.Tanh(), nn.Dropout(dropout), nn.Linear(7, 1))
        batches = Minibatches(X[:17], y[:17], batch_size, shuffle=generator("shuffle", seed))
        held_out = {"tune": [(X[17:20], y[17:20])], "val": Minibatches(X[17:], y[17:], 4)}
        history = loop(
            model, batches, nn.MSELoss(), make(model.parameters()), 11, evaluate_on=held_out, eval_every=eval_every
        )
    return history, nn.utils.parameters_to_vector(model.parameters()), model


@pytest.mark.parametrize(("seed", "batch_size", "eval_every"), [(0, 5, 1), (1, 17, 4), (2, 16, 11), (3, 1, 3)])
@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_fit(chapter, seed, batch_size, eval_every, name):
    """Same history and same weights, number for number, with dropout and a short last minibatch."""

    def make(parameters):
        return getattr(torch.optim, name)(parameters, lr=0.01)

    own, own_weights, model = trained(chapter["fit"], seed, batch_size, eval_every, make)
    house, house_weights, _ = trained(training.fit, seed, batch_size, eval_every, make)
    assert torch.equal(own_weights, house_weights)
    assert model.training
    without = [{k: v for k, v in row.items() if k not in ("lr", "seconds")} for row in house.rows]
    assert own == without
    assert [row["epoch"] for row in own if "val_loss" in row] == house.epochs("val_loss")


def test_fit_moves_the_weights(chapter):
    """The comparison above would also hold for a loop that does nothing."""
    history, _, _ = trained(chapter["fit"], 0, 5, 1, lambda p: torch.optim.Adam(p, lr=0.02), dropout=0.0)
    assert history[-1]["loss"] < 0.8 * history[0]["loss"]


def test_evaluate(chapter):
    X, y = points()
    with seeded_weights(0):
        model = nn.Sequential(nn.Linear(3, 7), nn.Dropout(0.5), nn.Linear(7, 1))
    batches = [(X[:20], y[:20]), (X[20:], y[20:])]
    own = chapter["evaluate"](model, batches, nn.MSELoss())
    assert own == training.evaluate(model, batches, nn.MSELoss())["loss"]
    model.eval()
    assert own == pytest.approx(nn.MSELoss()(model(X), y).item(), rel=1e-6)


@pytest.mark.parametrize("batch_size", [1, 4, 23, 50])
def test_shuffled_delivers_the_house_s_minibatches(chapter, batch_size):
    X, y = points()
    own = chapter["Shuffled"](X, y, batch_size, generator("walk", 3))
    house = Minibatches(X, y, batch_size, shuffle=generator("walk", 3))
    walks = []
    for _ in range(3):
        pairs = list(zip(own, house, strict=True))
        for (own_X, own_y), (house_X, house_y) in pairs:
            assert torch.equal(own_X, house_X)
            assert torch.equal(own_y, house_y)
        walks.append(torch.cat([one[0] for one, _ in pairs]))
    assert not torch.equal(walks[0], walks[1])


def banana(p):
    """A curved valley, on which the rules have more to do than in a bowl."""
    return (1 - p[0]) ** 2 + 5 * (p[1] - p[0] ** 2) ** 2 + 0.1 * p[2] ** 4


def banana_slope(p):
    p = p.detach().requires_grad_()
    return torch.autograd.grad(banana(p), p)[0]


RULES = {
    "sgd": ({}, lambda p: torch.optim.SGD(p, lr=0.005)),
    "momentum": ({"mu": 0.8}, lambda p: torch.optim.SGD(p, lr=0.005, momentum=0.8)),
    "nesterov": ({}, lambda p: torch.optim.SGD(p, lr=0.005, momentum=0.9, nesterov=True)),
    "rmsprop": ({"alpha": 0.9}, lambda p: torch.optim.RMSprop(p, lr=0.005, alpha=0.9)),
    "adam": ({"beta1": 0.8, "beta2": 0.99}, lambda p: torch.optim.Adam(p, lr=0.005, betas=(0.8, 0.99))),
    "adagrad": ({}, lambda p: torch.optim.Adagrad(p, lr=0.005)),
}


@pytest.mark.parametrize("name", RULES)
def test_rules_equal_torch_optim(chapter, name):
    settings, make = RULES[name]
    start = torch.tensor([-1.0, 1.5, 2.0], dtype=torch.float64)
    own = chapter["follow"](chapter[name], start, banana_slope, 200, lr=0.005, **settings)
    torch_s = chapter["follow_torch"](make, start, banana, 200)
    assert own.shape == (201, 3)
    assert banana(own[-1]) < banana(own[0])
    torch.testing.assert_close(own, torch_s, rtol=1e-9, atol=1e-9)


def test_look_ahead_is_nesterov(chapter):
    start = torch.tensor([-1.0, 1.5, 2.0], dtype=torch.float64)
    own = chapter["look_ahead"](start, banana_slope, 300, 0.005, 0.9)
    other = chapter["follow"](chapter["nesterov"], start, banana_slope, 300, lr=0.005)
    torch.testing.assert_close(own, other, rtol=1e-9, atol=1e-9)


def test_hand_gradient(chapter):
    params = torch.randn(4, 2, dtype=torch.float64, generator=generator("params")).requires_grad_()
    x, y = torch.randn(2, 4, 9, dtype=torch.float64, generator=generator("xy"))
    (by_autograd,) = torch.autograd.grad(chapter["mse"](params, x, y).sum(), params)
    torch.testing.assert_close(chapter["hand_gradient"](params, x, y), by_autograd)


def test_network_gradients(chapter):
    X, y = points()
    with seeded_weights(1):
        net = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 1))
    nn.MSELoss()(net(X), y).backward()
    for p, by_hand in zip(net.parameters(), chapter["network_gradients"](net, X, y), strict=True):
        torch.testing.assert_close(by_hand, p.grad)


def test_graph_of(chapter):
    a = torch.tensor(2.0, requires_grad=True)
    nodes, edges = chapter["graph_of"]((a * a).sin() + 1)
    kinds = [type(node).__name__ for node in nodes]
    assert kinds == ["AddBackward0", "SinBackward0", "MulBackward0", "AccumulateGrad"]
    assert len(edges) == 4  # two of them from the product to `a`
    assert nodes[-1].variable is a
