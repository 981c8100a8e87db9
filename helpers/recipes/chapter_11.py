"""Recorded trainings of chapter 11: fully connected networks on birds against airplanes."""

from __future__ import annotations

import torch
from torch import nn

from helpers.batches import Minibatches, shift_right
from helpers.models import deep_dense_net, dense_net
from helpers.recipes.chapter_12 import _published_split
from helpers.results import recipe
from helpers.runtime import device, generator, seeded_weights
from helpers.training import History, fit


def _plain(seed: int, n_epochs: int, batch_size: int) -> History:
    """The fully connected network 3072-512-2 as published: SGD, learning rate 0.01, no augmentation."""
    X, y, X_val, y_val = _published_split()
    with seeded_weights(seed):
        model = dense_net()
    model.to(device())
    return fit(
        model,
        Minibatches(X, y, batch_size, shuffle=generator("shuffle", seed)),
        nn.CrossEntropyLoss(),
        torch.optim.SGD(model.parameters(), lr=0.01),
        n_epochs,
        evaluate_on={"train": Minibatches(X, y, 1000), "val": Minibatches(X_val, y_val, 1000)},
        eval_every=10,
    )


_PARTS = (dense_net, _published_split)
recipe("11_dense", seeds=10, n_epochs=100, data="cifar10", uses=_PARTS, batch_size=64)(_plain)
recipe("11_dense_batch_2", seeds=3, n_epochs=20, data="cifar10", uses=_PARTS, optional=True, batch_size=2)(_plain)


def _one_hidden(width: int) -> nn.Sequential:
    """Return 3 x 32 x 32 pixels, `width` tanh units, 2 logits."""
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, width), nn.Tanh(), nn.Linear(width, 2))


def _fast(seed: int, n_epochs: int, lr: float, width: int, shift: int) -> History:
    """A fully connected network by the fast recipe; images shifted by up to `shift` pixels. Width 0: the deeper one."""
    X, y, X_val, y_val = _published_split()
    with seeded_weights(seed):
        model = _one_hidden(width) if width else deep_dense_net()
    model.to(device())
    shuffle, augment = generator("shuffle", seed), generator("augment", seed)
    batches = Minibatches(X, y, 64, shuffle=shuffle, augment=augment, flip=True, crop=shift)
    optimizer = torch.optim.SGD(model.parameters(), lr, momentum=0.95, nesterov=True)
    held_out = {"train": Minibatches(X, y, 1000), "val": Minibatches(X_val, y_val, 1000)}
    held_out |= {f"val_shift_{pixels}": Minibatches(shift_right(X_val, pixels), y_val, 1000) for pixels in range(9)}
    return fit(
        model,
        batches,
        nn.CrossEntropyLoss(),
        optimizer,
        n_epochs,
        step_schedule=torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, epochs=n_epochs, steps_per_epoch=len(batches)),
        evaluate_on=held_out,
        eval_every=n_epochs,
    )


_FAST = {
    "seeds": 10,
    "n_epochs": 10,
    "data": "cifar10",
    "uses": (_one_hidden, deep_dense_net, _published_split),
    "lr": 0.01,
}
recipe("11_deep_dense", **_FAST, width=0, shift=0)(_fast)
for _width in (128, 512, 1024):
    if _width != 512:  # that one is 12_dense
        recipe(f"11_width_{_width}", **_FAST, width=_width, shift=0)(_fast)
    recipe(f"11_width_{_width}_shifts", **_FAST, width=_width, shift=4)(_fast)
