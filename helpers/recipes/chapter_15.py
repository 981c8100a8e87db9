"""Recorded trainings of chapter 15: networks that grow deeper, plain and with skip connections."""

from __future__ import annotations

from helpers.batches import Minibatches
from helpers.models import DepthNet
from helpers.recipes.chapter_12 import _one_cycle, _published_split
from helpers.results import recipe
from helpers.runtime import seeded_weights
from helpers.training import History


def _three(seed: int, n_epochs: int, lr: float, skip: bool) -> History:
    """Three convolutions (32-16-16, ReLU), plain or with a skip around the third, by the fast recipe."""
    X, y, X_val, y_val = _published_split()
    with seeded_weights(seed):
        model = DepthNet(skip=skip)
    held_out = {"train": Minibatches(X, y, 1000), "val": Minibatches(X_val, y_val, 1000)}
    return _one_cycle(model, X, y, seed, n_epochs, lr, held_out)


for _name, _skip in (("plain", False), ("skip", True)):
    recipe(
        f"15_three_{_name}",
        seeds=10,
        n_epochs=10,
        data="cifar10",
        uses=(DepthNet, _one_cycle, _published_split),
        lr=0.05,
        skip=_skip,
    )(_three)
