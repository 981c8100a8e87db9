"""Claims that a chapter settles, and records of long runs.

Introduced in chapter 12. ``python -m helpers.results`` runs and checks the records.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import inspect
import json
import os
import platform
import random
import sys
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from helpers import datasets
from helpers.stats import Estimate, prediction_interval

if TYPE_CHECKING:
    from collections.abc import Callable

RECORDS = datasets.HOME / "data" / "results"


# --- claims -------------------------------------------------------------------------------------


def claim(id: str, sentence: str, value: float, interval: tuple[float, ...] | None, holds: bool) -> None:
    """Print a sentence with its number, and stop the chapter when it is not true.

    Parameters
    ----------
    id : str
        Chapter and name, ``"12-one-cycle"``; unique in the book, listed on its Claims page.
    sentence : str
        What is claimed, and for which regime.
    value : float
        The number that decides, in the sentence's unit.
    interval : tuple or Estimate, optional
        Its 95 % interval (the last two numbers of the tuple), where there is one.
    holds : bool
        The claim, computed.

    Raises
    ------
    AssertionError
        When it does not hold, unless the data are a stand-in.
    """
    low, high = (None, None) if interval is None else (float(end) for end in interval[-2:])
    numbers = f"{float(value):.3g}"
    if interval is not None:
        numbers += f"\n  95 % interval: {low:.3g} to {high:.3g}"
    stand_ins = datasets.stand_ins_in_use()
    verdict = "not checked: stand-in data" if stand_ins else "holds" if holds else "DOES NOT HOLD"
    text = "\n".join([*textwrap.wrap(f"Claim {id}: {sentence}", 44), f"  measured: {numbers}", f"  {verdict}"])
    if not stand_ins and not holds:
        raise AssertionError(text)
    about = {"id": id, "sentence": sentence, "value": float(value), "low": low, "high": high}
    _show(text, about | {"verdict": verdict})


def _show(text: str, about: dict[str, Any]) -> None:
    """Print `text`; in a notebook attach `about`, from which the book's Claims page is made."""
    shell = sys.modules.get("IPython") and sys.modules["IPython"].get_ipython()
    if not hasattr(shell, "kernel"):
        print(text)
        return
    from IPython.display import display

    display({"text/plain": text}, metadata={"claim": about}, raw=True)


# --- records ------------------------------------------------------------------------------------


class Recipe(NamedTuple):
    """A training function and what its record must agree with."""

    id: str
    train: Callable[..., Any]
    seeds: int
    n_epochs: int
    data: str
    uses: tuple[Any, ...]
    settings: dict[str, Any]

    def source_sha256(self) -> str:
        """Hash the code of the recipe and its model; comments, layout and docstrings do not count."""
        parts = []
        for thing in (self.train, *self.uses):
            tree = ast.parse(textwrap.dedent(inspect.getsource(thing)))
            for node in ast.walk(tree):
                if isinstance(node, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node) is not None:
                    node.body = node.body[1:]
            parts.append(ast.unparse(tree))  # ast.dump differs between versions of Python
        if self.settings:
            parts.append(json.dumps(self.settings, sort_keys=True))
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def data_sha256(self) -> str:
        """Hash the registered checksums of the data set."""
        sums = datasets.entry(self.data)["sha256"]
        return hashlib.sha256(json.dumps(sums, sort_keys=True).encode()).hexdigest()


RECIPES: dict[str, Recipe] = {}


def recipe(id: str, *, seeds: int, n_epochs: int, data: str, uses: tuple[Any, ...] = (), **settings: Any):
    """Mark ``function(seed, n_epochs, **settings)`` as a recipe whose runs are recorded under `id`.

    `uses` names the models and functions whose code the record depends on, beside the function's own.
    """

    def mark(function):
        RECIPES[id] = Recipe(id, function, seeds, n_epochs, data, uses, settings)
        return function

    return mark


class Record:
    """Runs of one recipe over several seeds, read from ``data/results/``."""

    def __init__(self, content: dict[str, Any]):
        self.content = content
        self.runs = content["runs"]
        self.seeds = [run["seed"] for run in self.runs]

    def final(self, column: str) -> list[float]:
        """Return the last measured value of `column`, one a seed."""
        return [run["history"][-1][column] for run in self.runs]

    def at(self, epoch: int, column: str) -> list[float]:
        """Return `column` as measured after `epoch` epochs, one a seed."""
        return [row[column] for run in self.runs for row in run["history"] if row["epoch"] == epoch and column in row]

    def curves(self, column: str) -> tuple[list[int], list[list[float]]]:
        """Return the epochs at which `column` was measured, and its values, one list a seed."""
        epochs = [row["epoch"] for row in self.runs[0]["history"] if column in row]
        return epochs, [[row[column] for row in run["history"] if column in row] for run in self.runs]

    def seconds(self) -> list[float]:
        """Return the training seconds of each seed, evaluation not counted."""
        return [sum(row["seconds"] for row in run["history"]) for run in self.runs]

    def expects(self, column: str, epoch: int | None = None) -> Estimate:
        """Return the 99 % prediction interval for `column` of one more run, at the end or after `epoch`."""
        return prediction_interval(self.final(column) if epoch is None else self.at(epoch, column), 0.99)


def record(id: str) -> Record:
    """Read the record of a recipe.

    Raises
    ------
    FileNotFoundError
        It has not been run; the sentence says how.
    """
    path = RECORDS / f"{id}.json"
    if not path.exists():
        raise FileNotFoundError(f"There is no record {path.name} in data/results; run `make results`.")
    return Record(json.loads(path.read_text(encoding="utf-8")))


def _run(id: str, seed: int) -> dict[str, Any]:
    """Train one seed; a top-level function, so that worker processes can call it."""
    import torch

    from helpers import recipes  # noqa: F401  (fills RECIPES)

    torch.set_num_threads(1)
    this = RECIPES[id]
    started = time.perf_counter()
    history = this.train(seed, this.n_epochs, **this.settings)
    rows = [{key: round(value, 6) for key, value in row.items()} for row in history.rows]
    last = " ".join(f"{key} {value:.4f}" for key, value in rows[-1].items() if "accuracy" in key)
    print(f"{id} seed {seed}: {last} in {time.perf_counter() - started:.0f} s", flush=True)
    return {"seed": seed, "history": rows}


def run(ids: list[str], workers: int) -> None:
    """Run what the records of `ids` lack, or hold from another source or data, and write them."""
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    import torch
    import torchvision

    from helpers.runtime import device

    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for id in ids:
            this, path = RECIPES[id], RECORDS / f"{id}.json"
            if path.exists() and not stale(this, record(id)):
                print(f"{id}: up to date")
                continue
            runs = list(pool.map(_run, [id] * this.seeds, range(this.seeds)))
            content = {
                "id": id,
                "about": inspect.getdoc(this.train),
                "settings": this.settings,
                "source_sha256": this.source_sha256(),
                "data_sha256": this.data_sha256(),
                "n_epochs": this.n_epochs,
                "device": torch.cuda.get_device_name() if device().type == "cuda" else _cpu_name(),
                "threads": 1,
                "versions": {
                    "python": platform.python_version(),
                    "torch": torch.__version__.split("+")[0],
                    "torchvision": torchvision.__version__.split("+")[0],
                },
                "runs": runs,
            }
            scratch = path.with_suffix(".tmp")
            scratch.write_text(_compact(content), encoding="utf-8")
            os.replace(scratch, path)
            print(f"{id}: wrote data/results/{path.name}")


def _compact(content: dict[str, Any]) -> str:
    """Write JSON with one row of a history on a line: short, and readable in a diff."""
    head = json.dumps({key: value for key, value in content.items() if key != "runs"}, indent=1)
    runs = ",\n".join(
        f'  {{"seed": {run["seed"]}, "history": [\n   '
        + ",\n   ".join(json.dumps(row) for row in run["history"])
        + "\n  ]}"
        for run in content["runs"]
    )
    return f'{head[:-2]},\n "runs": [\n{runs}\n ]\n}}\n'


def _cpu_name() -> str:
    """Name the processor as the system does."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def stale(this: Recipe, recorded: Record) -> list[str]:
    """Return what a record no longer agrees with: source, data, seeds, epochs."""
    content = recorded.content
    reasons = []
    if content["source_sha256"] != this.source_sha256():
        reasons.append("the source of its recipe or model changed")
    if content["data_sha256"] != this.data_sha256():
        reasons.append("its data changed")
    if recorded.seeds != list(range(this.seeds)) or content["n_epochs"] != this.n_epochs:
        reasons.append("its seeds or epochs changed")
    return reasons


def check() -> int:
    """Compare all records with their recipes; return the number that must be run again."""
    import torch

    bad = 0
    for id, this in RECIPES.items():
        try:
            recorded = record(id)
        except FileNotFoundError as error:
            print(error)
            bad += 1
            continue
        for reason in stale(this, recorded):
            print(f"record {id}: {reason}; run `make results`.")
            bad += 1
        version = recorded.content["versions"]["torch"]
        if version != torch.__version__.split("+")[0]:
            print(f"record {id} is from torch {version} (stale, not wrong; here is {torch.__version__}).")
    for path in sorted(RECORDS.glob("*.json")):
        if path.stem not in RECIPES:
            print(f"record {path.name} belongs to no recipe; delete it.")
            bad += 1
    return bad


def repeat_one() -> int:
    """Repeat one recorded run, drawn at random; return 1 when it contradicts its record."""
    id = random.choice(list(RECIPES))
    seed = random.randrange(RECIPES[id].seeds)
    recorded = record(id)
    again = Record({"runs": [_run(id, seed)]})
    bad = 0
    for column in (name for name in again.runs[0]["history"][-1] if name.endswith("accuracy")):
        before, now, expected = recorded.final(column)[seed], again.final(column)[0], recorded.expects(column)
        agrees = expected.low <= now <= expected.high
        print(f"{column}: recorded {before:.4f}, now {now:.4f}, {'agrees' if agrees else 'DISAGREES'}")
        bad |= not agrees
    return int(bad)


def main(arguments: list[str]) -> int:
    """Run ``run``, ``check`` or ``repeat``; return the exit status."""
    from helpers import recipes  # noqa: F401  (fills RECIPES)

    parser = argparse.ArgumentParser(prog="python -m helpers.results", description=__doc__)
    parser.add_argument("action", choices=("run", "check", "repeat"))
    parser.add_argument("ids", nargs="*", metavar="RECORD")
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 1)))
    chosen = parser.parse_args(arguments)
    if unknown := sorted(set(chosen.ids) - set(RECIPES)):
        parser.error(f"no recipe {', '.join(unknown)}; there are {', '.join(RECIPES)}")
    if chosen.action == "check":
        return int(check() > 0)
    if chosen.action == "repeat":
        return repeat_one()
    run(chosen.ids or list(RECIPES), chosen.workers)
    return 0


if __name__ == "__main__":
    # The recipes register themselves in the imported module, not in this second copy of it.
    from helpers.results import main as run_main

    sys.exit(run_main(sys.argv[1:]))
