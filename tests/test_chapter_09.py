"""Chapter 09: copies trained together, grids, losses and points against references."""

import pytest
import torch
from torch import nn

from helpers.recipes import chapter_09 as recipes
from helpers.runtime import generator, seeded_weights
from helpers.training import fit
from tests.test_chapters import definitions, same_function


@pytest.fixture(scope="module")
def chapter():
    space = definitions("09", moon_axes=None)
    space["template"] = space["LogicNet"]()
    return space


@pytest.fixture
def data():
    X = torch.randn(40, 2, generator=generator("chapter 09"))
    return X, (X[:, 0] * X[:, 1] > 0).long()


def test_copies_are_separate_trainings(chapter, data):
    X, y = data
    params = chapter["make_copies"]([4, 7])
    losses = chapter["train_together"](params, X, y, 30, chapter["adam_of"](params))
    for i, seed in enumerate((4, 7)):
        with seeded_weights(seed):
            model = chapter["LogicNet"]()
        adam = torch.optim.Adam(model.parameters(), lr=0.01)
        history = fit(model, [(X, y)], nn.CrossEntropyLoss(), adam, 30)
        torch.testing.assert_close(losses[:, i], torch.tensor(history["loss"]), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(chapter["logits_of"](params, X)[i], model(X), rtol=1e-3, atol=1e-4)


def test_accuracies(chapter):
    logits = torch.tensor([[2.0, 1.0], [0.0, 3.0], [1.0, 0.0], [5.0, 4.0]])
    assert chapter["accuracy"](logits, torch.tensor([0, 1, 1, 0])).item() == 0.75
    one = torch.tensor([[[2.0], [-1.0]], [[-2.0], [-1.0]]])
    assert chapter["hits"](one, torch.tensor([[1.0], [0.0]])).tolist() == [1.0, 0.5]


@pytest.mark.parametrize("n_outputs", [1, 2])
def test_margin_on_grid_keeps_every_node_in_its_place(chapter, n_outputs):
    with seeded_weights(1):
        model = nn.Linear(2, n_outputs)
    x1, x2 = torch.linspace(-1, 2, 5), torch.linspace(0, 1, 3)
    grid_1, grid_2, margin = chapter["margin_on_grid"](model, x1, x2)
    for row in range(3):
        for column in range(5):
            assert (grid_1[row, column], grid_2[row, column]) == (x1[column], x2[row])
            logits = model(torch.stack([x1[column], x2[row]]))
            expected = logits[0] if n_outputs == 1 else logits[1] - logits[0]
            torch.testing.assert_close(margin[row, column], expected)


def test_three_ways_agree_on_small_logits(chapter):
    z = torch.randn(30, generator=generator("three ways"))
    t = (z > 0).float()
    for way in ("by_hand", "with_bce"):
        torch.testing.assert_close(chapter[way](z, t), nn.BCEWithLogitsLoss()(z, t))
    loss, slope = chapter["loss_and_slope"](nn.BCEWithLogitsLoss(), 1.0, 0.0)
    assert loss == pytest.approx(1.313262, abs=1e-5)
    assert slope == pytest.approx(0.731059, abs=1e-5)


def test_disc_and_network_are_those_of_the_records(chapter):
    for ours, theirs in zip(chapter["disc_points"](3), recipes.disc_points(3), strict=True):
        assert torch.equal(ours, theirs)
    same_function(lambda: chapter["network"]((2, 4, 4, 1)), lambda: recipes.network((2, 4, 4, 1)), torch.randn(6, 2))


def test_random_rows_draws_pairs(chapter, data):
    X, y = data
    rows = chapter["RandomRows"](X, y, 7, generator("rows"))
    [(X_some, y_some)] = list(rows)
    assert X_some.shape == (7, 2)
    assert torch.equal(y_some, (X_some[:, 0] * X_some[:, 1] > 0).long())


def test_squared_error_recipe_is_plain_gradient_descent():
    seeds, logits = [3, 5], {}
    X, y = recipes.disc_sets(seeds)
    recipes._squared_error(seeds, torch.tensor([0.5, 0.1]), X, y, 20, lambda epoch, z: logits.update({epoch: z}))
    for i, (seed, lr) in enumerate(zip(seeds, (0.5, 0.1), strict=True)):
        with seeded_weights(seed):
            model = nn.Sequential(*recipes.network((2, 4, 4, 1)), nn.Sigmoid())
        fit(model, [(X[i], y[i])], nn.MSELoss(), torch.optim.SGD(model.parameters(), lr=lr), 20)
        torch.testing.assert_close(logits[20][i].sigmoid(), model(X[i]))
