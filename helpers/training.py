"""The one training loop of the house, its measurements, and checkpoints.

Introduced in chapter 07, which derives the loop.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    Batches = Iterable[tuple[torch.Tensor, torch.Tensor]]
    Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class History:
    """What a training run measured, one row an epoch.

    ``history["loss"]`` is the list of that column's values and ``history.epochs("loss")`` the
    epochs at which they were measured; columns measured every few epochs are shorter.

    Columns written by `fit`: ``epoch`` (from 1), ``loss`` (mean over images while the weights were
    moving), ``lr`` (at the end of the epoch), ``seconds`` (training only), and for each entry
    NAME of `evaluate_on`, ``NAME_loss`` and ``NAME_accuracy``. `fit` also counts the model's
    parameters in ``history.n_parameters``.
    """

    def __init__(self, rows: list[dict[str, float]] | None = None):
        self.rows = [] if rows is None else rows
        self.n_parameters: int | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, column: str) -> list[float]:
        values = [row[column] for row in self.rows if column in row]
        if not values:
            known = sorted({name for row in self.rows for name in row})
            raise KeyError(f"no column {column!r} in this history; it has {', '.join(known) or 'no rows yet'}.")
        return values

    def epochs(self, column: str) -> list[int]:
        """Return the epochs at which `column` was measured."""
        return [row["epoch"] for row in self.rows if column in row]


def fit(
    model: torch.nn.Module,
    batches: Batches,
    loss_fn: Loss,
    optimizer: torch.optim.Optimizer,
    n_epochs: int,
    *,
    step_schedule: torch.optim.lr_scheduler.LRScheduler | None = None,
    epoch_schedule: torch.optim.lr_scheduler.LRScheduler | None = None,
    evaluate_on: Mapping[str, Batches] | None = None,
    eval_every: int = 1,
    history: History | None = None,
) -> History:
    """Train `model` for `n_epochs` and return what was measured.

    Parameters
    ----------
    model, loss_fn, optimizer
        As in any PyTorch loop; `loss_fn(outputs, targets)` returns the mean over the batch.
    batches : iterable
        Yields ``(X, y)`` on the model's device; walked over once an epoch.
    n_epochs : int
        Epochs to add to those that `history` already holds.
    step_schedule, epoch_schedule : LRScheduler, optional
        Stepped after every minibatch, or after every epoch.
    evaluate_on : dict of name to batches, optional
        Sets to evaluate every `eval_every` epochs and after the last one.
    history : History, optional
        A run to go on with, as `load_checkpoint` returns it; it is extended and returned.

    Raises
    ------
    ValueError
        When `n_epochs` is negative or `eval_every` is less than 1.
    FloatingPointError
        When a loss is not finite; the sentence names epoch, minibatch and learning rate.
    """
    if n_epochs < 0 or eval_every < 1:
        raise ValueError(f"n_epochs is {n_epochs} and eval_every {eval_every}; they must be at least 0 and 1.")
    history = History() if history is None else history
    history.n_parameters = sum(parameter.numel() for parameter in model.parameters())
    last = len(history) + n_epochs
    for epoch in range(len(history) + 1, last + 1):
        started = time.perf_counter()
        loss = _one_epoch(model, batches, loss_fn, optimizer, step_schedule, epoch)
        if epoch_schedule is not None:
            epoch_schedule.step()
        row = {
            "epoch": epoch,
            "loss": loss,
            "lr": optimizer.param_groups[0]["lr"],
            "seconds": time.perf_counter() - started,
        }
        if evaluate_on and (epoch % eval_every == 0 or epoch == last):
            for name, held_out in evaluate_on.items():
                measured = evaluate(model, held_out, loss_fn)
                row |= {f"{name}_{what}": value for what, value in measured.items()}
        history.rows.append(row)
    return history


def _one_epoch(model, batches, loss_fn, optimizer, step_schedule, epoch) -> float:
    """Walk once over `batches`; return the mean loss over images."""
    model.train()
    losses, sizes, rates = [], [], []
    for X, y in batches:
        loss = loss_fn(model(X), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        # Kept as tensors: reading a number here would make the GPU wait at every step.
        losses.append(loss.detach())
        sizes.append(len(X))
        rates.append(optimizer.param_groups[0]["lr"])
        if step_schedule is not None:
            step_schedule.step()
    if not losses:
        raise ValueError("the batches are empty: there is nothing to train on.")
    losses = torch.stack(losses).cpu().double()  # MPS has no float64
    if not losses.isfinite().all():
        first = int((~losses.isfinite()).nonzero()[0])
        raise FloatingPointError(
            f"The loss became {losses[first].item()} in epoch {epoch}, minibatch {first + 1} of {len(losses)}, "
            f"at learning rate {rates[first]:g}: lower the learning rate, or look for nan in the inputs."
        )
    # The last minibatch may be short: weigh each one by its size.
    sizes = torch.tensor(sizes, dtype=torch.float64)
    return float((losses * sizes).sum() / sizes.sum())


def evaluate(model: torch.nn.Module, batches: Batches, loss_fn: Loss) -> dict[str, float]:
    """Return ``{"loss", "accuracy"}`` of `model`, as means over images.

    Runs in eval mode and without gradients; every submodule's mode is put back afterwards.
    The accuracy is there when the targets are whole numbers (class indices); it takes the largest
    logit, and needs no softmax.

    Raises
    ------
    ValueError
        When `batches` is empty.
    """
    modes = [(module, module.training) for module in model.modules()]
    losses, sizes, correct = [], [], None
    model.eval()
    try:
        with torch.no_grad():
            for X, y in batches:
                logits = model(X)
                losses.append(loss_fn(logits, y))
                sizes.append(len(X))
                if not y.is_floating_point():
                    correct = (correct or 0) + (logits.argmax(dim=1) == y).sum()
    finally:
        for module, training in modes:
            module.training = training
    if not losses:
        raise ValueError("the batches are empty: there is nothing to evaluate.")
    losses = torch.stack(losses).cpu().double()
    sizes = torch.tensor(sizes, dtype=torch.float64)
    measured = {"loss": float((losses * sizes).sum() / sizes.sum())}
    if correct is not None:
        measured["accuracy"] = int(correct) / int(sizes.sum())
    return measured


def save_checkpoint(
    path: str | Path,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    schedule: torch.optim.lr_scheduler.LRScheduler | None = None,
    generators: Mapping[str, torch.Generator] | None = None,
    history: History | None = None,
) -> None:
    """Write all that a run needs to go on exactly where it stopped.

    The file appears whole or not at all: it is written beside `path` and then moved there.

    Parameters
    ----------
    generators : dict of name to torch.Generator, optional
        The generators that the run draws from (shuffle, augmentation).
    """
    path = Path(path)
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": None if schedule is None else schedule.state_dict(),
        "generators": {name: source.get_state() for name, source in (generators or {}).items()},
        "torch_rng": torch.get_rng_state(),  # dropout draws from here
        "history": [] if history is None else history.rows,
    }
    scratch = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        with open(scratch, "wb") as file:
            torch.save(state, file)
        os.replace(scratch, path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise


def load_checkpoint(
    path: str | Path,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    schedule: torch.optim.lr_scheduler.LRScheduler | None = None,
    generators: Mapping[str, torch.Generator] | None = None,
) -> History:
    """Put a saved state into `model`, `optimizer`, `schedule` and `generators`; return the history.

    Read with ``weights_only=True``, so that a file from elsewhere cannot run code. A model on a GPU
    may load what a CPU saved, and the other way round.

    Raises
    ------
    FileNotFoundError
        When there is no file at `path`.
    KeyError
        When the file lacks the schedule or a generator that is asked for.
    """
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    missing = [name for name in generators or {} if name not in state["generators"]]
    if schedule is not None and state["schedule"] is None:
        missing.append("schedule")
    if missing:
        raise KeyError(f"{path} holds no {', '.join(missing)}; it was saved without.")
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    if schedule is not None:
        schedule.load_state_dict(state["schedule"])
    for name, source in (generators or {}).items():
        source.set_state(state["generators"][name])
    torch.set_rng_state(state["torch_rng"])
    return History(state["history"])
