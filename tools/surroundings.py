"""Where notebooks run: which chapters, how many threads, and folders that do not depend on the user."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path

HOME = Path(__file__).resolve().parents[1]
NOTEBOOKS = HOME / "notebooks"


def chapters(selection: str) -> list[Path]:
    """Return the notebooks whose numbers are named in `selection` ("01 12"); all when it is empty.

    Raises
    ------
    ValueError
        A number without a chapter.
    """
    everything = sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))
    wanted = selection.replace(",", " ").split()
    known = [path.name[:2] for path in everything]
    if unknown := [number for number in wanted if number.zfill(2) not in known]:
        raise ValueError(f"There is no chapter {', '.join(unknown)}; CHAPTERS takes numbers out of {' '.join(known)}.")
    wanted = [number.zfill(2) for number in wanted]
    return [path for path in everything if not wanted or path.name[:2] in wanted]


def book_metadata(path: Path) -> dict:
    """Return a notebook's own entry in its metadata: budget and data sets."""
    return json.loads(path.read_text(encoding="utf-8"))["metadata"].get("book", {})


def needed_data(paths: list[Path]) -> list[str]:
    """Return the data sets that notebooks read."""
    return sorted({name for path in paths for name in book_metadata(path).get("data", [])})


def environment(workers: int, device: str = "") -> dict[str, str]:
    """Return the environment of kernels: cores shared out, and no settings of the user's.

    Two kernels with two threads each on two cores run many times slower than with one thread each.
    Jupyter, IPython and matplotlib keep their files in a scratch folder, so that a read-only home
    or a start-up script of the user's changes nothing.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, cores // workers))
    scratch = Path(tempfile.gettempdir()) / f"book-kernels-{os.getuid() if hasattr(os, 'getuid') else 'user'}"
    scratch.mkdir(mode=0o700, exist_ok=True)
    ours = {
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "IPYTHONDIR": str(scratch / "ipython"),
        "JUPYTER_CONFIG_DIR": str(scratch / "jupyter"),
        "JUPYTER_RUNTIME_DIR": str(scratch / "runtime"),
        "MPLCONFIGDIR": str(scratch / "matplotlib"),
        "PYTHONHASHSEED": "0",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        "NVIDIA_TF32_OVERRIDE": "0",
    }
    if device:
        ours["BOOK_DEVICE"] = device
    return os.environ | ours


def chromium() -> str | None:
    """Return the path of Chromium or Chrome, or None where there is none."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((path for path in map(shutil.which, names) if path), None)
