"""Recorded trainings of chapter 14: the small convolutional network, one change at a time."""

from __future__ import annotations

import torch
from torch import nn

from helpers.batches import Minibatches
from helpers.models import conv_net
from helpers.recipes.chapter_12 import _published_split
from helpers.results import recipe
from helpers.runtime import device, generator, seeded_weights
from helpers.training import History, fit


def _train(
    seed: int,
    n_epochs: int,
    *,
    fast: bool,
    width: int = 16,
    batch_norm: bool = False,
    dropout: float = 0.0,
    l2: float = 0.0,
    l1: float = 0.0,
    label_smoothing: float = 0.0,
    flip: bool = False,
    shift: int = 0,
) -> History:
    """Chapter 12's network with one change; plain SGD at 0.01, or fast: one-cycle Nesterov SGD up to 0.05."""
    X, y, X_val, y_val = _published_split()
    with seeded_weights(seed):
        model = conv_net(width, batch_norm=batch_norm, dropout=dropout)
    layout = torch.channels_last
    model.to(device(), memory_format=layout)
    augment = generator("augment", seed) if flip or shift else None
    batches = Minibatches(
        X.to(memory_format=layout),
        y,
        64,
        shuffle=generator("shuffle", seed),
        augment=augment,
        flip=flip,
        crop=shift,
    )
    cross_entropy = nn.CrossEntropyLoss(label_smoothing=label_smoothing)

    def loss_fn(logits, targets):
        loss = cross_entropy(logits, targets)
        if l2:
            loss = loss + l2 * sum((parameter**2).sum() for parameter in model.parameters())
        if l1:
            loss = loss + l1 * sum(parameter.abs().sum() for parameter in model.parameters())
        return loss

    if fast:
        optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.95, nesterov=True)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, epochs=n_epochs, steps_per_epoch=len(batches))
    else:
        optimizer, schedule = torch.optim.SGD(model.parameters(), lr=0.01), None
    torch.manual_seed(seed)  # dropout draws from the global generator
    return fit(
        model,
        batches,
        loss_fn,
        optimizer,
        n_epochs,
        step_schedule=schedule,
        evaluate_on={"train": Minibatches(X, y, 1000), "val": Minibatches(X_val, y_val, 1000)},
        eval_every=10,
    )


_COMMON = {"seeds": 10, "data": "cifar10", "uses": (conv_net, _published_split)}
_CHANGES = {
    "plain": {},
    "flips": {"flip": True},
    "shifts": {"flip": True, "shift": 2},
    "wide": {"width": 32},
    "l2": {"l2": 0.001},
    "l1": {"l1": 0.001},
    "dropout": {"dropout": 0.4},
    "batch_norm": {"batch_norm": True},
    "label_smoothing": {"label_smoothing": 0.1},
}
for _name, _change in _CHANGES.items():
    if _name == "flips":  # that one is 12_one_cycle
        continue
    recipe(f"14_fast_{_name}", n_epochs=10, **_COMMON, fast=True, **_change)(_train)
for _name in ("l2", "dropout", "batch_norm", "wide", "flips"):  # plain for 100 epochs is 12_plain
    recipe(f"14_long_{_name}", n_epochs=100, **_COMMON, fast=False, **_CHANGES[_name])(_train)
