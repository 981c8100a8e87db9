"""``make test TORCH=2.11``: an environment of its own, as locked but for torch and what comes with it.

    python -m tools.other_torch 2.11      (or `newest`; prints the Python to use)

torchvision names the torch that it was built for, so the resolver finds the pair.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from pathlib import Path

from tools.install import SetupError
from tools.surroundings import HOME

# Packages that follow torch's version: not taken from the lock.
FAMILY = re.compile(r"(torch|torchvision|triton|nvidia-.*|cuda-.*)==")


def requirement(version: str) -> str:
    """Return what is asked of torch: ``"2.11"`` means any of its releases, ``"newest"`` no limit.

    Raises
    ------
    SetupError
        Another text, or a version below the supported range.
    """
    if version == "newest":
        return "torch"
    if not re.fullmatch(r"2\.\d+(\.\d+)?", version) or int(version.split(".")[1]) < 11:
        raise SetupError(f"TORCH={version} is not supported: say 2.11 or later, or newest.")
    return f"torch=={version}" + ("" if version.count(".") == 2 else ".*")


def rest_of_the_lock() -> str:
    """Return the lock's pins of everything but torch and its family, without hashes."""
    lock = (HOME / "requirements.txt").read_text(encoding="utf-8")
    pins = re.findall(r"^([\w.-]+==[^\s\\]+(?: ; [^\\\n]+)?)", lock, re.M)
    return "\n".join(pin.strip() for pin in pins if not FAMILY.match(pin)) + "\n"


def prepare(version: str) -> Path:
    """Make the environment when it is missing or out of date; return its Python."""
    wanted = requirement(version)
    venv = HOME / f".venv-torch-{version}"
    python = venv / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    project = HOME / "pyproject.toml"
    key = hashlib.sha256((wanted + rest_of_the_lock() + project.read_text(encoding="utf-8")).encode()).hexdigest()
    stamp = venv / ".lock-sha256"
    if stamp.exists() and stamp.read_text() == key and version != "newest":
        return python
    print(f"making {venv.name} with {wanted}", file=sys.stderr, flush=True)
    if not python.exists():
        _run([sys.executable, "-m", "venv", "--without-pip", str(venv)])
    limit, lock = venv / "torch.txt", venv / "lock.txt"
    limit.write_text(wanted + "\n", encoding="utf-8")
    lock.write_text(rest_of_the_lock(), encoding="utf-8")  # uv keeps these versions where torch allows it
    uv = [sys.executable, "-m", "uv", "--quiet", "--no-config", "pip"]
    groups = ["--group", f"{project}:book", "--group", f"{project}:test", "--constraint", str(limit)]
    _run([*uv, "compile", str(project), *groups, "--python", str(python), "-o", str(lock), "--no-header"])
    _run([*uv, "sync", "--python", str(python), str(lock)])
    _run([*uv, "install", "--python", str(python), "--no-deps", "--no-build-isolation", "--editable", str(HOME)])
    stamp.write_text(key)
    return python


def _run(command: list[str]) -> None:
    if subprocess.run(command, cwd=HOME, stdout=subprocess.DEVNULL).returncode != 0:
        raise SetupError(
            f"`{' '.join(command[1:6])} ...` failed (its message is above): there may be no such torch for this "
            "Python, or no network."
        )


def main(arguments: list[str]) -> int:
    """Print the path of the Python that has the torch wanted; return the exit status."""
    try:
        print(prepare(*arguments))
    except SetupError as error:
        print(error, file=sys.stderr)
        return 1
    except TypeError:
        print("usage: python -m tools.other_torch VERSION|newest", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
