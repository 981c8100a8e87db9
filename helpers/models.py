"""Networks that more than one chapter trains; each is derived in the chapter that its docstring names."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class Net(nn.Module):
    """The small convolutional network of chapter 12: two convolutions, two dense layers, tanh.

    Takes images N x 3 x 32 x 32 and returns logits N x 2.
    """

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(16, 8, kernel_size=3, padding=1)
        self.fc1 = nn.Linear(8 * 8 * 8, 32)
        self.fc2 = nn.Linear(32, 2)

    def forward(self, x):
        x = F.max_pool2d(torch.tanh(self.conv1(x)), 2)
        x = F.max_pool2d(torch.tanh(self.conv2(x)), 2)
        x = torch.tanh(self.fc1(x.flatten(1)))
        return self.fc2(x)


def small_net(pool: str = "max") -> nn.Sequential:
    """`Net` of chapter 12 in a cheaper order: each picture is halved before tanh, not after.

    Takes images N x 3 x 32 x 32 and returns logits N x 2.

    Parameters
    ----------
    pool : str
        ``"max"`` (the same function as `Net`, since tanh keeps the order of numbers),
        ``"average"``, or ``"strided"``: convolutions that take every second place, no pooling.

    Raises
    ------
    ValueError
        Another word.
    """
    layers = {"max": [nn.MaxPool2d(2)], "average": [nn.AvgPool2d(2)], "strided": []}
    if pool not in layers:
        raise ValueError(f"pool is {pool!r}; it must be one of {', '.join(layers)}.")
    halve = layers[pool]  # no weights: one layer may stand in two places
    stride = 2 if pool == "strided" else 1
    return nn.Sequential(
        *(nn.Conv2d(3, 16, 3, stride=stride, padding=1), *halve, nn.Tanh()),
        *(nn.Conv2d(16, 8, 3, stride=stride, padding=1), *halve, nn.Tanh()),
        *(nn.Flatten(), nn.Linear(8 * 8 * 8, 32), nn.Tanh(), nn.Linear(32, 2)),
    )


def dense_net() -> nn.Sequential:
    """Return chapter 11's fully connected network: 3 x 32 x 32 pixels, 512 tanh units, 2 logits."""
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 512), nn.Tanh(), nn.Linear(512, 2))


def deep_dense_net() -> nn.Sequential:
    """Return chapter 11's deeper network: 3 x 32 x 32 pixels, 1024, 512 and 128 tanh units, 2 logits."""
    return nn.Sequential(
        *(nn.Flatten(), nn.Linear(3 * 32 * 32, 1024), nn.Tanh()),
        *(nn.Linear(1024, 512), nn.Tanh(), nn.Linear(512, 128), nn.Tanh(), nn.Linear(128, 2)),
    )


def conv_net(width: int = 16, *, batch_norm: bool = False, dropout: float = 0.0) -> nn.Sequential:
    """`small_net` of any width, with what chapter 14 adds to it.

    Takes images N x 3 x 32 x 32 and returns logits N x 2.

    Parameters
    ----------
    width : int
        Channels of the first convolution; the second has half as many.
    batch_norm : bool
        Normalise each channel over the minibatch, before the activation.
    dropout : float
        Probability of dropping a whole channel, after each pooling.
    """
    layers = []
    for C_in, C_out in ((3, width), (width, width // 2)):
        layers.append(nn.Conv2d(C_in, C_out, 3, padding=1))
        if batch_norm:
            layers.append(nn.BatchNorm2d(C_out))
        layers += [nn.MaxPool2d(2), nn.Tanh()]
        if dropout:
            layers.append(nn.Dropout2d(dropout))
    dense = [nn.Flatten(), nn.Linear(width // 2 * 64, 32), nn.Tanh(), nn.Linear(32, 2)]
    return nn.Sequential(*layers, *dense)


class DepthNet(nn.Module):
    """Chapter 15's network of three convolutions, with or without a skip around the third one.

    Takes images N x 3 x 32 x 32 and returns logits N x 2.
    """

    def __init__(self, width: int = 32, *, skip: bool = False):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width // 2, 3, padding=1)
        self.conv3 = nn.Conv2d(width // 2, width // 2, 3, padding=1)
        self.fc1 = nn.Linear(width // 2 * 16, 32)
        self.fc2 = nn.Linear(32, 2)
        self.skip = skip

    def forward(self, x):
        x = torch.relu(F.max_pool2d(self.conv1(x), 2))
        x = torch.relu(F.max_pool2d(self.conv2(x), 2))
        out = torch.relu(self.conv3(x))
        x = F.max_pool2d(out + x if self.skip else out, 2)
        return self.fc2(torch.relu(self.fc1(x.flatten(1))))


class ResBlock(nn.Module):
    """Chapter 15's residual block: convolution, batch normalisation, ReLU, and the input added (He et al., 2015).

    Keeps the shape N x C x H x W. Weights start as He et al. (2015b) advise, those of the
    normalisation at 1/2.
    """

    def __init__(self, n_channels: int, *, skip: bool = True):
        super().__init__()
        self.conv = nn.Conv2d(n_channels, n_channels, 3, padding=1, bias=False)
        self.batch_norm = nn.BatchNorm2d(n_channels)
        self.skip = skip
        nn.init.kaiming_normal_(self.conv.weight, nonlinearity="relu")
        nn.init.constant_(self.batch_norm.weight, 0.5)

    def forward(self, x):
        out = torch.relu(self.batch_norm(self.conv(x)))
        return out + x if self.skip else out


class NetResDeep(nn.Module):
    """Chapter 15's deep network: a convolution, `n_blocks` residual blocks at half the size, two dense layers.

    Takes images N x 3 x size x size and returns logits N x 2.

    Parameters
    ----------
    width : int
        Channels of every convolution.
    n_blocks : int
        Blocks in a row; 100 as published.
    size : int
        Height and width of the images, a multiple of 4.
    shared : bool
        One block, used `n_blocks` times (the published slip), instead of as many blocks.
    skip : bool
        Whether a block adds its input; without, the network is plain.
    """

    def __init__(self, width: int = 32, n_blocks: int = 10, *, size: int = 32, shared: bool = False, skip: bool = True):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, padding=1)
        if shared:
            blocks = n_blocks * [ResBlock(width, skip=skip)]
        else:
            blocks = [ResBlock(width, skip=skip) for _ in range(n_blocks)]
        self.blocks = nn.Sequential(*blocks)
        self.fc1 = nn.Linear(width * (size // 4) ** 2, 32)
        self.fc2 = nn.Linear(32, 2)

    def forward(self, x):
        x = F.max_pool2d(torch.relu(self.conv1(x)), 2)
        x = F.max_pool2d(self.blocks(x), 2)
        return self.fc2(torch.relu(self.fc1(x.flatten(1))))
