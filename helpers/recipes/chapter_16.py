"""Recorded trainings of chapter 16: two ladders from the plain recipe to the fastest one.

A record named ``16_tune_...`` holds what was chosen from: a row for each length of the training, a column for each
learning rate, accuracies on X_tune. The others train on all 10,000 images and look at the validation images once.
"""

from __future__ import annotations

import os
import tempfile
import time
from functools import cache

import torch
from torch import nn

from helpers import cifar10
from helpers.batches import Minibatches
from helpers.models import dense_net, small_net
from helpers.recipes.chapter_12 import _published_split
from helpers.results import recipe
from helpers.runtime import device, generator, seeded_weights
from helpers.training import History, evaluate, fit


class InBfloat16(nn.Module):
    """Chapter 16's wrapper: products of `model` in bfloat16, its weights and logits in float32."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, X):
        with torch.autocast(X.device.type, torch.bfloat16):
            logits = self.model(X)
        return logits.float()


class BothViews(nn.Module):
    """Chapter 16's second look: the mean of the logits of an image and of its mirror image."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, X):
        return (self.model(X) + self.model(X.flip(3))) / 2


@cache
def _tuning_split() -> tuple[torch.Tensor, ...]:
    """The 9,000 images to learn from and the 1,000 to choose with, standardised."""
    data = cifar10.birds_and_airplanes()
    tensors = cifar10.standardise(data.X_train), data.y_train, cifar10.standardise(data.X_tune), data.y_tune
    return tuple(tensor.to(device()) for tensor in tensors)


def _network(net: str, seed: int) -> nn.Module:
    """Return a fresh network with its weights in the layout channels last."""
    with seeded_weights(seed):
        model = {"cnn": small_net, "dense": dense_net}[net]()
    return model.to(device(), memory_format=torch.channels_last)


def _one_cycle(
    seed: int,
    n_epochs: int,
    X: torch.Tensor,
    y: torch.Tensor,
    *,
    net: str,
    lr: float,
    batch_size: int = 64,
    flip: bool = False,
    crop: int = 0,
    label_smoothing: float = 0.0,
    bf16: bool = False,
) -> tuple[nn.Module, History]:
    """One-cycle Nesterov SGD up to the rate `lr`; return the trained model and its history."""
    model = _network(net, seed)
    trained = InBfloat16(model) if bf16 else model
    images = X.to(memory_format=torch.channels_last) if net == "cnn" else X
    shuffle, augment = generator("shuffle", seed), generator("augment", seed)
    batches = Minibatches(images, y, batch_size, shuffle=shuffle, augment=augment, flip=flip, crop=crop)
    optimizer = torch.optim.SGD(model.parameters(), lr, momentum=0.95, nesterov=True, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, epochs=n_epochs, steps_per_epoch=len(batches))
    loss_fn = nn.CrossEntropyLoss(label_smoothing=label_smoothing)
    history = fit(trained, batches, loss_fn, optimizer, n_epochs, step_schedule=schedule)
    return model, history


def _both(model: nn.Module, X: torch.Tensor, y: torch.Tensor) -> tuple[float, float]:
    """Return the accuracy on the images, and on the mean of two views of each."""
    batches, loss_fn = Minibatches(X, y, 500), nn.CrossEntropyLoss()
    return tuple(evaluate(one, batches, loss_fn)["accuracy"] for one in (model, BothViews(model)))


_USES = (small_net, dense_net, _tuning_split, _published_split, _network, _one_cycle, _both, InBfloat16, BothViews)


# --- choices on X_tune --------------------------------------------------------------------------


def _lengths(seed: int, n_epochs: int, lengths: list[int], rates: list[float], **settings) -> History:
    """One-cycle trainings of several lengths and rates on 9,000 images, judged on X_tune; a row for each length."""
    X, y, X_tune, y_tune = _tuning_split()
    history = History()
    for length in lengths:
        row = {"epoch": length, "seconds": 0.0}
        for lr in rates:
            model, trained = _one_cycle(seed, length, X, y, lr=lr, **settings)
            history.n_parameters = trained.n_parameters
            row["seconds"] += sum(trained["seconds"])
            accuracy, both = _both(model, X_tune, y_tune)
            row |= {f"lr_{lr}_tune_accuracy": accuracy, f"lr_{lr}_tune_both_accuracy": both}
        history.rows.append(row)
    return history


def _tune(id: str, lengths: list[int], rates: list[float], **settings) -> None:
    recipe(
        f"16_tune_{id}",
        seeds=3,
        n_epochs=lengths[-1],
        data="cifar10",
        uses=_USES,
        lengths=lengths,
        rates=rates,
        **settings,
    )(_lengths)


_tune("cnn_batch_64", [4, 6, 8], [0.1, 0.2], net="cnn", flip=True, bf16=True)
_tune("cnn_batch_256", [4, 6, 8], [0.2, 0.4], net="cnn", flip=True, bf16=True, batch_size=256)
_tune("cnn_plain_batch_64", [4, 6, 8], [0.1], net="cnn", bf16=True)
_tune("dense_batch_64", [3, 5, 10], [0.01, 0.02], net="dense", flip=True, bf16=True)
_tune("dense_batch_256", [3, 4, 5, 6, 8, 10], [0.02, 0.05], net="dense", flip=True, bf16=True, batch_size=256)


# --- rungs: trained on all 10,000 images, as published ------------------------------------------


def _rung(seed: int, n_epochs: int, **settings) -> History:
    """One-cycle training on all 10,000 images; validation accuracy of one view and of two views."""
    X, y, X_val, y_val = _published_split()
    model, history = _one_cycle(seed, n_epochs, X, y, **settings)
    history.rows[-1]["train_accuracy"], _ = _both(model, X, y)
    history.rows[-1]["val_accuracy"], history.rows[-1]["val_both_accuracy"] = _both(model, X_val, y_val)
    return history


def _final(id: str, n_epochs: int, **settings) -> None:
    recipe(f"16_{id}", seeds=10, n_epochs=n_epochs, data="cifar10", uses=_USES, **settings)(_rung)


# --- compiling ----------------------------------------------------------------------------------


def _cpu_seconds() -> float:
    """CPU seconds of this process and of the helpers that it started."""
    return sum(os.times()[:4])


def _compiled(seed: int, n_epochs: int, batch_size: int) -> History:
    """CPU seconds of an epoch as it is and compiled, and of the first call, for both networks."""
    import torch._inductor.config as inductor

    inductor.compile_threads = 1  # helper processes would not be counted before they end
    row = {"epoch": 1}
    X, y, _, _ = _published_split()
    X, y = X[:1024].to(memory_format=torch.channels_last), y[:1024]
    history = History([row])
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder  # empty: nothing was compiled before
        for net in ("cnn", "dense"):
            for name in ("eager", "compiled"):
                model = _network(net, seed)
                optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.95, nesterov=True, fused=True)
                images = X if net == "cnn" else X.contiguous()
                batches = Minibatches(images, y, batch_size)
                walked = torch.compile(model) if name == "compiled" else model
                started = _cpu_seconds()
                fit(walked, batches, nn.CrossEntropyLoss(), optimizer, 1)
                first, times = _cpu_seconds() - started, []
                for _ in range(5):
                    started = time.process_time()
                    fit(walked, batches, nn.CrossEntropyLoss(), optimizer, 1)
                    times.append(time.process_time() - started)
                row[f"{net}_{name}_s"] = min(times) * 10_000 / len(X)
            row[f"{net}_compile_s"] = first - min(times)
    history.n_parameters = sum(parameter.numel() for parameter in model.parameters())
    return history


recipe("16_compile", seeds=2, n_epochs=1, data="cifar10", uses=(*_USES, _cpu_seconds), batch_size=256)(_compiled)


# --- the rungs whose settings were chosen above -------------------------------------------------

_final("cnn_fast", 6, net="cnn", lr=0.1, bf16=True)
_final("cnn_batch_256", 6, net="cnn", lr=0.2, flip=True, bf16=True, batch_size=256)
_final("dense_fast", 5, net="dense", lr=0.02, flip=True, bf16=True)
_final("dense_no_flips", 5, net="dense", lr=0.02, bf16=True)
_final("dense_batch_256", 10, net="dense", lr=0.05, flip=True, bf16=True, batch_size=256)
_final("dense_float32", 5, net="dense", lr=0.02, flip=True)
_final("cnn_float32", 6, net="cnn", lr=0.1)
