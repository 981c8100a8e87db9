"""``make test``: fetch what the chapters need, then unit tests and nbval, two or more at a time."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

from tools import install, surroundings


def main(arguments: list[str]) -> int:
    """Return pytest's exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.test", description=__doc__)
    parser.add_argument("--chapters", default="", help='numbers, as in "01 12"; only these notebooks are run')
    parser.add_argument("--device", default="", help="cpu, cuda, mps")
    parser.add_argument("--workers", type=int, default=max(2, (os.cpu_count() or 2) // 2))
    parser.add_argument("--store", default="", help="anything: write times and versions to data/timings.json")
    chosen = parser.parse_args(arguments)
    try:
        install.check_python()
        install.check_pair(*install.installed_pair())
        paths = surroundings.chapters(chosen.chapters)
    except (install.SetupError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    env = surroundings.environment(chosen.workers, chosen.device) | {"BOOK_STORE_STATUS": chosen.store}
    if data := surroundings.needed_data(paths):
        # What cannot be fetched is explained here; its chapters are skipped and the run fails.
        subprocess.run([sys.executable, "-m", "helpers.datasets", "fetch", *data], env=env, cwd=surroundings.HOME)
    # The longest chapter first, so that no worker waits for it at the end.
    paths.sort(key=lambda path: -surroundings.book_metadata(path).get("budget_s", 0))
    targets = [str(path.relative_to(surroundings.HOME)) for path in paths]
    if not chosen.chapters:
        targets.append("tests")
    options = ["-n", str(chosen.workers), "--dist", "loadfile", "--no-loadscope-reorder"]
    options += ["--nbval", "--nbval-current-env"]
    options += ["--nbval-cell-timeout", "600", "-q", "--durations", "5"]
    command = [sys.executable, "-m", "pytest", *options, *targets]
    return subprocess.run(command, env=env, cwd=surroundings.HOME).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
