"""Recorded trainings of chapter 13: the digits network as published, with pooling, and with dropout."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import nn

from helpers import datasets
from helpers.results import recipe
from helpers.runtime import device, generator, seeded_weights
from helpers.trainer import Trainer
from helpers.training import History


@cache
def _digits() -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return (X, y) of 3,500 digits to train, 500 to tune and 1,000 to validate, standardised."""
    table = torch.from_numpy(np.loadtxt(datasets.path("digits", "mnist_5k.csv.gz"), delimiter=",", dtype=np.int64))
    X, y = table[:, :-1].reshape(-1, 1, 28, 28) / 255, table[:, -1]
    g, parts = generator("split"), ([], [], [])
    for digit in range(10):
        rows = (y == digit).nonzero()[:, 0]
        rows = rows[torch.randperm(len(rows), generator=g)]
        pieces = rows.tensor_split((7 * len(rows) // 10, 8 * len(rows) // 10))
        for part, piece in zip(parts, pieces, strict=True):
            part.append(piece)
    train, tune, val = map(torch.cat, parts)
    mean, deviation = X[train].mean(), X[train].std()
    return [((X[rows] - mean) / deviation, y[rows]) for rows in (train, tune, val)]


def _network(pool: bool, dropout: float) -> nn.Sequential:
    """Return 1-16-8 convolutions and two dense layers; `dropout` of the features that the first of them takes."""
    halve, side = ([nn.MaxPool2d(2)], 7) if pool else ([], 28)
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), *halve),
        *(nn.Conv2d(16, 8, 3, padding=1), nn.ReLU(), *halve),
        *(nn.Flatten(), nn.Dropout(dropout), nn.Linear(8 * side * side, 32), nn.ReLU(), nn.Linear(32, 10)),
    )


def _train(seed: int, n_epochs: int, *, pool: bool = False, dropout: float = 0.0) -> History:
    """The 1-16-8 network for digits, SGD at 0.01 with momentum 0.9; measured on all sets every five epochs."""
    train, tune, val = _digits()
    with seeded_weights(seed):
        model = _network(pool, dropout).to(device())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    trainer = Trainer(model, optimizer, nn.CrossEntropyLoss(), seed=seed)
    torch.manual_seed(seed)  # dropout draws from the global generator
    while len(trainer.history) < n_epochs:
        row = trainer.fit(*train, *tune, n_epochs=5, eval_every=1).rows[-1]
        for name, held_out in (("train", train), ("val", val)):
            measured = trainer.evaluate(*held_out)
            row |= {f"{name}_{what}": value for what, value in measured.items()}
    return trainer.history


_COMMON = {"seeds": 10, "n_epochs": 15, "data": "digits", "uses": (_digits, _network)}
recipe("13_plain", **_COMMON)(_train)
recipe("13_pooled", **_COMMON, pool=True)(_train)
recipe("13_dropout", **_COMMON, dropout=0.5)(_train)
recipe("13_pooled_dropout", **_COMMON, pool=True, dropout=0.5)(_train)
