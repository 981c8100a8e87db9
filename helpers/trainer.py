"""A trainer to take home: model, optimizer and loss in one object that keeps the best weights.

Introduced in chapter 10. The loop itself is `helpers.training.fit`.
"""

from __future__ import annotations

import copy
import math
import sys
from typing import TYPE_CHECKING

import torch

from helpers import training
from helpers.batches import Minibatches
from helpers.runtime import generator

if TYPE_CHECKING:
    from pathlib import Path

EVALUATION_BATCH = 1024  # items at once where no gradient is kept


def check_optimizer(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Refuse an optimizer that does not hold exactly the parameters of `model`.

    All parameter groups count. Parameters are compared by identity: ``==`` compares numbers.

    Raises
    ------
    ValueError
        Some parameters are missing, or some belong to no layer of the model.
    """
    wanted = {id(p): name for name, p in model.named_parameters()}
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    missing = [name for key, name in wanted.items() if key not in held]
    foreign = len(held - set(wanted))
    if missing or foreign:
        names = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise ValueError(
            f"the optimizer lacks {len(missing)} of the model's {len(wanted)} parameters{names and f' ({names})'} and "
            f"holds {foreign} that are not the model's; make it from model.parameters() of this very model."
        )


class Trainer:
    """Train `model` with `optimizer` on `loss_fn`; remember the best weights by tuning loss.

    Parameters
    ----------
    model, loss_fn, optimizer
        As in any PyTorch loop; `loss_fn(outputs, targets)` returns the mean over the batch.
    batch_size : int
        Items in a minibatch.
    seed : int
        Decides the order of the minibatches, which is new in every epoch.

    Attributes
    ----------
    history : helpers.training.History
        One row an epoch, over all calls of `fit`.
    best_epoch, best_loss, best_state
        When the tuning loss was lowest, how low it was, and a copy of the weights of that moment;
        0, infinity and None as long as nothing was evaluated.

    Raises
    ------
    ValueError
        The optimizer does not hold exactly the model's parameters.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        loss_fn: training.Loss,
        *,
        batch_size: int = 32,
        seed: int = 0,
    ):
        check_optimizer(model, optimizer)
        self.model, self.optimizer, self.loss_fn = model, optimizer, loss_fn
        self.batch_size = batch_size
        self.shuffle = generator("shuffle", seed)
        self.history = training.History()
        self.best_epoch, self.best_loss, self.best_state = 0, math.inf, None
        self.restored = False

    @property
    def device(self) -> torch.device:
        """Where the model is; data are moved there."""
        return next(self.model.parameters()).device

    def fit(
        self,
        X_train: torch.Tensor,
        y_train: torch.Tensor,
        X_tune: torch.Tensor | None = None,
        y_tune: torch.Tensor | None = None,
        *,
        n_epochs: int,
        eval_every: int = 10,
        patience: int | None = None,
        step_schedule: torch.optim.lr_scheduler.LRScheduler | None = None,
        epoch_schedule: torch.optim.lr_scheduler.LRScheduler | None = None,
        checkpoint: str | Path | None = None,
    ) -> training.History:
        """Train for `n_epochs` more and return the history; call it again to go on.

        Parameters
        ----------
        X_tune, y_tune : torch.Tensor, optional
            Evaluated at every epoch that `eval_every` divides and after the last one, in eval mode
            and without gradients. Keep the final test data (X_val) away from here.
        patience : int, optional
            Stop after so many evaluations in a row without a new lowest tuning loss.
        step_schedule, epoch_schedule : LRScheduler, optional
            See `helpers.training.fit`.
        checkpoint : path, optional
            Rewritten whenever the tuning loss is the lowest so far. To go on from it, assign what
            `training.load_checkpoint` returns to `history` of a new Trainer; its best is then the
            best of the first run.

        Raises
        ------
        ValueError
            Data that are empty or of unequal length, float targets that are not shaped like the
            outputs, a patience without tuning data or below 1.
        FloatingPointError
            A training or tuning loss is not finite.
        RuntimeError
            The model holds the best weights, no longer the last: `restore_best` ends a run.
        """
        if self.restored:
            raise RuntimeError(
                f"the weights are those of epoch {self.best_epoch}, the optimizer's state is that of epoch "
                f"{len(self.history)}: make a new optimizer and Trainer to train on from here."
            )
        if (X_tune is None) != (y_tune is None):
            raise ValueError("X_tune and y_tune come together; one of them is missing.")
        if patience is not None and (X_tune is None or patience < 1):
            raise ValueError("patience counts evaluations of X_tune: give X_tune, and a patience of at least 1.")
        if n_epochs < 0 or eval_every < 1:
            raise ValueError(f"n_epochs is {n_epochs} and eval_every {eval_every}; they must be at least 0 and 1.")
        batches = Minibatches(X_train, y_train, self.batch_size, shuffle=self.shuffle, device=self.device)
        evaluate_on = {} if X_tune is None else {"tune": self._in_order(X_tune, y_tune)}
        if self.best_state is None and self.history.rows and "tune_loss" in self.history.rows[-1]:
            self._keep_if_best(None, None)  # read from a checkpoint, which is written at the best epoch
        last, waited = len(self.history) + n_epochs, 0
        with _progress(n_epochs) as bar:
            while (epoch := len(self.history)) < last:
                n = min(eval_every - epoch % eval_every, last - epoch)  # up to the next evaluation
                training.fit(
                    self.model,
                    batches,
                    self._checked_loss,
                    self.optimizer,
                    n,
                    step_schedule=step_schedule,
                    epoch_schedule=epoch_schedule,
                    evaluate_on=evaluate_on,
                    eval_every=eval_every,
                    history=self.history,
                )
                bar.update(n)
                bar.set_postfix({name: f"{v:.3g}" for name, v in self.history.rows[-1].items() if "loss" in name})
                if evaluate_on:
                    waited = 0 if self._keep_if_best(checkpoint, step_schedule or epoch_schedule) else waited + 1
                    if waited == patience:
                        break
        return self.history

    def evaluate(self, X: torch.Tensor, y: torch.Tensor) -> dict[str, float]:
        """Return loss and, for class indices, accuracy; see `helpers.training.evaluate`."""
        return training.evaluate(self.model, self._in_order(X, y), self._checked_loss)

    def restore_best(self) -> int:
        """Put the best weights into the model and return their epoch.

        Raises
        ------
        RuntimeError
            Nothing was evaluated yet.
        """
        if self.best_state is None:
            raise RuntimeError("there are no best weights yet: give fit an X_tune.")
        self.model.load_state_dict(self.best_state)
        self.restored = True
        return self.best_epoch

    def _in_order(self, X, y) -> Minibatches:
        return Minibatches(X, y, EVALUATION_BATCH, device=self.device)

    def _checked_loss(self, outputs, targets):
        """Compute the loss; (N, 1) against (N,) would broadcast to N x N and teach the mean."""
        if targets.is_floating_point() and outputs.shape != targets.shape:
            raise ValueError(
                f"the outputs have shape {tuple(outputs.shape)}, the targets {tuple(targets.shape)}: "
                "reshape the targets, or their differences are taken between all pairs."
            )
        return self.loss_fn(outputs, targets)

    def _keep_if_best(self, checkpoint, schedule) -> bool:
        """Copy the weights when the last tuning loss is the lowest so far; return whether it is."""
        row = self.history.rows[-1]
        if not math.isfinite(row["tune_loss"]):
            raise FloatingPointError(f"The tuning loss is {row['tune_loss']} in epoch {row['epoch']}.")
        if row["tune_loss"] >= self.best_loss:
            return False
        self.best_epoch, self.best_loss = row["epoch"], row["tune_loss"]
        # state_dict() refers to the weights; without a copy the best would go on training.
        self.best_state = copy.deepcopy(self.model.state_dict())
        if checkpoint is not None:
            about = {"schedule": schedule, "generators": {"shuffle": self.shuffle}, "history": self.history}
            training.save_checkpoint(checkpoint, self.model, self.optimizer, **about)
        return True


def _progress(n_epochs: int):
    """Return a bar of epochs; it is drawn on a terminal only, never in a notebook's stored outputs."""
    from tqdm import tqdm

    return tqdm(total=n_epochs, unit="epoch", file=sys.stderr, disable=not sys.stderr.isatty(), leave=False)
