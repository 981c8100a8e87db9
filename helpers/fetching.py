"""Fetching without surprises: time-outs, a minimum speed, all or nothing on disk, one writer at a time.

Introduced with chapter 02.
"""

from __future__ import annotations

import errno
import shutil
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING
from urllib.parse import unquote

if TYPE_CHECKING:
    from collections.abc import Iterator

CONNECT_TIMEOUT = 5.0  # seconds until a server must have answered
READ_TIMEOUT = 15.0  # seconds without a single byte
MIN_KB_PER_S = 200.0  # slower than this, the next source is tried
GRACE = 8.0  # seconds before the speed is judged


class DataError(RuntimeError):
    """A data set cannot be had; the sentence says which file, from where, and what to do."""


class SourceError(Exception):
    """One source failed; the next one may serve."""


class _Watched:
    """The file that pooch writes to and its progress bar in one; stops a download that is too slow."""

    def __init__(self, file: IO[bytes], min_kb_per_s: float, show: bool):
        self.file, self.min_kb_per_s, self.show = file, min_kb_per_s, show
        # `total` is filled in by pooch; it stays 0 when the server does not tell.
        self.total, self.done, self.started, self.bar = 0, 0, time.monotonic(), None

    def write(self, chunk: bytes) -> None:
        self.file.write(chunk)
        if self.show and self.bar is None:
            from tqdm import tqdm

            self.bar = tqdm(total=self.total or None, unit="B", unit_scale=True, leave=False)
        if self.bar is not None:
            self.bar.update(len(chunk))
        self.done += len(chunk)
        elapsed = time.monotonic() - self.started
        speed = self.done / 1000 / elapsed
        if elapsed > GRACE and speed < self.min_kb_per_s and self.done != self.total:
            raise SourceError(f"sends only {speed:.0f} kB/s")

    def flush(self) -> None:
        """Nothing: pooch asks after each chunk, but only the whole file counts."""

    def update(self, n: int) -> None:
        """Nothing: pooch reports the chunk size here, `write` counts what really came."""

    reset = flush

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


def download(url: str, folder: Path, *, min_kb_per_s: float = MIN_KB_PER_S, progress: bool = False) -> Path:
    """Download `url` into `folder` and return the file.

    Raises
    ------
    SourceError
        No connection, no answer, a truncated body, an error status, or less than `min_kb_per_s`.
    OSError
        The file cannot be written.
    """
    import pooch
    import requests

    target = folder / unquote(url.rsplit("/", 1)[-1])
    with open(target, "wb") as file:
        watched = _Watched(file, min_kb_per_s, progress)
        # Small chunks: the speed is judged only when one is full.
        fetcher = pooch.HTTPDownloader(progressbar=watched, chunk_size=4096, timeout=(CONNECT_TIMEOUT, READ_TIMEOUT))
        try:
            fetcher(url, watched, None)
        except requests.exceptions.RequestException as error:
            raise SourceError(_reason(error)) from error
        finally:
            watched.close()
    return target


def _reason(error: Exception) -> str:
    """Put an exception of requests into a few words."""
    import requests

    if isinstance(error, requests.exceptions.HTTPError):
        return f"answers with error {error.response.status_code}"
    if isinstance(error, requests.exceptions.ConnectTimeout):
        return f"did not answer within {CONNECT_TIMEOUT:g} s"
    if isinstance(error, requests.exceptions.ReadTimeout) or "Read timed out" in str(error):
        return f"sent nothing for {READ_TIMEOUT:g} s"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "broke off in the middle of the file"
    return "cannot be reached"


def npm_pack(package: str, folder: Path, *, timeout_s: float) -> Path:
    """Fetch an npm package as it is published, with the installed client; return its archive.

    Raises
    ------
    SourceError
        No client, no network, or not done within `timeout_s` seconds.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise SourceError("needs the program npm, which is not installed")
    command = [npm, "pack", package, "--silent", "--ignore-scripts", "--pack-destination", str(folder)]
    command += ["--fetch-retries=0", "--fetch-timeout=60000", "--cache", str(folder / "npm-cache")]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=timeout_s, cwd=folder)
    except subprocess.TimeoutExpired:
        raise SourceError(f"was not done after {timeout_s:g} s") from None
    except subprocess.CalledProcessError:
        raise SourceError("cannot be had through npm") from None
    packed = next(folder.glob("*.tgz"), None)
    if packed is None:
        raise SourceError("cannot be had through npm")
    return packed


@contextmanager
def staged(target: Path) -> Iterator[Path]:
    """Give a new folder to write into; it becomes `target` in one move, or vanishes.

    Whatever goes wrong, Ctrl-C included, `target` stays as it was.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        fresh = scratch / "fresh"
        fresh.mkdir()
        yield fresh
        if target.exists():
            target.rename(scratch / "replaced")
        try:
            fresh.rename(target)
        except BaseException:
            if (scratch / "replaced").exists():
                (scratch / "replaced").rename(target)
            raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def one_writer(target: Path) -> Iterator[None]:
    """Let one process at a time write `target`; the others wait until it is done.

    The one removes what an earlier one left beside `target` (``.NAME-*``) when it was killed.
    """
    from filelock import FileLock

    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.parent / f".{target.name}.lock"):
        for left_over in target.parent.glob(f".{target.name}-*"):
            shutil.rmtree(left_over, ignore_errors=True)
        yield


def explain_disk(error: OSError, target: Path, needed_mb: float) -> DataError | None:
    """Return the sentence for a disk that is full or may not be written, or None for another error."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DataError(
            f"The disk is full: {target} needs {needed_mb:.0f} MB while it is unpacked; "
            "free some space, or set BOOK_DATA_CACHE to a folder on another disk."
        )
    if error.errno == errno.ENOENT:
        return DataError(f"{target} vanished while it was being written; nothing is lost, run the same command again.")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
        return DataError(
            f"{target} may not be written ({error.strerror.lower()}); set BOOK_DATA_CACHE to a folder that may be."
        )
    return None


def check_space(target: Path, needed_mb: float) -> None:
    """Raise ENOSPC before anything is fetched when the disk of `target` lacks `needed_mb` MB."""
    existing = next(folder for folder in target.absolute().parents if folder.exists())
    if shutil.disk_usage(existing).free < needed_mb * 1e6:
        raise OSError(errno.ENOSPC, "No space left on device")
