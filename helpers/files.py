"""Data sets that are plain files: read, compare with the registry, write.

Introduced in chapter 02. `helpers.datasets` calls this for every registry entry without a `codec`.
"""

from __future__ import annotations

import errno
import gzip
import hashlib
import os
import tarfile
import zipfile
import zlib
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from helpers.fetching import SourceError

Contents = dict[str, bytes]


def names(about: dict[str, Any]) -> list[str]:
    """Return the names of a data set's files: those with a checksum, or a numbered series of them."""
    if "series" in about:
        return [about["series"].format(i) for i in range(about["n_files"])]
    return list(about["sha256"])


def package_folder(about: dict[str, Any]) -> Path:
    """Return the folder of an installed package that carries the data set, without importing it."""
    spec = find_spec(about["package"])
    if spec is None or spec.origin is None:
        raise FileNotFoundError(about["package"])
    return Path(spec.origin).parent / about["folder"]


def _is_web_page(start: bytes) -> bool:
    """Tell whether a file that starts so is a page of HTML."""
    start = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return start.startswith(b"<") and (b"<html" in start or b"<!doctype" in start)


class PlainFiles:
    """What `helpers.datasets` asks of a codec, for files that need no decoding.

    Checksums are those of the content: a file that a source holds with gzip around it (``.gz``) is
    the same file.
    """

    def __init__(self, about: dict[str, Any]):
        self.about, self.names = about, names(about)

    def urls(self, source: dict[str, Any]) -> list[str]:
        """Return what to download: one container, or each file of the folder that `url` names."""
        if source["kind"] != "files":
            return [source["url"]]
        return [source["url"] + quote(name) + source.get("suffix", "") for name in self.names]

    def read(self, kind: str, path: Path) -> Contents:
        """Read all files out of a folder, a zip or an npm package, wherever in it they lie.

        Raises
        ------
        SourceError
            A file is missing, or the container is damaged.
        OSError
            The disk's own report; FileNotFoundError when the folder is not there.
        """
        reader = {"zip": self._from_zip, "npm": self._from_tar}.get(kind, self._from_folder)
        try:
            return reader(path)
        except KeyError as error:
            raise SourceError(f"does not hold {error.args[0]}") from error
        except RuntimeError as error:  # a zip with a password, or an unknown compression
            raise SourceError("holds a file that cannot be unpacked") from error
        except (EOFError, OSError, ValueError, zlib.error, zipfile.BadZipFile, tarfile.TarError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # the disk's, not a decoder's
            if path.is_file() and _is_web_page(path.read_bytes()[:1000]):
                raise SourceError("is a web page") from error
            raise SourceError("holds a damaged file") from error

    def _from_folder(self, path: Path) -> Contents:
        there = set(os.listdir(path))
        if there.isdisjoint([*self.names, *(f"{name}.gz" for name in self.names)]):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        contents = {}
        for name in self.names:
            if name not in there and f"{name}.gz" not in there:
                raise KeyError(name)
            content = (path / (name if name in there else f"{name}.gz")).read_bytes()
            # A server may have taken the gzip layer off on the way.
            is_packed = name not in there and content.startswith(b"\x1f\x8b")
            contents[name] = gzip.decompress(content) if is_packed else content
        return contents

    def _from_zip(self, path: Path) -> Contents:
        with zipfile.ZipFile(path) as archive:
            inside = {PurePosixPath(name).name: name for name in archive.namelist()}
            return {name: archive.read(inside[name]) for name in self.names}

    def _from_tar(self, path: Path) -> Contents:
        with tarfile.open(path, "r:gz") as archive:
            inside = {PurePosixPath(member.name).name: member for member in archive if member.isfile()}
            return {name: archive.extractfile(inside[name]).read() for name in self.names}

    def differing(self, contents: Contents, sha256: dict[str, str]) -> list[str]:
        """Return a phrase for each file whose content is not the registered one."""
        phrases = []
        for key, expected in sha256.items():
            own = [contents[name] for name in self.names] if "series" in self.about else [contents[key]]
            found = hashlib.sha256()
            for content in own:
                found.update(content)
            if found.hexdigest() != expected:
                phrases.append(f"{key} {self._what_is_wrong(own)}")
        return phrases

    def _what_is_wrong(self, contents: list[bytes]) -> str:
        """Say what a reader can act on: a login page, another table, or only that it differs."""
        if any(_is_web_page(content[:1000]) for content in contents):
            return "is a web page"
        columns = self.about.get("columns")
        if columns is not None:
            start = contents[0][:1000].removeprefix(b"\xef\xbb\xbf")
            header = start.split(b"\n", 1)[0].decode("utf-8", "replace").replace('"', "").strip()
            if header.replace(";", ",").split(",") != columns:
                return "has other columns"
        return "differs"

    def write_folder(self, contents: Contents, folder: Path) -> None:
        """Write the files into a folder."""
        for name in self.names:
            (folder / name).write_bytes(contents[name])
