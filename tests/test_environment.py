"""environment.yml, pyproject.toml and both locks agree; set-up errors are sentences."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from tools import install, other_torch, surroundings

HOME = surroundings.HOME
PROJECT = tomllib.loads((HOME / "pyproject.toml").read_text(encoding="utf-8"))


def lock(name):
    """Return {package: lock entry, hashes included} of a lock file."""
    text = (HOME / name).read_text(encoding="utf-8")
    entries = re.findall(r"^([\w.-]+)(==\S+[^\n]*(?:\n    --hash=[^\n]*)+)", text, re.MULTILINE)
    return {package.lower(): entry for package, entry in entries}


ALL, BOOK = lock("requirements.txt"), lock("requirements-book.txt")


def version(entry):
    return re.match(r"==(\S+)", entry).group(1)


def test_book_lock_is_a_subset_of_the_lock():
    assert len(BOOK) > 20
    for package, entry in BOOK.items():
        assert version(entry) == version(ALL[package]), package
    assert "torch" not in BOOK


@pytest.mark.parametrize("group", ["run", "book", "test"])
def test_every_requirement_is_locked_within_its_range(group):
    wanted = PROJECT["project"]["dependencies"] if group == "run" else PROJECT["dependency-groups"][group]
    for requirement in map(Requirement, wanted):
        locked = (BOOK if group == "book" else ALL)[requirement.name.lower()]
        assert requirement.specifier.contains(version(locked)), requirement


def test_locks_hold_hashes_and_no_hosts():
    for name in ("requirements.txt", "requirements-book.txt"):
        text = (HOME / name).read_text(encoding="utf-8")
        assert "://" not in text
        assert "index" not in text.replace("importlib", "")
        packages = re.findall(r"^[\w.-]+==", text, re.MULTILINE)
        hashed = re.findall(r"^[\w.-]+==[^\n]*\\\n    --hash=sha256:", text, re.MULTILINE)
        assert len(packages) == len(hashed) > 20


def test_environment_yml_uses_the_lock_and_a_supported_python():
    environment = yaml.safe_load((HOME / "environment.yml").read_text(encoding="utf-8"))
    assert environment["name"] == PROJECT["project"]["name"]
    python, pip, packages = environment["dependencies"]
    assert pip == "pip"
    assert SpecifierSet(PROJECT["project"]["requires-python"]).contains(python.removeprefix("python="))
    assert packages["pip"] == ["--require-hashes", "-r requirements.txt"]


def test_minimum_python_is_the_same_everywhere():
    assert PROJECT["project"]["requires-python"] == ">={}.{}".format(*install.MIN_PYTHON)
    assert "Python {}.{}".format(*install.MIN_PYTHON) in (HOME / "book/how-to-run.md").read_text(encoding="utf-8")


def test_installed_versions_are_the_locked_ones():
    from importlib.metadata import version as installed

    other = Path(sys.prefix).name.startswith(".venv-torch-")  # made by `make test TORCH=...`
    for package in ("numpy", "nbval", "jupyter-book", *(() if other else ("torch", "torchvision"))):
        assert installed(package).split("+")[0] == version(ALL[package])


def test_python_too_old():
    with pytest.raises(install.SetupError, match=r"Python 3\.9 is too old: this book needs 3\.11 or newer"):
        install.check_python((3, 9, 1))
    install.check_python((3, 11, 0))


def test_install_script_compiles_on_an_old_python():
    source = (HOME / "tools/install.py").read_text(encoding="utf-8")
    compile(source, "install.py", "exec", dont_inherit=True)
    import ast

    ast.parse(source, feature_version=(3, 7))


def test_disk_too_full():
    with pytest.raises(install.SetupError, match=r"disk is too full: the packages need 14 GB .* has 2\.0 GB; free"):
        install.check_disk(14.0, free_bytes=2e9)
    install.check_disk(14.0, free_bytes=20e9)


def test_torch_and_torchvision_that_do_not_belong_together():
    sentence = "do not belong together .* install the pair again"
    with pytest.raises(install.SetupError, match=sentence):
        install.check_pair("2.13.0", "0.29.2", "2.14.1")
    with pytest.raises(install.SetupError, match=sentence):
        install.check_pair(
            "2.14.1+cpu", "0.29.2", "2.14.1", problem="RuntimeError: operator torchvision::nms does not exist"
        )
    with pytest.raises(install.SetupError, match=r"cannot be imported: ImportError: libcudart"):
        install.check_pair("2.14.1", "0.29.2", "2.14.1", problem="Traceback\nImportError: libcudart.so")
    install.check_pair("2.14.1+cu130", "0.29.2", "2.14.1")


def test_the_pair_installed_here_belongs_together():
    install.check_pair(*install.installed_pair())


def test_unknown_chapter_is_a_sentence():
    command = [sys.executable, "-m", "tools.test", "--chapters", "77"]
    done = subprocess.run(command, cwd=HOME, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("There is no chapter 77; CHAPTERS takes numbers out of 01")


def test_make_help_names_every_target():
    text = (HOME / "Makefile").read_text(encoding="utf-8")
    phony = re.search(r"^\.PHONY: (.+)$", text, re.MULTILINE).group(1).split()
    helped = re.findall(r"^([a-z]+):.*## ", text, re.MULTILINE)
    assert sorted(phony) == sorted(helped)


def test_kernels_share_the_cores_and_ignore_the_user(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0, 1, 2, 3}, raising=False)
    env = surroundings.environment(workers=2, device="cpu")
    assert env["OMP_NUM_THREADS"] == "2"
    assert env["BOOK_DEVICE"] == "cpu"
    assert "book-kernels" in env["IPYTHONDIR"]


@pytest.mark.parametrize(
    ("version", "asked"), [("2.11", "torch==2.11.*"), ("2.14.1", "torch==2.14.1"), ("newest", "torch")]
)
def test_another_torch_is_asked_for(version, asked):
    assert other_torch.requirement(version) == asked


@pytest.mark.parametrize("version", ["2.10", "1.13", "3.0", "2", "latest", "2.11; rm", ""])
def test_an_unsupported_torch_ends_in_a_sentence(version):
    with pytest.raises(install.SetupError, match=r"is not supported: say 2\.11 or later, or newest\.$"):
        other_torch.requirement(version)


def test_another_torch_keeps_the_other_locked_versions():
    pins = [Requirement(line) for line in other_torch.rest_of_the_lock().splitlines()]
    kept = {pin.name.lower() for pin in pins}
    follow = {name for name in ALL if other_torch.FAMILY.match(f"{name}==")}
    assert {"torch", "torchvision"} <= follow
    assert kept == set(ALL) - follow
    numpy = next(pin for pin in pins if pin.name == "numpy")
    assert str(numpy.specifier) == f"=={version(ALL['numpy'])}"


def test_the_oldest_supported_torch_is_the_one_in_the_requirements():
    needed = next(Requirement(line) for line in PROJECT["project"]["dependencies"] if line.startswith("torch>"))
    assert needed.specifier.contains("2.11.0")
    assert not needed.specifier.contains("2.10.9")
