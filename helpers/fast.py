"""A small, fast recipe for small photographs: whitening, alternating flips, averaged weights, several views.

Introduced in chapter 16. One code for two classes and ten, a CPU and a GPU; the public speed records
for CIFAR-10 (Page, 2019; Jordan, 2024) showed which ideas pay.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from helpers.runtime import device, generator, seeded_weights
from helpers.training import History, fit

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


def whitening_kernels(X: torch.Tensor, size: int = 2, eps: float = 5e-4) -> torch.Tensor:
    """Return the kernels whose outputs on `X` are uncorrelated and of variance 1 (Coates et al., 2011).

    They are the eigenvectors of the patches' covariance, the largest eigenvalue first, each divided by
    the root of its eigenvalue. Returns K x C x size x size, with K = C * size * size.

    Parameters
    ----------
    X : torch.Tensor
        Images N x C x H x W; a thousand hold enough patches.
    size : int
        Height and width of a patch in pixels.
    eps : float
        Added to each eigenvalue (a variance, in squared units of `X`): the faintest directions are mostly
        noise, and must not be blown up.

    Raises
    ------
    ValueError
        When `X` holds no images, or images smaller than a patch.
    """
    if X.ndim != 4 or len(X) == 0 or not 1 <= size <= min(X.shape[2:]):
        raise ValueError(f"patches of {size} x {size} pixels need images N x C x H x W; got shape {tuple(X.shape)}.")
    patches = F.unfold(X.cpu(), size).transpose(1, 2).flatten(0, 1).double()  # (N places) x K
    values, vectors = torch.linalg.eigh(torch.cov(patches.T).reshape(patches.shape[1], -1))
    kernels = (vectors / (values + eps).sqrt()).T.flip(0)
    # The sign of an eigenvector is arbitrary; one rule for it gives the same kernels everywhere.
    largest = kernels.gather(1, kernels.abs().argmax(dim=1, keepdim=True))
    return (kernels * largest.sign()).to(X.dtype).unflatten(1, (X.shape[1], size, size))


class FastNet(nn.Module):
    """A frozen whitening layer, blocks of two normalised convolutions, the maximum over places, scaled logits.

    Takes images N x C x H x W and returns logits N x n_classes in float32.

    Parameters
    ----------
    X : torch.Tensor
        Training images, from which the whitening kernels are computed.
    n_classes : int
        Number of logits.
    widths : sequence of int
        Channels of each block; each halves height and width.
    scale : float
        Factor on the logits; below 1 it keeps the first gradients small.
    half : bool
        Compute in bfloat16, with weights in float32 (automatic mixed precision).
    """

    def __init__(
        self, X: torch.Tensor, n_classes: int, widths: Sequence[int], scale: float = 1 / 9, half: bool = False
    ):
        super().__init__()
        kernels = whitening_kernels(X)
        C_in = 2 * len(kernels)
        self.whiten = nn.Conv2d(X.shape[1], C_in, kernels.shape[2])
        with torch.no_grad():
            # GELU passes only what is positive: with each kernel goes its negative.
            self.whiten.weight.copy_(torch.cat([kernels, -kernels]))
            self.whiten.bias.zero_()
        self.whiten.weight.requires_grad_(False)
        layers = [nn.GELU()]
        for width in widths:
            layers += [_conv(C_in, width), nn.MaxPool2d(2), nn.BatchNorm2d(width, momentum=0.4), nn.GELU()]
            layers += [_conv(width, width), nn.BatchNorm2d(width, momentum=0.4), nn.GELU()]
            C_in = width
        self.blocks = nn.Sequential(*layers)
        self.head = nn.Linear(C_in, n_classes, bias=False)
        self.scale, self.half_precision = scale, half

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.half_precision):
            x = self.blocks(self.whiten(x))
            x = self.head(x.amax(dim=(2, 3)))
        return x.float() * self.scale


def _conv(C_in: int, C_out: int) -> nn.Conv2d:
    """Return a 3 x 3 convolution whose first outputs copy its inputs at the start (Zagoruyko and Komodakis, 2017)."""
    conv = nn.Conv2d(C_in, C_out, 3, padding=1, bias=False)
    with torch.no_grad():
        nn.init.dirac_(conv.weight[: min(C_in, C_out)])
    return conv


class AlternatingBatches:
    """Shuffled minibatches of images that are mirrored in every second epoch, and shifted at random.

    Each walk is one epoch. An image's first state, mirrored or not, is drawn once; then it alternates, so
    that two epochs in a row show both (Jordan, 2024). At the edges of a shifted image its reflection comes
    in. What does not fill a minibatch waits for another epoch.

    Parameters
    ----------
    X, y : torch.Tensor
        Images N x C x H x W and targets N.
    batch_size : int
        Images in a minibatch.
    seed : int
        Seeds the generators "shuffle", "flip" and "shift", which live on the CPU.
    shift : int
        The largest shift, in pixels, along both axes.
    device : torch.device, optional
        Where the batches are wanted; the data are moved there once.

    Raises
    ------
    ValueError
        When lengths differ, no minibatch can be filled, or `shift` does not fit the images.
    """

    def __init__(self, X: torch.Tensor, y: torch.Tensor, batch_size: int, seed: int, *, shift: int = 2, device=None):
        if X.ndim != 4 or len(X) != len(y):
            raise ValueError(f"X must be N x C x H x W and y N; got {tuple(X.shape)} and {tuple(y.shape)}.")
        if not 1 <= batch_size <= len(X):
            raise ValueError(f"{len(X)} images cannot fill minibatches of {batch_size}.")
        if not 0 <= shift < min(X.shape[2:]):
            raise ValueError(f"images of {X.shape[2]} x {X.shape[3]} pixels cannot be shifted by {shift}.")
        self.X, self.y = X.to(device, memory_format=torch.channels_last), y.to(device)
        self.batch_size, self.shift, self.epoch = batch_size, shift, 0
        self.shuffle, self.shifts = generator("shuffle", seed), generator("shift", seed)
        self.first = torch.rand(len(X), generator=generator("flip", seed)) < 0.5

    def __len__(self) -> int:
        """Return the number of minibatches in an epoch; all are full."""
        return len(self.X) // self.batch_size

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        N, device = len(self.X), self.X.device
        # All of an epoch's draws at once: a GPU then waits for the CPU once, not at every minibatch.
        order = torch.randperm(N, generator=self.shuffle)
        mirrored = (self.first ^ bool(self.epoch % 2))[order].to(device)
        moves = torch.randint(-self.shift, self.shift + 1, (2, N), generator=self.shifts).to(device)
        order = order.to(device)
        self.epoch += 1
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            rows = slice(start, start + self.batch_size)
            yield self._moved(order[rows], mirrored[rows], *moves[:, rows]), self.y[order[rows]]

    def _moved(self, images, mirrored, down, right) -> torch.Tensor:
        """Pick images and look up, for each pixel wanted, where it comes from."""
        H, W = self.X.shape[2:]
        rows = _reflect(torch.arange(H, device=self.X.device) - down[:, None], H)  # N x H
        columns = _reflect(torch.arange(W, device=self.X.device) - right[:, None], W)  # N x W
        columns = torch.where(mirrored[:, None], columns.flip(1), columns)
        pixels = self.X.permute(0, 2, 3, 1)  # N x H x W x C, as they lie in memory
        picked = pixels[images[:, None, None], rows[:, :, None], columns[:, None, :]]
        return picked.permute(0, 3, 1, 2)


def _reflect(places: torch.Tensor, size: int) -> torch.Tensor:
    """Fold places outside of 0..size-1 back at the edge pixels, as padding by reflection does."""
    return size - 1 - (size - 1 - places.abs()).abs()


class Views(nn.Module):
    """A model that looks more than once: its mean logits over mirrored and shifted views of each image.

    Test-time augmentation as in Krizhevsky et al. (2012).

    Parameters
    ----------
    model : nn.Module
        Images N x C x H x W to logits N x K.
    mirror : bool
        Also look at the mirror image.
    shift : int
        Also look at the image moved by so many pixels up and left, and down and right; edges are reflected.
    """

    def __init__(self, model: nn.Module, *, mirror: bool = True, shift: int = 1):
        super().__init__()
        self.model, self.mirror, self.shift = model, mirror, shift

    def views(self, X: torch.Tensor) -> list[torch.Tensor]:
        """Return the views of `X`, each N x C x H x W; the first is `X` itself."""
        views = [X]
        if self.shift:
            padded = F.pad(X, (self.shift,) * 4, mode="reflect")
            views += [padded[:, :, : X.shape[2], : X.shape[3]], padded[:, :, -X.shape[2] :, -X.shape[3] :]]
        return views + [view.flip(3) for view in views] if self.mirror else views

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        views = self.views(X)
        return sum(self.model(view) for view in views) / len(views)


class Trained(NamedTuple):
    """The network with its last weights, with averaged ones, and the history of its training."""

    model: FastNet
    averaged: FastNet
    history: History


def train(
    X: torch.Tensor,
    y: torch.Tensor,
    *,
    seed: int,
    n_epochs: int,
    widths: Sequence[int] = (32, 64, 128),
    batch_size: int = 250,
    lr: float = 0.3,
    momentum: float = 0.9,
    weight_decay: float = 1.3e-3,
    label_smoothing: float = 0.1,
    shift: int = 2,
    warm_up: float = 0.25,
    average_every: int = 5,
    decay: float = 0.9,
    half: bool = False,
) -> Trained:
    """Train a `FastNet` by one-cycle Nesterov SGD, and average its weights (Polyak and Juditsky, 1992) meanwhile.

    The last row of the history has a column ``all_seconds``: from images on the device to trained weights.

    Parameters
    ----------
    X, y : torch.Tensor
        Standardised images N x C x H x W and class indices N; moved to the device of `runtime.device`.
    seed : int
        Seeds weights, order, flips and shifts.
    widths, half, batch_size, shift
        See `FastNet` and `AlternatingBatches`.
    n_epochs, momentum, weight_decay
        As everywhere.
    lr, warm_up : float
        The largest learning rate, and the share of all steps in which it is reached.
    label_smoothing : float
        Share of each target that is spread over all classes (Szegedy et al., 2016).
    average_every, decay
        After every so many steps the average keeps `decay` of itself and takes the rest from the weights.

    Raises
    ------
    ValueError, FloatingPointError
        As `AlternatingBatches` and `fit` do.
    """
    batches = AlternatingBatches(X, y, batch_size, seed, shift=shift, device=device())
    started = time.perf_counter()
    with seeded_weights(seed):
        model = FastNet(batches.X[:1000], int(y.max()) + 1, widths, half=half)
    model.to(device(), memory_format=torch.channels_last)
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(weights, lr, momentum=momentum, weight_decay=weight_decay, nesterov=True)
    n_steps = n_epochs * len(batches)
    # In straight lines: from a fifth of the rate up to all of it, then down to a tenth.
    shape = {"pct_start": warm_up, "div_factor": 5, "final_div_factor": 2}
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, lr, total_steps=n_steps, anneal_strategy="linear", cycle_momentum=False, **shape
    )
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
    done = 0

    def average(*_):
        nonlocal done
        done += 1
        # The last weights are always taken in.
        if (n_steps - done) % average_every == 0:
            averaged.update_parameters(model)

    optimizer.register_step_post_hook(average)
    loss_fn = nn.CrossEntropyLoss(label_smoothing=label_smoothing)
    history = fit(model, batches, loss_fn, optimizer, n_epochs, step_schedule=schedule)
    history.rows[-1]["all_seconds"] = time.perf_counter() - started
    return Trained(model, averaged.module, history)
