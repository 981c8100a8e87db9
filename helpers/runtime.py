"""Where and how a chapter runs: device, random generators, profile, the report line.

Introduced in chapter 01.
"""

from __future__ import annotations

import os
import zlib
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

PROFILES = ("quick", "full")


def device() -> torch.device:
    """Return the device on which chapters compute.

    The environment variable ``BOOK_DEVICE`` decides when it is set (``cpu``, ``cuda``,
    ``cuda:1``, ``mps``); otherwise the first available of CUDA, MPS, CPU.

    Raises
    ------
    RuntimeError
        When ``BOOK_DEVICE`` names no device, or one that this machine lacks.
    """
    import torch

    wanted = os.environ.get("BOOK_DEVICE", "").strip().lower()
    available = {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available}
    if not wanted:
        return torch.device(next((kind for kind, has in available.items() if has()), "cpu"))
    try:
        chosen = torch.device(wanted)
        if chosen.type not in ("cpu", *available):  # torch knows more, such as meta
            raise RuntimeError(chosen.type)
    except RuntimeError:
        raise RuntimeError(
            f"BOOK_DEVICE={wanted!r} names no device; use cpu, cuda, cuda:1 or mps, or unset it."
        ) from None
    if chosen.type in available and not available[chosen.type]():
        raise RuntimeError(
            f"BOOK_DEVICE={wanted!r}, but torch {torch.__version__} finds no {chosen.type} device here; "
            "unset BOOK_DEVICE or set it to cpu."
        )
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise RuntimeError(
            f"BOOK_DEVICE={wanted!r}, but this machine has {torch.cuda.device_count()} CUDA device(s), "
            "counted from cuda:0; choose one of those."
        )
    return chosen


def profile() -> str:
    """Return ``"quick"`` (the stored outputs) or ``"full"`` (published length), from ``BOOK_PROFILE``.

    Raises
    ------
    RuntimeError
        When ``BOOK_PROFILE`` is neither.
    """
    chosen = os.environ.get("BOOK_PROFILE", "quick").strip().lower()
    if chosen not in PROFILES:
        raise RuntimeError(f"BOOK_PROFILE={chosen!r} is no profile; use one of {', '.join(PROFILES)}.")
    return chosen


def generator(purpose: str, seed: int = 0) -> torch.Generator:
    """Return a CPU generator of random numbers that serves one purpose.

    Two purposes (``"shuffle"``, ``"augment"``) with the same seed give unrelated streams, so that
    drawing more numbers for one leaves the other as it was. CPU and GPU runs see the same draws.

    Parameters
    ----------
    purpose : str
        What the numbers are for; any text.
    seed : int
        The run's seed, below 65,536: torch's CPU generator uses 32 bits, of which half tell the purpose.
    """
    import torch

    return torch.Generator().manual_seed(zlib.crc32(purpose.encode()) * 65_536 + seed)


@contextmanager
def seeded_weights(seed: int) -> Iterator[None]:
    """Make the layers created inside the ``with`` block draw their initial weights from `seed`.

    ``torch.nn`` layers draw from torch's global CPU generator. It is set for the block and put
    back afterwards, so that nothing outside the block is disturbed.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def report(*data: str) -> None:
    """Print the line that every chapter shows: device, profile, and where its data come from.

    Parameters
    ----------
    *data : str
        Names of data sets in ``data/registry.toml`` that the chapter reads.

    Raises
    ------
    helpers.fetching.DataError
        When a data set is not there and has no stand-in.
    """
    from helpers import datasets

    sources = ", ".join(f"{name} ({datasets.provenance(name)})" for name in data) or "made in the chapter"
    line = f"device: {device().type} | profile: {profile()} | data: {sources}"
    print(line if len(line) <= 60 else line.replace(" | data:", "\ndata:"))  # phones
    if "(stand-in)" in sources:
        print("A stand-in is not the real data: numbers differ from the book's")
        print("and claims are not checked. Run `make data` for the real data.")
