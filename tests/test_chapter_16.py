"""Chapter 16's definitions equal those that made its records, and its counts those of PyTorch."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from helpers import models, results
from helpers.recipes import chapter_16 as recipes
from helpers.runtime import generator, seeded_weights
from tests.test_chapters import definitions


def draw(*shape, purpose="x"):
    return torch.randn(*shape, generator=generator(purpose))


@pytest.fixture(scope="module")
def chapter():
    return definitions("16", device=torch.device("cpu"), loss_fn=nn.CrossEntropyLoss(), X_all=draw(2, 3, 32, 32))


@pytest.mark.parametrize("name", ["InBfloat16", "BothViews"])
@pytest.mark.parametrize("make", [models.small_net, models.dense_net])
def test_wrappers(chapter, name, make):
    with seeded_weights(1):
        model = make()
    X = draw(6, 3, 32, 32)
    theirs = getattr(recipes, name)(model)(X)
    torch.testing.assert_close(chapter[name](model)(X), theirs, rtol=0, atol=0)
    assert not torch.equal(theirs, model(X))
    assert theirs.dtype == torch.float32


@pytest.mark.parametrize(
    ("net", "settings"),
    [
        ("cnn", {"n_epochs": 1, "batch_size": 64, "lr": 0.1, "flip": False}),
        ("cnn", {"n_epochs": 2, "batch_size": 32, "lr": 0.05, "flip": True}),
        ("dense", {"n_epochs": 2, "batch_size": 64, "lr": 0.02, "flip": True}),
    ],
)
def test_the_last_rung_is_the_recorded_recipe(net, settings):
    X, y = draw(150, 3, 32, 32), torch.randint(0, 2, (150,), generator=generator("y"))
    names = {
        "device": torch.device("cpu"),
        "loss_fn": nn.CrossEntropyLoss(),
        "X_train_all": X,
        "y_train_all": y,
        "last": torch.channels_last,
        "makers": {"cnn": models.small_net, "dense": models.dense_net},
    }
    ours, _ = definitions("16", **names)["fast_training"](net, 3, **settings)
    theirs, _ = recipes._one_cycle(3, X=X, y=y, net=net, bf16=True, **settings)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", [models.small_net, models.dense_net, models.deep_dense_net, models.conv_net])
def test_arithmetic_by_hand(chapter, make):
    """Equation (16.1), and (16.2) for a whole step, against PyTorch's counter."""
    model, X = make(), draw(8, 3, 32, 32)
    counts = chapter["by_hand"](model)
    with FlopCounterMode(display=False) as forward:
        logits = model(X)
    assert forward.get_total_flops() == 8 * 2 * sum(counts)
    with FlopCounterMode(display=False) as backward:
        logits.sum().backward()
    assert backward.get_total_flops() == 8 * 2 * (2 * sum(counts) - counts[0])


def test_operations_of_a_layer(chapter):
    count, X = chapter["operations"], draw(2, 4, 8, 8)
    conv, linear = nn.Conv2d(4, 5, 3, stride=2), nn.Linear(8, 6)
    assert count(conv, conv(X)) == 2 * conv(X).numel() * 4 * 9
    assert count(linear, linear(X)) == 2 * X.numel() * 6
    assert count(nn.MaxPool2d(2), nn.MaxPool2d(2)(X)) == 3 * 2 * 4 * 4 * 4
    assert count(nn.Tanh(), X) == X.numel()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("aten::mkldnn_convolution", "convolution"),
        ("aten::convolution_backward", "convolution"),
        ("aten::addmm", "matrix product"),
        ("aten::max_pool2d_with_indices_backward", "pooling"),
        ("aten::tanh_backward", "tanh"),
        ("Optimizer.step#SGD.step", "optimizer"),
        ("aten::copy_", "all the rest"),
    ],
)
def test_kinds_of_operations(chapter, name, kind):
    kinds = {
        "convolution": ("conv",),
        "matrix product": ("mm",),
        "pooling": ("pool", "fill_"),
        "tanh": ("tanh",),
        "optimizer": ("Optimizer", "_foreach", "_fused"),
    }
    chapter["kind_of"].__globals__["KINDS"] = kinds
    assert chapter["kind_of"](name) == kind


def test_last_rungs_use_what_was_chosen():
    """The recorded settings of the last rungs stand among the trials on X_tune."""
    for net in ("cnn", "dense"):
        last = results.RECIPES[f"16_{net}_fast"]
        trials = [
            this
            for id, this in results.RECIPES.items()
            if id.startswith(f"16_tune_{net}")
            and all(
                this.settings.get(name, default) == last.settings.get(name, default)
                for name, default in (("flip", False), ("batch_size", 64), ("bf16", False), ("crop", 0))
            )
        ]
        assert any(
            last.n_epochs in trial.settings["lengths"] and last.settings["lr"] in trial.settings["rates"]
            for trial in trials
        )
