"""Data sets that are plain files: read, compare with the registry, write.

Introduced in chapter 02. `helpers.datasets` calls this for every registry entry without a `codec`.
"""

from __future__ import annotations

import gzip
import hashlib
import tarfile
import zipfile
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
        except (KeyError, EOFError, ValueError, zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile) as error:
            if isinstance(error, KeyError):
                raise SourceError(f"does not hold {error.args[0]}") from error
            raise SourceError(f"holds a damaged file ({type(error).__name__})") from error
        except NotImplementedError as error:  # a zip with a password, or an unknown compression
            raise SourceError("holds a file that cannot be unpacked") from error

    def _from_folder(self, path: Path) -> Contents:
        contents = {}
        for name in self.names:
            packed = path / f"{name}.gz"
            if packed.exists() and not (path / name).exists():
                contents[name] = gzip.decompress(packed.read_bytes())
            else:
                contents[name] = (path / name).read_bytes()
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
        start = contents[0][:1000].lstrip(b"\xef\xbb\xbf \r\n\t")
        if start[:1] == b"<" and (b"<html" in start.lower() or b"<!doctype" in start.lower()):
            return "is a web page"
        columns = self.about.get("columns")
        if columns is not None:
            header = start.split(b"\n", 1)[0].decode("utf-8", "replace").replace('"', "").strip()
            if header.replace(";", ",").split(",") != columns:
                return "has other columns"
        return "differs"

    def write_folder(self, contents: Contents, folder: Path) -> None:
        """Write the files into a folder."""
        for name in self.names:
            (folder / name).write_bytes(contents[name])
