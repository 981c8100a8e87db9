"""``make bench``: how fast the data work is, one way against another, in one run.

Every pair is timed alternately, so that a machine that changes its speed changes both. The ratio is
the median over the pairs; the last column says what the book promises.
"""

from __future__ import annotations

import statistics
import sys
from time import perf_counter

import torch
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from helpers import cifar10
from helpers.batches import Minibatches
from helpers.models import Net, small_net
from helpers.runtime import generator
from helpers.training import fit
from tests.benchmarks import ensembles, fast_training

PAIRS = 7


def walk(batches) -> None:
    """Use up one epoch of batches."""
    for _ in batches:
        pass


def compare(slow, fast) -> tuple[float, float, float]:
    """Return the median seconds of both, and the median of their ratios pair by pair."""
    times = []
    slow(), fast()  # warm-up
    for _ in range(PAIRS):
        pair = []
        for run in (slow, fast):
            started = perf_counter()
            run()
            pair.append(perf_counter() - started)
        times.append(pair)
    slow_s, fast_s = (statistics.median(column) for column in zip(*times, strict=True))
    return slow_s, fast_s, statistics.median(a / b for a, b in times)


def training(model, batches, n_epochs=1):
    """Return a function that trains `model` for an epoch."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    return lambda: fit(model, batches, torch.nn.CrossEntropyLoss(), optimizer, n_epochs)


def main() -> int:
    """Print the table; return 1 when a promise is broken."""
    torch.set_num_threads(1)
    data = cifar10.birds_and_airplanes()
    X = cifar10.standardise(torch.cat([data.X_train, data.X_tune]))
    y = torch.cat([data.y_train, data.y_tune])
    shuffle, augment = generator("bench"), generator("bench-augment")
    in_memory = Minibatches(X, y, 64, shuffle=shuffle)
    augmented = Minibatches(X, y, 64, shuffle=shuffle, augment=augment, flip=True)
    over_list = DataLoader(list(zip(X, y.tolist(), strict=True)), 64, shuffle=True, generator=shuffle)
    mirrored = fast_training.per_item(v2.RandomHorizontalFlip())
    per_item = DataLoader(mirrored, 64, shuffle=True, generator=shuffle)
    last = torch.channels_last
    rows = [
        ("data: DataLoader over a list / Minibatches", over_list, in_memory, 1.0),
        ("data: picture and transforms per item / Minibatches with flip", per_item, augmented, 5.0),
        ("training: DataLoader over a list / Minibatches", training(Net(), over_list), training(Net(), in_memory), 0.9),
        (
            "training: channels first / channels last, batch 64",
            training(Net(), in_memory),
            training(Net().to(memory_format=last), Minibatches(X.to(memory_format=last), y, 64, shuffle=shuffle)),
            None,
        ),
        (
            "training: Net / small_net('strided')",
            training(Net(), in_memory),
            training(small_net("strided"), in_memory),
            None,
        ),
    ]
    broken = 0
    title = f"one epoch of 10,000 images, one thread, median of {PAIRS}"
    print(f"{title:<66}{'s':>7}{'s':>8}{'ratio':>8}  promise")
    for name, slow, fast, promise in rows:
        if not callable(slow):
            slow, fast = (lambda batches=batches: walk(batches) for batches in (slow, fast))
        slow_s, fast_s, ratio = compare(slow, fast)
        kept = promise is None or ratio >= promise
        broken += not kept
        text = "" if promise is None else f"at least {promise:g}{'' if kept else '  BROKEN'}"
        print(f"{name:<66}{slow_s:>7.3f}{fast_s:>8.3f}{ratio:>8.2f}  {text}", flush=True)
    print()
    broken += ensembles.main()
    print()
    return int(broken + fast_training.main() > 0)


if __name__ == "__main__":
    sys.exit(main())
