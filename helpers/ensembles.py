"""Many copies of a small network, trained together in one loop.

Introduced in chapter 09. In a step of a tiny network nearly all time goes into calling operations,
not into computing. S copies side by side share each call. The backward pass is written by hand, as
in chapter 06, so that no graph is built and all results go into memory that is allocated once.

The points lie on the last axis, S x H x N, so that every operation runs along long rows. Biases are
weights of an additional unit that is always 1.
"""

from __future__ import annotations

import copy
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

from helpers.runtime import generator, seeded_weights

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

aten = torch.ops.aten  # the backward functions that autograd itself calls; they can write in place

# Forward: (values, out=result). Backward: (slope by the result, result, grad_input=slope by the values).
ACTIVATIONS = {
    nn.ReLU: (partial(torch.clamp, min=0), partial(aten.threshold_backward.grad_input, threshold=0)),
    nn.Tanh: (torch.tanh, aten.tanh_backward.grad_input),
    nn.Sigmoid: (torch.sigmoid, aten.sigmoid_backward.grad_input),
    nn.Identity: (lambda Z, out: out.copy_(Z), lambda slope, A, grad_input: slope),
}

# The loss, and its slope by what the last layer gives, up to the factor 1 / (number of points).
LOSSES = {
    "bce": (F.binary_cross_entropy_with_logits, lambda Z, y: Z.sigmoid_().sub_(y).div_(Z.shape[1])),
    "ce": (F.cross_entropy, lambda Z, y: Z.softmax(dim=1).sub_(y)),
    "mse": (F.mse_loss, lambda Z, y: Z.sub_(y).mul_(2 / Z.shape[1])),
}


class Many:
    """S copies of one network, as `fit_many` returns them.

    `seeds` lists one seed a copy, `epochs` the epochs after which the copies were evaluated, and
    `measured` holds what `evaluate` returned: name -> (number of evaluations) x S, on the CPU.
    """

    def __init__(self, make_model: Callable[[], nn.Sequential], seeds: Iterable[int], X, y, loss: str):
        self.seeds, self.epochs, self.measured = list(seeds), [], {}
        if not self.seeds:
            raise ValueError("seeds is empty; name at least one.")
        models = []
        for seed in self.seeds:
            with seeded_weights(seed):
                models.append(make_model())
        copies = [_pairs(model) for model in models]
        if len({str(model) for model in models}) > 1:
            raise ValueError("make_model makes networks of different layers; all copies must be alike.")
        _check_data(X, y, loss, copies[0][0][0], copies[0][-1][0], len(self.seeds))
        self.X, self.loss, self._template = X.detach(), loss, models[0]
        self.y = (y if loss == "ce" else y.reshape(*X.shape[:-1], -1)).detach().to(X.device)
        self.activations = [activation for _, activation in copies[0]]
        self._shapes = [(linear.out_features, linear.in_features + 1) for linear, _ in copies[0]]
        layers = [[torch.cat([linear.weight, linear.bias[:, None]], dim=1) for linear, _ in pairs] for pairs in copies]
        # All weights in one row, so that an optimizer's step is few operations.
        self.flat = torch.cat([torch.stack(layer).flatten() for layer in zip(*layers)]).detach().to(X.device)
        self.weights = self.by_layer(self.flat)

    def by_layer(self, flat: torch.Tensor) -> list[torch.Tensor]:
        """Return views of `flat`, one a layer, S x out x (in + 1); the last column is the bias."""
        S = len(self.seeds)
        parts = flat.split([S * rows * columns for rows, columns in self._shapes])
        return [part.view(S, *shape) for part, shape in zip(parts, self._shapes, strict=True)]

    def logits(self, X: torch.Tensor) -> torch.Tensor:
        """Return what the last layer gives, S x N x K, for `X`: N x D, or S x N x D with one set a copy."""
        A = X.expand(len(self.seeds), *X.shape[-2:])
        for weights, activation in zip(self.weights, self.activations, strict=True):
            A = activation(torch.baddbmm(weights[..., None, :, -1], A, weights[..., :-1].mT))
        return A

    def losses(self) -> torch.Tensor:
        """Return the S mean losses of now on the training points; inf or nan for copies that diverged."""
        logits, y = self.logits(self.X), self.y.expand(len(self.seeds), *self.y.shape[self.X.ndim - 2 :])
        losses = LOSSES[self.loss][0](logits.mT if self.loss == "ce" else logits, y, reduction="none")
        return losses.flatten(1).mean(dim=1)

    @torch.no_grad()
    def model(self, i: int) -> nn.Sequential:
        """Return copy `i`, counted from 0, as an ordinary network with weights of its own."""
        model = copy.deepcopy(self._template).to(self.flat.device)
        for (linear, _), weights in zip(_pairs(model), self.weights, strict=True):
            linear.weight.copy_(weights[i, :, :-1])
            linear.bias.copy_(weights[i, :, -1])
        return model

    def measure(self, epoch: int, evaluate: Callable[[Many], Mapping] | None, strict: bool) -> None:
        """Add to `measured` what `evaluate` returns, or the training losses."""
        if strict and not (finite := self.losses().isfinite()).all():
            lost = [seed for seed, fine in zip(self.seeds, finite.tolist(), strict=True) if not fine]
            raise FloatingPointError(
                f"By epoch {epoch} the loss of {len(lost)} of {len(finite)} copies is not finite (first: seed "
                f"{lost[0]}): lower lr, look for nan in X, or keep such copies with strict=False."
            )
        self.epochs.append(epoch)
        for name, values in (evaluate(self) if evaluate else {"loss": self.losses()}).items():
            row = torch.as_tensor(values).detach().cpu()
            if row.shape != (len(self.seeds),):
                raise ValueError(f"evaluate gave {name!r} of shape {tuple(row.shape)}; give one number a copy.")
            self.measured[name] = torch.stack([*self.measured.get(name, ()), row])


def fit_many(
    make_model: Callable[[], nn.Sequential],
    X: torch.Tensor,
    y: torch.Tensor,
    *,
    seeds: Iterable[int] = range(100),
    loss: str = "bce",
    lr: float | Sequence[float] | torch.Tensor = 0.05,
    n_epochs: int = 10_000,
    batch_size: int | None = None,
    optimizer: str = "sgd",
    momentum: float = 0.0,
    eval_every: int | None = None,
    evaluate: Callable[[Many], Mapping] | None = None,
    strict: bool = True,
) -> Many:
    """Train one copy of a network for each of S seeds, all in one loop, and return them.

    Each copy ends, up to rounding, where ``helpers.training.fit`` brings it by itself when it is
    made under ``seeded_weights(seed)``, with ``torch.optim`` and ``Minibatches(X, y, batch_size,
    shuffle=generator("shuffle", seed))``. Training runs on the device of `X`.

    Parameters
    ----------
    make_model : function
        Returns a new ``nn.Sequential`` of ``nn.Linear``, each but the last followed by ``nn.ReLU``,
        ``nn.Tanh``, ``nn.Sigmoid`` or nothing. The last layer gives logits or values.
    X : torch.Tensor
        Inputs that all copies share, N x D, or one set a copy, S x N x D.
    y : torch.Tensor
        Targets, N (x K), or S x N (x K) where `X` has one set a copy: floats from 0 to 1 for
        "bce", class indices without K for "ce", floats for "mse".
    seeds : iterable of int
        One a copy.
    loss : str
        "bce" (on logits), "ce" or "mse"; the mean over a minibatch.
    lr : float, or S floats
        Learning rate of all copies, or one a copy.
    n_epochs : int
        With 0 the copies keep their initial weights and nothing is evaluated.
    batch_size : int, optional
        Points in a minibatch. Without it an epoch is one step on all points.
    optimizer : str
        "sgd", with `momentum`, or "adam" with the default settings of ``torch.optim.Adam``.
    eval_every : int, optional
        Evaluate every so many epochs and after the last one; without it only after the last one.
    evaluate : function, optional
        From the `Many` to a dict of name to S numbers. Without it, the training losses as "loss".
    strict : bool
        Raise when a copy's training loss is not finite, which is looked at before each evaluation.
        With False such copies stay, with losses of inf or nan, and do not disturb the others.

    Raises
    ------
    ValueError
        When network, data or settings do not fit together.
    FloatingPointError
        When copies have diverged and `strict` is True; the sentence says how many.
    """
    if n_epochs < 0 or any(size is not None and size < 1 for size in (batch_size, eval_every)):
        raise ValueError("n_epochs must be at least 0, batch_size and eval_every at least 1 or None.")
    if loss not in LOSSES:
        raise ValueError(f"loss={loss!r} is not known; use one of {', '.join(LOSSES)}.")
    many = Many(make_model, seeds, X, y, loss)
    steps = _Steps(many, optimizer, lr, momentum)
    batches = _batches(many, batch_size)
    for epoch in range(1, n_epochs + 1):
        for inputs, targets in next(batches):
            steps.step(inputs, targets)
        if epoch == n_epochs or (eval_every and epoch % eval_every == 0):
            many.measure(epoch, evaluate, strict)
    return many


def _batches(many: Many, batch_size: int | None) -> Iterator[list[tuple[torch.Tensor, torch.Tensor]]]:
    """Yield epochs without end, as lists of minibatches of n points.

    Inputs are (D + 1) x n where all copies share them, otherwise S x (D + 1) x n; the last row is
    ones. Targets are K x n or S x K x n, classes as ones among zeros.
    """
    S, y = len(many.seeds), F.one_hot(many.y, many.weights[-1].shape[1]) if many.loss == "ce" else many.y
    X = torch.cat([many.X, torch.ones_like(many.X[..., :1])], dim=-1).mT.contiguous()
    y = y.mT.to(X.dtype).contiguous()
    while batch_size is None:
        yield [(X, y)]
    X, y = (values.expand(S, *values.shape[-2:]) for values in (X, y))
    shuffles = [generator("shuffle", seed) for seed in many.seeds]
    while True:
        order = torch.stack([torch.randperm(X.shape[-1], generator=shuffle) for shuffle in shuffles])
        order = order.to(X.device)[:, None, :]
        shuffled = (values.gather(2, order.expand(values.shape)).split(batch_size, dim=2) for values in (X, y))
        yield list(zip(*shuffled, strict=True))


class _Steps:
    """Forward pass, backward pass and optimizer of all copies."""

    def __init__(self, many: Many, optimizer: str, lr, momentum: float):
        if optimizer not in ("sgd", "adam"):
            raise ValueError(f"optimizer={optimizer!r} is not known; use one of sgd, adam.")
        if momentum and optimizer == "adam":
            raise ValueError("momentum belongs to optimizer='sgd'; leave it out for 'adam'.")
        rates, S = torch.as_tensor(lr, dtype=many.flat.dtype), len(many.seeds)
        if rates.shape not in ((), (S,)):
            raise ValueError(f"lr has shape {tuple(rates.shape)}; give one number, or {S} of them, one a copy.")
        self.many, self.optimizer, self.momentum, self.n_steps = many, optimizer, momentum, 0
        self.gradient, self.lr, self.first, self.second, self.spare = (torch.zeros_like(many.flat) for _ in range(5))
        self.gradients, self.memory = many.by_layer(self.gradient), {}
        self.functions = [ACTIVATIONS[type(activation)] for activation in many.activations]
        for layer in many.by_layer(self.lr):
            layer.copy_(rates.reshape(-1, 1, 1))

    def step(self, X: torch.Tensor, y: torch.Tensor) -> None:
        """Take one step on a minibatch of `_batches`."""
        weights, n = self.many.weights, X.shape[-1]
        if n not in self.memory:
            Z = [W.new_empty(*W.shape[:2], n) for W in weights]
            self.memory[n] = Z, [W.new_ones(W.shape[0], W.shape[1] + 1, n) for W in weights[:-1]]
        Z, hidden = self.memory[n]  # before and after the activation; the ones feed the biases
        A = [X, *hidden]
        for layer, W in enumerate(weights):
            torch.matmul(W, A[layer], out=Z[layer])
            if layer < len(hidden):
                self.functions[layer][0](Z[layer], out=A[layer + 1][:, :-1])
        slope = LOSSES[self.many.loss][1](Z[-1], y)
        for layer in reversed(range(len(weights))):
            torch.matmul(slope, A[layer].mT, out=self.gradients[layer])
            if layer > 0:  # the memory of Z is free by now
                slope = torch.matmul(weights[layer][..., :-1].mT, slope, out=Z[layer - 1])
                self.functions[layer - 1][1](slope, A[layer][:, :-1], grad_input=slope)
        self.gradient.div_(n)
        self.update()

    def update(self) -> None:
        """Change the weights as ``torch.optim.SGD`` or ``torch.optim.Adam`` does."""
        self.n_steps += 1
        change, factor = self.gradient, 1.0
        if self.optimizer == "adam":
            beta1, beta2, eps = 0.9, 0.999, 1e-8
            self.first.lerp_(self.gradient, 1 - beta1)
            self.second.mul_(beta2).addcmul_(self.gradient, self.gradient, value=1 - beta2)
            root = torch.sqrt(self.second, out=self.spare).div_((1 - beta2**self.n_steps) ** 0.5).add_(eps)
            change, factor = torch.div(self.first, root, out=self.spare), 1 / (1 - beta1**self.n_steps)
        elif self.momentum:
            change = self.first.mul_(self.momentum).add_(self.gradient)
        self.many.flat.addcmul_(change, self.lr, value=-factor)


def _pairs(model: nn.Sequential) -> list[tuple[nn.Linear, nn.Module]]:
    """Return each Linear layer with the activation that follows it, Identity where there is none."""
    if not isinstance(model, nn.Sequential):
        raise ValueError(f"make_model returned a {type(model).__name__}; it must return an nn.Sequential.")
    pairs = []
    for layer in model:
        if isinstance(layer, nn.Linear) and layer.bias is not None:
            pairs.append((layer, nn.Identity()))
        elif type(layer) in ACTIVATIONS and pairs and isinstance(pairs[-1][1], nn.Identity):
            pairs[-1] = (pairs[-1][0], layer)
        else:
            raise ValueError(f"{layer} cannot stand here; use Linear with bias, then ReLU, Tanh, Sigmoid or nothing.")
    if not pairs or not isinstance(pairs[-1][1], nn.Identity):
        raise ValueError("the network must end in a Linear layer, since the loss takes logits; drop what follows it.")
    return pairs


def _check_data(X: torch.Tensor, y: torch.Tensor, loss: str, first: nn.Linear, last: nn.Linear, S: int) -> None:
    """Raise a ValueError when the data do not fit the network, the loss or the number of copies."""
    D, K, points = first.in_features, last.out_features, X.shape[:-1]
    shapes = [points] if loss == "ce" else [(*points, K)] + [points] * (K == 1)
    dtype, top = (torch.int64, K - 1) if loss == "ce" else (X.dtype, 1)
    if X.ndim not in (2, 3) or X.shape[-1] != D or (X.ndim == 3 and len(X) != S):
        raise ValueError(f"X has shape {tuple(X.shape)}; it must be N x {D}, or {S} x N x {D} with one set a copy.")
    if y.shape[: len(points)] != points:
        raise ValueError(f"X has shape {tuple(X.shape)} and y {tuple(y.shape)}; they must hold equally many points.")
    if X.numel() == 0:
        raise ValueError("X holds no points; there is nothing to train on.")
    if y.shape not in shapes:
        raise ValueError(f"y has shape {tuple(y.shape)}; loss {loss!r} of {K} outputs needs {tuple(shapes[0])}.")
    if X.dtype != first.weight.dtype:
        raise ValueError(f"X is {X.dtype} and the weights are {first.weight.dtype}; convert X with .to().")
    if y.dtype != dtype:
        raise ValueError(f"y is {y.dtype}; loss {loss!r} needs {dtype}, so convert it with .to().")
    if loss != "mse" and not (y.min() >= 0 and y.max() <= top):
        raise ValueError(f"y runs from {y.min()} to {y.max()}; loss {loss!r} needs targets from 0 to {top}.")
