"""Minibatches of tensors that lie in memory, shuffled and augmented a whole batch at a time.

Introduced in chapter 07, beside ``torch.utils.data.DataLoader``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator


class Minibatches:
    """Walk over `X` and `y` in minibatches; each walk is one epoch.

    With a `shuffle` generator every epoch visits all items once, in a new order; without one the
    order stays. The last batch holds what is left, so it may be shorter. Random numbers come from
    the generators given, which live on the CPU whatever the device.

    Parameters
    ----------
    X : torch.Tensor
        Inputs, N x ... ; images are N x C x H x W when `flip` or `crop` is used.
    y : torch.Tensor
        Targets, N x ... .
    batch_size : int
        Items in a minibatch.
    shuffle : torch.Generator, optional
        Draws one permutation an epoch.
    augment : torch.Generator, optional
        Draws flips and shifts; needed with `flip` or `crop`.
    flip : bool
        Mirror each image left to right with probability 1/2.
    crop : int
        Shift each image by up to this many pixels along both axes (see `random_crop`).
    device : torch.device, optional
        Where the batches are wanted; the data are moved there once, when the object is made.

    Raises
    ------
    ValueError
        When lengths differ, there is no item, `batch_size` is not positive, or augmentation lacks
        its generator or images.
    """

    def __init__(
        self,
        X: torch.Tensor,
        y: torch.Tensor,
        batch_size: int,
        *,
        shuffle: torch.Generator | None = None,
        augment: torch.Generator | None = None,
        flip: bool = False,
        crop: int = 0,
        device: torch.device | str | None = None,
    ):
        if len(X) != len(y):
            raise ValueError(f"X holds {len(X)} items and y {len(y)}; they must be equally long.")
        if len(X) == 0:
            raise ValueError("X holds no items; there is nothing to walk over.")
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be at least 1.")
        if flip or crop:
            if augment is None:
                raise ValueError("flip and crop draw random numbers: pass augment=generator('augment', seed).")
            if X.ndim != 4:
                raise ValueError(f"flip and crop need images N x C x H x W; X has shape {tuple(X.shape)}.")
        self.X, self.y = X.to(device), y.to(device)
        self.batch_size = batch_size
        self.shuffle, self.augment = shuffle, augment
        self.flip, self.crop = flip, crop

    def __len__(self) -> int:
        """Return the number of minibatches in an epoch, the short last one included."""
        return -(-len(self.X) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        n, device = len(self.X), self.X.device
        order = None if self.shuffle is None else torch.randperm(n, generator=self.shuffle).to(device)
        for start in range(0, n, self.batch_size):
            rows = slice(start, start + self.batch_size)
            if order is None:
                images, targets = self.X[rows], self.y[rows]
            else:
                images, targets = _take(self.X, order[rows]), self.y.index_select(0, order[rows])
            if self.flip:
                images = random_flip(images, self.augment)
            if self.crop:
                images = random_crop(images, self.crop, self.augment)
            yield images, targets


def _take(X: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Return ``X[rows]`` in the memory format of `X`; `index_select` copies whole rows and is twice as fast."""
    channels_last = torch.channels_last
    if X.ndim == 4 and X.is_contiguous(memory_format=channels_last) and not X.is_contiguous():
        return X.permute(0, 2, 3, 1).index_select(0, rows).permute(0, 3, 1, 2)
    return X.index_select(0, rows)


def random_flip(X: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Mirror each image of a batch left to right with probability 1/2.

    Parameters
    ----------
    X : torch.Tensor
        N x C x H x W.
    generator : torch.Generator
        On the CPU; draws N numbers.
    """
    mirrored = (torch.rand(len(X), generator=generator) < 0.5).to(X.device)
    return torch.where(mirrored[:, None, None, None], X.flip(3), X)


def random_crop(X: torch.Tensor, padding: int, generator: torch.Generator) -> torch.Tensor:
    """Shift each image of a batch by a whole number of pixels; what comes in at the edges is zero.

    The same as padding by `padding` zeros on each side and cutting out a window of the old size
    at a random place.

    Parameters
    ----------
    X : torch.Tensor
        N x C x H x W.
    padding : int
        The largest shift, in pixels.
    generator : torch.Generator
        On the CPU; draws 2 N whole numbers.
    """
    N, _, H, W = X.shape
    top, left = torch.randint(0, 2 * padding + 1, (2, N), generator=generator).to(X.device)
    rows = top[:, None] + torch.arange(H, device=X.device)  # N x H
    columns = left[:, None] + torch.arange(W, device=X.device)  # N x W
    padded = torch.nn.functional.pad(X, (padding,) * 4)
    images = torch.arange(N, device=X.device)[:, None, None]
    # Channels last while indexing: three index tensors of one broadcast shape N x H x W.
    cut = padded.permute(0, 2, 3, 1)[images, rows[:, :, None], columns[:, None, :]]
    return cut.permute(0, 3, 1, 2).contiguous()


def shift_right(X: torch.Tensor, pixels: int) -> torch.Tensor:
    """Move images to the right by `pixels`; zeros come in on the left, and as much is lost on the right.

    Parameters
    ----------
    X : torch.Tensor
        N x C x H x W; of standardised images, zero is the mean colour.
    pixels : int
        From 0 to W.
    """
    if not 0 <= pixels <= X.shape[3]:
        raise ValueError(f"images {X.shape[3]} pixels wide cannot be shifted by {pixels}.")
    return torch.nn.functional.pad(X, (pixels, 0))[..., : X.shape[3]]
