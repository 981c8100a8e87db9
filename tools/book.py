"""``make book``: render the stored outputs strictly, and say where to open them."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time

from tools.surroundings import HOME


def main() -> int:
    """Return the exit status of the build; its log is printed only when something is wrong."""
    started, log = time.perf_counter(), HOME / "_build" / "build.log"
    # From nothing every time: a page that was read before would not warn again.
    shutil.rmtree(log.parent, ignore_errors=True)
    log.parent.mkdir()
    # Every warning is an error, unresolved references included; all of them are shown at once.
    program = "from jupyter_book.cli.main import main; main()"
    command = [sys.executable, "-c", program, "build", ".", "-W", "-n", "--keep-going"]
    with open(log, "w", encoding="utf-8") as file:
        status = subprocess.run(command, cwd=HOME, stdout=file, stderr=subprocess.STDOUT).returncode
    if status != 0:
        lines = log.read_text(encoding="utf-8").splitlines()
        wrong = [line for line in lines if "WARNING" in line or "ERROR" in line or "Error" in line]
        print("\n".join(wrong or lines[-20:]), file=sys.stderr)
        print(f"The book was not built; the whole log is in {log}.", file=sys.stderr)
        return 1
    print(f"The book is built ({time.perf_counter() - started:.0f} s). Open {HOME / '_build/html/index.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
