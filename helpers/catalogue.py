"""The data sets on the command line: ``python -m helpers.datasets list | fetch [NAME ...] | verify [NAME ...]``.

Introduced with chapter 02.
"""

from __future__ import annotations

import os
import sys

from helpers import datasets
from helpers.datasets import MissingData
from helpers.fetching import DataError


def state(name: str) -> str:
    """Return in a few words where a data set is, without reading all of it."""
    about = datasets.entry(name)
    try:
        there = datasets.real_folder(name).is_dir()
    except FileNotFoundError:
        there = False
    if there:
        return f"comes with {about['distribution']}" if "package" in about else "fetched"
    return "missing: a stand-in is used" if "stand_in" in about else "missing"


def wanted_by_default() -> list[str]:
    """Return the data sets that ``fetch`` gets when none is named: those of this profile."""
    full = os.environ.get("BOOK_PROFILE", "").strip().lower() == "full"
    return [name for name, about in datasets.registry().items() if full or not about.get("full_profile_only")]


def _list(_: list[str]) -> int:
    print(f"{'name':<18}{'MB':>6}  {'state':<29}{'licence'}")
    for name, about in datasets.registry().items():
        print(f"{name:<18}{about.get('download_mb', 0):>6g}  {state(name):<29}{about['licence']}")
    print(f"\nDownloads lie in {datasets.cache_dir()}; `fetch NAME` gets one, `fetch` all that the chapters need.")
    return 0


def _fetch(chosen: list[str]) -> int:
    failed = 0
    for name in chosen or wanted_by_default():
        try:
            folder = datasets.fetch(name, progress=sys.stderr.isatty())
        except DataError as error:
            meanwhile = (
                " Until then chapters use a stand-in." if "stand_in" in datasets.registry().get(name, {}) else ""
            )
            print(f"{error}{meanwhile}", file=sys.stderr)
            failed = 1
        except KeyboardInterrupt:
            print(
                f"\nStopped while fetching {name}; nothing half-written was kept. Run the same command to start again.",
                file=sys.stderr,
            )
            return 130
        else:
            print(f"{datasets.entry(name)['title']}: verified, in {folder}")
    return failed


def _verify(chosen: list[str]) -> int:
    failed = 0
    for name in chosen or datasets.registry():
        try:
            datasets.verify(name)
        except MissingData as error:
            # What nobody asked for by name may be missing.
            print(f"{name:<18}{error if chosen else state(name)}")
            failed |= bool(chosen)
        except DataError as error:
            print(f"{name:<18}{error}")
            failed = 1
        else:
            print(f"{name:<18}good")
    return failed


COMMANDS = {"list": _list, "fetch": _fetch, "verify": _verify}


def main(arguments: list[str]) -> int:
    """Run ``list``, ``fetch [NAME ...]`` or ``verify [NAME ...]``; return the exit status."""
    if not arguments or arguments[0] not in COMMANDS:
        print("usage: python -m helpers.datasets list | fetch [NAME ...] | verify [NAME ...]", file=sys.stderr)
        return 2
    return COMMANDS[arguments[0]](arguments[1:])
