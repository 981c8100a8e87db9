"""Make the virtual environment and install one of the two locks into it.

    python3 tools/install.py book|test    (the Makefile calls this)

Written for any Python 3, so that one that is too old gets a sentence and not a traceback.
"""

import os
import re
import shutil
import subprocess
import sys

HOME = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.path.join(HOME, ".venv")
PYTHON = os.path.join(VENV, "Scripts" if os.name == "nt" else "bin", "python")
MIN_PYTHON = (3, 11)
LOCKS = {"book": ("requirements-book.txt", 1.0), "test": ("requirements.txt", 14.0)}  # file, GB to unpack


class SetupError(Exception):
    """The environment cannot be made; the message is one sentence."""


def check_python(version=None):
    """Raise SetupError when Python is too old."""
    version = version or sys.version_info[:3]
    if tuple(version[:2]) < MIN_PYTHON:
        raise SetupError(
            "Python {}.{} is too old: this book needs {}.{} or newer; "
            "install one and run `make PYTHON=/path/to/python3.12`.".format(*version[:2], *MIN_PYTHON)
        )


def check_disk(needed_gb, free_bytes=None):
    """Raise SetupError when the disk has no room for the packages."""
    free_gb = (shutil.disk_usage(HOME).free if free_bytes is None else free_bytes) / 1e9
    if free_gb < needed_gb:
        raise SetupError(
            "The disk is too full: the packages need {:.0f} GB and {} has {:.1f} GB; "
            "free some space and run the same command again.".format(needed_gb, HOME, free_gb)
        )


def check_pair(torch, torchvision, wants, problem=""):
    """Raise SetupError when torch and torchvision do not belong together.

    `wants` is the torch version that the installed torchvision was built for; `problem` is what
    importing both printed.
    """
    differs = wants and torch.split("+")[0] != wants.split("+")[0]
    if differs or "torchvision::nms does not exist" in problem:
        raise SetupError(
            "torch {} and torchvision {} do not belong together (this torchvision needs torch {} from the same "
            "source); remove both and install the pair again: `pip uninstall torch torchvision`, then "
            "`pip install -r requirements.txt`.".format(torch, torchvision, wants or "of its own release")
        )
    if problem:
        raise SetupError("torch and torchvision cannot be imported: {}".format(problem.strip().splitlines()[-1]))


def installed_pair():
    """Return versions of torch and torchvision in this environment, and the torch that the latter needs."""
    from importlib.metadata import PackageNotFoundError, requires, version

    try:
        needs = " ".join(requires("torchvision") or [])
        found = re.search(r"\btorch==([\w.+]+)", needs)
        return version("torch"), version("torchvision"), found.group(1) if found else ""
    except PackageNotFoundError as error:
        raise SetupError(
            "{} is not installed here; run `make test`, or `pip install -r requirements.txt`.".format(error.name)
        ) from None


def import_problem(python):
    """Import both packages in a fresh process; return what went wrong, or an empty text."""
    done = subprocess.run([python, "-c", "import torch, torchvision"], capture_output=True, text=True)
    return "" if done.returncode == 0 else done.stderr


def install(group):
    """Make .venv when it is missing, and install the lock of `group` with uv (or pip, where uv is not to be had)."""
    lock, needed_gb = LOCKS[group]
    check_python()
    check_disk(needed_gb)
    if not os.path.exists(PYTHON):
        print("making .venv", flush=True)
        run([sys.executable, "-m", "venv", VENV])
    with open(os.path.join(HOME, "requirements.txt")) as file:
        uv = re.search(r"^uv==[\w.]+", file.read(), re.M).group()
    print("installing {}".format(lock), flush=True)
    quiet = ["--quiet", "--disable-pip-version-check"]
    has_uv = subprocess.run([PYTHON, "-m", "pip", "install", *quiet, uv]).returncode == 0
    with_uv, with_pip = ["-m", "uv", "pip", "install", "--quiet"], ["-m", "pip", "install", *quiet]
    installer = [PYTHON, *(with_uv if has_uv else with_pip)]
    run([*installer, "--require-hashes", "-r", os.path.join(HOME, lock)])
    if group == "test":
        run([*installer, "--no-deps", "--no-build-isolation", "--editable", HOME])
        check = [PYTHON, os.path.abspath(__file__), "check"]
        if subprocess.run(check).returncode != 0:
            raise SystemExit(1)


def run(command):
    """Run a command; end with a sentence when it fails."""
    if subprocess.run(command, cwd=HOME).returncode != 0:
        raise SetupError(
            "`{}` failed (its message is above); check the network and the disk, then run the same "
            "command again, or `make clean` first to start afresh.".format(" ".join(command[:6]))
        )


def main(arguments):
    """Run ``book``, ``test`` or ``check``; return the exit status."""
    if arguments not in (["book"], ["test"], ["check"]):
        print("usage: python3 tools/install.py book|test|check", file=sys.stderr)
        return 2
    try:
        if arguments == ["check"]:
            check_pair(*installed_pair(), problem=import_problem(sys.executable))
        else:
            install(arguments[0])
    except SetupError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
