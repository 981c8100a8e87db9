"""Training recipes whose runs over many seeds are recorded in ``data/results/``.

A recipe trains once for one seed and returns the history; its last row holds the accuracies.
``make results`` runs what is missing. Chapters show the same recipes step by step.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import nn

from helpers import cifar10
from helpers.batches import Minibatches
from helpers.models import Net
from helpers.results import recipe
from helpers.runtime import device, generator, seeded_weights
from helpers.training import History, fit


@cache
def _published_split() -> tuple[torch.Tensor, ...]:
    """Birds and airplanes as published: all 10,000 images to train on, standardised."""
    data = cifar10.birds_and_airplanes()
    X = torch.cat([data.X_train, data.X_tune])
    y = torch.cat([data.y_train, data.y_tune])
    tensors = cifar10.standardise(X), y, cifar10.standardise(data.X_val), data.y_val
    return tuple(tensor.to(device()) for tensor in tensors)


@recipe("12_plain", seeds=10, n_epochs=100, data="cifar10", uses=(Net,))
def plain(seed: int, n_epochs: int) -> History:
    """Chapter 12's network, as published: SGD, learning rate 0.01, minibatches of 64."""
    X, y, X_val, y_val = _published_split()
    with seeded_weights(seed):
        model = Net()
    model.to(device())
    return fit(
        model,
        Minibatches(X, y, 64, shuffle=generator("shuffle", seed)),
        nn.CrossEntropyLoss(),
        torch.optim.SGD(model.parameters(), lr=0.01),
        n_epochs,
        evaluate_on={"train": Minibatches(X, y, 1000), "val": Minibatches(X_val, y_val, 1000)},
        eval_every=10,
    )
