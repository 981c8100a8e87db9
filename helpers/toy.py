"""Data sets small enough to be typed in. Introduced in chapter 06."""

from __future__ import annotations

import torch


def thermometer() -> tuple[torch.Tensor, torch.Tensor]:
    """Return eleven temperatures in degrees Celsius, and what a thermometer of unknown unit showed.

    Both are float32 of length 11; the readings come from Stevens, Antiga and
    Viehmann (2020), *Deep Learning with PyTorch*, chapter 5.
    """
    t_c = torch.tensor([0.5, 14.0, 15.0, 28.0, 11.0, 8.0, 3.0, -4.0, 6.0, 13.0, 21.0])
    t_u = torch.tensor([35.7, 55.9, 58.2, 81.9, 56.3, 48.9, 33.9, 21.8, 48.4, 60.4, 68.4])
    return t_c, t_u
