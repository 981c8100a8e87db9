"""Chapter 16's ladders by the wall clock: ``python -m tests.benchmarks.fast_training``.

The last rung of each ladder is trained whole, from images in memory to a trained model, with as many
threads as there are cores; the first rung for one epoch, whose time is multiplied by its number of
epochs. Run it on a machine that does nothing else: the promise is about the wall clock.
"""

from __future__ import annotations

import os
import statistics
import sys
from time import perf_counter

import torch
from torch import nn
from torch.utils.data import DataLoader, Subset

from helpers import cifar10, recipes, results  # noqa: F401  (recipes fills RECIPES)
from helpers.models import Net, dense_net
from helpers.recipes.chapter_12 import _published_split
from helpers.recipes.chapter_16 import BothViews, _one_cycle
from helpers.runtime import device, generator
from helpers.training import evaluate, fit

GOAL = 5.0  # seconds of wall time
REPEATS = 3
PLAIN_EPOCHS = {"cnn": 80, "dense": 100}  # dense: 0.82 is not reached by then


def per_item(*first) -> Subset:
    """Return birds and airplanes, each picture made and transformed when asked for, by `first` before all else."""
    from torchvision.transforms import v2

    steps = [*first, v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(cifar10.MEAN, cifar10.STD)]
    full = cifar10.CIFAR10(transform=v2.Compose(steps), target_transform=lambda label: int(label == 2))
    return Subset(full, [i for i, label in enumerate(full.targets) if label in (0, 2)])


class OnDevice:
    """Walk over a DataLoader; move each minibatch to the device."""

    def __init__(self, loader):
        self.loader = loader

    def __iter__(self):
        for X, y in self.loader:
            yield X.to(device()), y.to(device())


def seconds(run) -> float:
    """Return the wall seconds of a call, a GPU's work included."""
    started = perf_counter()
    run()
    if device().type != "cpu":
        torch.accelerator.synchronize()
    return perf_counter() - started


def first_rung(net: str, images: Subset) -> float:
    """Return the wall seconds of one epoch by the plain recipe."""
    model = {"cnn": Net, "dense": dense_net}[net]().to(device())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    loader = OnDevice(DataLoader(images, 64, shuffle=True, generator=generator("shuffle")))
    return seconds(lambda: fit(model, loader, nn.CrossEntropyLoss(), optimizer, 1))


def last_rung(net: str, seed: int) -> tuple[float, float]:
    """Return the wall seconds of the whole training by the last rung, and the validation accuracy of two views."""
    recipe = results.RECIPES[f"16_{net}_fast"]
    X, y, X_val, y_val = _published_split()
    made = []
    spent = seconds(lambda: made.append(_one_cycle(seed, recipe.n_epochs, X, y, **recipe.settings)[0]))
    parts = list(zip(X_val.split(500), y_val.split(500), strict=True))
    return spent, evaluate(BothViews(made[0]), parts, nn.CrossEntropyLoss())["accuracy"]


def main() -> int:
    """Print the table; return 1 when a last rung takes longer than the goal."""
    torch.set_num_threads(os.cpu_count() or 1)
    images, broken = per_item(), 0
    last_rung("dense", 0)  # warm-up: lazy imports, memory
    print(f"{torch.get_num_threads()} threads, wall seconds, median of {REPEATS}")
    print(
        f"{'':<8}{'first rung':>12}{'epochs':>8}{'together':>10}{'last rung':>11}{'ratio':>7}{'accuracy':>9}  promise"
    )
    for net in ("cnn", "dense"):
        epoch_s = first_rung(net, images)
        runs = [last_rung(net, seed) for seed in range(REPEATS)]
        spent = statistics.median(run[0] for run in runs)
        accuracy = statistics.mean(run[1] for run in runs)
        plain = epoch_s * PLAIN_EPOCHS[net]
        kept = spent <= GOAL
        broken += not kept
        print(
            f"{net:<8}{epoch_s:>12.2f}{PLAIN_EPOCHS[net]:>8}{plain:>10.0f}{spent:>11.2f}{plain / spent:>7.0f}"
            f"{accuracy:>9.3f}  at most {GOAL:g} s{'' if kept else '  BROKEN'}",
            flush=True,
        )
    print("the accuracies are of a few seeds; the records 16_cnn_fast and 16_dense_fast hold ten")
    return int(broken > 0)


if __name__ == "__main__":
    sys.exit(main())
