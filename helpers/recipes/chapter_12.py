"""Recorded trainings of chapter 12: the small convolutional network, plain and fast."""

from __future__ import annotations

from functools import cache

import torch
from torch import nn

from helpers import cifar10
from helpers.batches import Minibatches, shift_right
from helpers.models import Net, dense_net, small_net
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


@recipe("12_plain", seeds=10, n_epochs=100, data="cifar10", uses=(Net, _published_split))
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


def _one_cycle(model: nn.Module, X, y, seed: int, n_epochs: int, lr: float, evaluate_on) -> History:
    """Train by the fast recipe of chapter 12: one-cycle Nesterov SGD, minibatches of 64, random flips."""
    layout = torch.channels_last
    model.to(device(), memory_format=layout)
    shuffle, augment = generator("shuffle", seed), generator("augment", seed)
    batches = Minibatches(X.to(memory_format=layout), y, 64, shuffle=shuffle, augment=augment, flip=True)
    optimizer = torch.optim.SGD(model.parameters(), lr, momentum=0.95, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, epochs=n_epochs, steps_per_epoch=len(batches))
    return fit(
        model,
        batches,
        nn.CrossEntropyLoss(),
        optimizer,
        n_epochs,
        step_schedule=schedule,
        evaluate_on=evaluate_on,
        eval_every=n_epochs,
    )


def _tuned(seed: int, n_epochs: int, lr: float) -> History:
    """One-cycle recipe on 9,000 images, judged on the 1,000 of X_tune: the choice of a learning rate."""
    data = cifar10.birds_and_airplanes()
    X, X_tune = cifar10.standardise(data.X_train), cifar10.standardise(data.X_tune)
    with seeded_weights(seed):
        model = small_net()
    tune = {"tune": Minibatches(X_tune, data.y_tune, 1000, device=device())}
    return _one_cycle(model, X.to(device()), data.y_train.to(device()), seed, n_epochs, lr, tune)


for _lr in (0.02, 0.05, 0.1, 0.2):
    recipe(f"12_tune_lr_{_lr}", seeds=5, n_epochs=10, data="cifar10", uses=(small_net, _one_cycle), lr=_lr)(_tuned)


def _shifted(seed: int, n_epochs: int, lr: float, model: nn.Module) -> History:
    """Train on all 10,000 images; measure validation accuracy on images shifted by 0 to 8 pixels."""
    X, y, X_val, y_val = _published_split()
    held_out = {"train": Minibatches(X, y, 1000), "val": Minibatches(X_val, y_val, 1000)}
    held_out |= {f"val_shift_{pixels}": Minibatches(shift_right(X_val, pixels), y_val, 1000) for pixels in range(9)}
    return _one_cycle(model, X, y, seed, n_epochs, lr, held_out)


_PARTS = (small_net, _one_cycle, _shifted, _published_split)


def _fast(seed: int, n_epochs: int, lr: float, pool: str) -> History:
    """Chapter 12's network by the fast recipe: one-cycle Nesterov SGD, minibatches of 64, random flips."""
    with seeded_weights(seed):
        model = small_net(pool)
    return _shifted(seed, n_epochs, lr, model)


for _id, _pool in (("12_one_cycle", "max"), ("12_pool_average", "average"), ("12_pool_strided", "strided")):
    recipe(_id, seeds=10, n_epochs=10, data="cifar10", uses=_PARTS, lr=0.05, pool=_pool)(_fast)


@recipe("12_dense", seeds=10, n_epochs=10, data="cifar10", uses=(dense_net, *_PARTS[1:]), lr=0.01)
def dense(seed: int, n_epochs: int, lr: float) -> History:
    """The fully connected network 3072-512-2 by the fast recipe, at learning rate 0.01."""
    with seeded_weights(seed):
        model = dense_net()
    return _shifted(seed, n_epochs, lr, model)
