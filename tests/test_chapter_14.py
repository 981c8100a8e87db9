"""Chapter 14's penalties, layers and losses equal those of `torch`, and its network that of `helpers.models`."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import SGD, Adam, AdamW

from helpers import models, results
from helpers.runtime import generator
from tests.test_chapters import definitions, same_function


@pytest.fixture(scope="module")
def chapter():
    x = torch.randn(40, 3, dtype=torch.float64, generator=generator("inputs"))
    return definitions("14", x64=x, y64=x[:, :1] ** 2 - x[:, 1:2])


def draw(*shape, purpose="x"):
    return torch.randn(*shape, generator=generator(purpose))


@pytest.mark.parametrize("width", [8, 16, 32])
@pytest.mark.parametrize("extras", [{}, {"batch_norm": True}, {"dropout": 0.4}, {"batch_norm": True, "dropout": 0.1}])
def test_conv_net(chapter, width, extras):
    """Same weights and, dropout drawn alike, same logits."""

    def seeded(make):
        def forward(X):
            torch.manual_seed(1)
            return network(X)

        network = make(width, **extras)
        return forward

    same_function(lambda: seeded(chapter["conv_net"]), lambda: seeded(models.conv_net), draw(6, 3, 32, 32))


def test_plain_conv_net_starts_as_small_net():
    """Chapter 12's record of mirrored images is paired with records of `conv_net`."""
    same_function(models.conv_net, models.small_net, draw(6, 3, 32, 32))


@pytest.mark.parametrize("settings", [{}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}])
def test_l2_is_weight_decay_of_sgd_with_a_factor_of_two(chapter, settings):
    run, lam = chapter["after_30_steps"], 0.03
    penalty = run(lambda p: SGD(p, lr=0.05, **settings), lam)
    torch.testing.assert_close(penalty, run(lambda p: SGD(p, lr=0.05, weight_decay=2 * lam, **settings)))
    for other in (0.0, lam, 4 * lam):
        decay = run(lambda p, other=other: SGD(p, lr=0.05, weight_decay=other, **settings))
        assert (penalty - decay).abs().max() > 0.01


def test_l2_is_the_argument_of_adam_and_not_adamw(chapter):
    run, lam = chapter["after_30_steps"], 0.03
    penalty = run(lambda p: Adam(p, lr=0.05), lam)
    torch.testing.assert_close(penalty, run(lambda p: Adam(p, lr=0.05, weight_decay=2 * lam)))
    assert (penalty - run(lambda p: AdamW(p, lr=0.05, weight_decay=2 * lam))).abs().max() > 0.01


def test_penalties(chapter):
    net = models.conv_net(8, batch_norm=True)
    flat = torch.cat([p.detach().flatten() for p in net.parameters()])
    torch.testing.assert_close(chapter["l2"](net).detach(), flat.square().sum())
    torch.testing.assert_close(chapter["l1"](net).detach(), flat.abs().sum())


@pytest.mark.parametrize("momentum", [0.1, 0.5])
def test_batch_norm(chapter, momentum):
    norm = nn.BatchNorm2d(5, momentum=momentum)
    nn.init.uniform_(norm.weight, 0.5, 2)
    nn.init.uniform_(norm.bias, -1, 1)
    X = 3 * draw(4, 5, 6, 7) + 2
    torch.testing.assert_close(chapter["batch_norm"](X, norm.weight, norm.bias), norm(X))
    torch.testing.assert_close(norm.running_var, 1 - momentum + momentum * X.var(dim=(0, 2, 3)))
    training = norm(X)
    norm.eval()
    torch.testing.assert_close(chapter["batch_norm_eval"](X, norm), norm(X))
    assert (training - norm(X)).abs().max() > 0.1


@pytest.mark.parametrize("p", [0.2, 0.4])
def test_dropout_keeps_the_expectation(chapter, p):
    X = draw(1, 6, 2, 2).expand(40_000, -1, -1, -1)
    torch.manual_seed(0)
    for out in (nn.Dropout2d(p)(X), chapter["drop_channels"](X, p, generator("drop"))):
        gone = (out == 0).all(dim=(2, 3))
        assert (out == 0).sum() == 4 * gone.sum()  # whole channels or nothing
        assert gone.float().mean().item() == pytest.approx(p, abs=0.01)
        torch.testing.assert_close(out.mean(dim=0), X[0], rtol=0.03, atol=0.003)


@pytest.mark.parametrize(("K", "eps"), [(2, 0.1), (5, 0.3), (3, 0.0)])
def test_label_smoothing(chapter, K, eps):
    logits = draw(9, K)
    y = torch.arange(9) % K
    expected = F.cross_entropy(logits, y, label_smoothing=eps)
    torch.testing.assert_close(chapter["smoothed_loss"](logits, y, eps), expected)


def test_epochs_to(chapter):
    """Counted from 1, one more than all where the level is never reached; accuracies every so many epochs."""
    assert [chapter["epochs_to"](level, [0.7, 0.6, 0.4, 0.5]) for level in (0.8, 0.5, 0.3)] == [1, 3, 5]
    accuracies = [0.6, 0.8, 0.9]
    assert [chapter["epochs_to_accuracy"](level, accuracies, 10) for level in (0.5, 0.7, 0.95)] == [10, 20, 40]


@pytest.mark.parametrize(("seeds", "is_used"), [(range(10), True), (range(9), False), (range(1, 11), False)])
def test_only_complete_records_are_used(chapter, monkeypatch, seeds, is_used):
    found = results.Record({"runs": [{"seed": seed} for seed in seeds]})
    monkeypatch.setitem(chapter, "record", lambda id: found)
    assert chapter["complete"]("any") is (found if is_used else None)


def test_missing_records_are_named(chapter, monkeypatch, tmp_path):
    """A record that was never begun, or has no run yet, gives None, and a line that says so."""
    monkeypatch.setattr(results, "RECORDS", tmp_path)
    (tmp_path / "begun.json").write_text('{"runs": []}')
    assert chapter["complete"]("never") is None
    assert chapter["complete"]("begun") is None
    without = {"plain": object(), "batch norm": None}
    assert "missing" in chapter["saved_by_batch_norm"](without, 0.4, None)
    for difference in ("gap_change", "val_change"):
        assert chapter[difference](without, "batch norm") is None


def test_best_row_looks_only_where_it_was_measured(chapter):
    rows = [{"epoch": 1}, {"epoch": 2, "stop_loss": 0.4}, {"epoch": 3}, {"epoch": 4, "stop_loss": 0.3}]
    assert chapter["best_row"](rows)["epoch"] == 4
