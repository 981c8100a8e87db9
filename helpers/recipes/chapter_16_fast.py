"""Recorded trainings of chapter 16 by the recipe of `helpers.fast`: two classes in two minutes, and all ten.

Choices were made on X_tune (two classes), and on 5,000 training images held back (ten classes).
"""

from __future__ import annotations

from functools import cache

import torch
from torch import nn

from helpers import cifar10, fast
from helpers.batches import Minibatches
from helpers.recipes.chapter_12 import _published_split
from helpers.results import recipe
from helpers.runtime import device, seeded_weights
from helpers.training import History, evaluate, fit


@cache
def _all_classes() -> tuple[torch.Tensor, ...]:
    """All 50,000 training and 10,000 test images, standardised, channels last."""
    data = cifar10.tensors()
    # Piece by piece: in one piece the intermediate results need 2 GB.
    X, X_test = (
        torch.cat([cifar10.standardise(part) for part in images.split(5000)]) for images in (data.X_train, data.X_test)
    )
    tensors = X.to(memory_format=torch.channels_last), data.y_train, X_test, data.y_test
    return tuple(tensor.to(device()) for tensor in tensors)


def _measured(trained: fast.Trained, X: torch.Tensor, y: torch.Tensor) -> History:
    """Add accuracies to the last row: of the whole recipe, and without averaged weights, further views, or both."""
    variants = {
        "val": fast.Views(trained.averaged),
        "val_one_view": trained.averaged,
        "val_last_weights": fast.Views(trained.model),
        "val_neither": trained.model,
    }
    for name, model in variants.items():
        measured = evaluate(model, Minibatches(X, y, 1000), nn.CrossEntropyLoss())
        trained.history.rows[-1][f"{name}_accuracy"] = measured["accuracy"]
    return trained.history


_PARTS = (
    fast.whitening_kernels,
    fast.FastNet,
    fast._conv,
    fast.AlternatingBatches,
    fast._reflect,
    fast.Views,
    fast.train,
)


@recipe(
    "16_best_two_classes",
    seeds=10,
    n_epochs=16,
    data="cifar10",
    uses=(*_PARTS, _measured, _published_split),
    half=True,
)
def two_classes(seed: int, n_epochs: int, half: bool) -> History:
    """Birds against airplanes by the recipe of `helpers.fast`, all 10,000 training images, bfloat16."""
    X, y, X_val, y_val = _published_split()
    return _measured(fast.train(X, y, seed=seed, n_epochs=n_epochs, half=half), X_val, y_val)


@cache
def _load_kernels(**settings) -> None:
    """Train for a few steps: what a GPU loads and chooses once, in its first steps, is not the recipe's time."""
    X, y, _, _ = _all_classes()
    fast.train(X[:5000], y[:5000], seed=0, n_epochs=1, **settings)


def _ten_classes(seed: int, n_epochs: int, **settings) -> History:
    """All ten classes by the recipe of `helpers.fast`, all 50,000 training images, bfloat16."""
    X, y, X_test, y_test = _all_classes()
    with torch.backends.cudnn.flags(benchmark=True):
        if device().type == "cuda":
            _load_kernels(**settings)
        trained = fast.train(X, y, seed=seed, n_epochs=n_epochs, **settings)
        return _measured(trained, X_test, y_test)


_TEN = {"data": "cifar10", "uses": (*_PARTS, _measured, _all_classes, _load_kernels), "half": True}
# Three runs are a demonstration; more are a matter of time.
recipe("16_ten_classes_cpu", seeds=3, n_epochs=3, **_TEN)(_ten_classes)
recipe(
    "16_ten_classes_gpu",
    seeds=10,
    n_epochs=10,
    **_TEN,
    optional=True,
    widths=(64, 256, 256),
    batch_size=1000,
    lr=1.2,
    label_smoothing=0.2,
)(_ten_classes)


class _RandomFlips(fast.AlternatingBatches):
    """The same batches, but each image is mirrored with probability 1/2 in every epoch."""

    def __iter__(self):
        self.first = torch.rand(len(self.X), generator=self.shifts) < 0.5
        return super().__iter__()


def _part(seed: int, n_epochs: int, whitened: bool, flips: str, widths: tuple[int, ...]) -> History:
    """A narrow network of `helpers.fast` on 3,000 images, last weights, one view; whitening or flips may differ."""
    X, y, X_val, y_val = _published_split()
    kind = {"alternating": fast.AlternatingBatches, "random": _RandomFlips}[flips]
    batches = kind(X[:3000], y[:3000], 100, seed)
    with seeded_weights(seed):
        model = fast.FastNet(batches.X[:1000], 2, widths, half=True)
        if not whitened:
            model.whiten.reset_parameters()
            model.whiten.weight.requires_grad_(True)
    model.to(device(), memory_format=torch.channels_last)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.SGD(weights, 0.1, momentum=0.9, weight_decay=1.3e-3, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, n_epochs * len(batches), pct_start=0.25)
    loss_fn = nn.CrossEntropyLoss(label_smoothing=0.1)
    held_out = {"val": Minibatches(X_val, y_val, 1000)}
    return fit(
        model,
        batches,
        loss_fn,
        optimizer,
        n_epochs,
        step_schedule=schedule,
        evaluate_on=held_out,
        eval_every=n_epochs,
    )


for _name, _change in (("all", {}), ("no_whitening", {"whitened": False}), ("random_flips", {"flips": "random"})):
    recipe(
        f"16_parts_{_name}",
        seeds=10,
        n_epochs=4,
        data="cifar10",
        uses=(*_PARTS, _published_split, _RandomFlips),
        **{"whitened": True, "flips": "alternating", "widths": (16, 32, 64)} | _change,
    )(_part)
