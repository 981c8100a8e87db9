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
