"""Means with intervals: what a handful of runs can and cannot say.

Introduced in chapter 03. Formulas: Student's t, see any text on statistics; Wilson (1927) for
proportions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence


class Estimate(NamedTuple):
    """A mean and the ends of its interval, in the unit of the values."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def _sample(values: Sequence[float]) -> np.ndarray:
    values = np.asarray(values, dtype=float)
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(f"an interval needs a list of at least 2 values; got shape {values.shape}.")
    if not np.isfinite(values).all():
        raise ValueError("an interval needs finite values; there is a nan or an infinity among them.")
    return values


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> Estimate:
    """Return the mean of independent runs and its confidence interval (Student's t).

    Raises
    ------
    ValueError
        Fewer than two values, or one that is not finite.
    """
    values = _sample(values)
    half = _t(confidence, len(values)) * values.std(ddof=1) / np.sqrt(len(values))
    return Estimate(float(values.mean()), float(values.mean() - half), float(values.mean() + half))


def paired_difference(a: Sequence[float], b: Sequence[float], confidence: float = 0.95) -> Estimate:
    """Return the mean of ``a - b`` over runs that share their seeds, with its interval.

    Raises
    ------
    ValueError
        The two are not equally long, or `mean_interval` refuses the differences.
    """
    if len(a) != len(b):
        raise ValueError(f"paired values must be equally many; got {len(a)} and {len(b)}.")
    return mean_interval(np.asarray(a, dtype=float) - np.asarray(b, dtype=float), confidence)


def prediction_interval(values: Sequence[float], confidence: float = 0.99) -> Estimate:
    """Return the interval in which one more run is expected to fall.

    Raises
    ------
    ValueError
        Fewer than two values, or one that is not finite.
    """
    values = _sample(values)
    half = _t(confidence, len(values)) * values.std(ddof=1) * np.sqrt(1 + 1 / len(values))
    return Estimate(float(values.mean()), float(values.mean() - half), float(values.mean() + half))


def proportion_interval(hits: int, n: int, confidence: float = 0.95) -> Estimate:
    """Return the share ``hits / n`` and its Wilson interval: what `n` images alone can tell.

    Raises
    ------
    ValueError
        `n` is not positive, or `hits` lies outside 0..n.
    """
    from scipy.stats import binomtest

    if not 0 <= hits <= n or n < 1:
        raise ValueError(f"{hits} hits out of {n} is no proportion.")
    interval = binomtest(int(hits), int(n)).proportion_ci(confidence, method="wilson")
    return Estimate(float(hits / n), float(interval.low), float(interval.high))


def _t(confidence: float, n: int) -> float:
    from scipy.stats import t

    return float(t.ppf((1 + confidence) / 2, n - 1))
