"""Claims that a chapter settles, and records of long runs.

Introduced in chapter 01. `helpers.recording` makes the records.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import sys
import textwrap
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
    numbers = _short(value)
    if interval is not None:
        numbers += f"\n  95 % interval: {_short(low)} to {_short(high)}"
    stand_ins = datasets.stand_ins_in_use()
    verdict = "not checked: stand-in data" if stand_ins else "holds" if holds else "DOES NOT HOLD"
    text = "\n".join([*textwrap.wrap(f"Claim {id}: {sentence}", 44), f"  measured: {numbers}", f"  {verdict}"])
    if not stand_ins and not holds:
        raise AssertionError(text)
    about = {"id": id, "sentence": sentence, "value": float(value), "low": low, "high": high}
    _show(text, about | {"verdict": verdict})


def _short(value: float) -> str:
    """Return three digits of a number, and all of those before the point."""
    return f"{float(value):,.0f}" if 1000 <= abs(value) < 1e15 else f"{float(value):.3g}"


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
    data: str | None
    uses: tuple[Any, ...]
    settings: dict[str, Any]
    together: bool = False
    optional: bool = False

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

    def data_sha256(self) -> str | None:
        """Hash the registered checksums of the data set; None when the recipe makes its data."""
        if self.data is None:
            return None
        sums = datasets.entry(self.data)["sha256"]
        return hashlib.sha256(json.dumps(sums, sort_keys=True).encode()).hexdigest()


RECIPES: dict[str, Recipe] = {}


def recipe(
    id: str,
    *,
    seeds: int,
    n_epochs: int,
    data: str | None,
    uses: tuple[Any, ...] = (),
    together: bool = False,
    optional: bool = False,
    **settings: Any,
):
    """Mark ``function(seed, n_epochs, **settings)`` as a recipe whose runs are recorded under `id`.

    Parameters
    ----------
    data : str or None
        Registered data set; None when the recipe makes its data.
    uses : tuple
        Models and functions whose code the record depends on, beside the function's own.
    together : bool
        The function takes a list of seeds, trains them at once, and returns a history for each.
    optional : bool
        Too long for most machines: run only when named, and the book does without.
    """

    def mark(function):
        RECIPES[id] = Recipe(id, function, seeds, n_epochs, data, uses, settings, together, optional)
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
    content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"runs": []}
    if not content["runs"]:
        raise FileNotFoundError(f"There is no record {path.name} in data/results; run `make results`.")
    return Record(content)


def stale(this: Recipe, recorded: Record) -> list[str]:
    """Return what a record no longer agrees with (source, data, epochs), and whether its seeds are all there."""
    reasons = outdated(this, recorded)
    if not set(range(this.seeds)) <= set(recorded.seeds):
        reasons.append(f"it holds {len(recorded.seeds)} runs, not seeds 0 to {this.seeds - 1}")
    return reasons


def outdated(this: Recipe, recorded: Record) -> list[str]:
    """Return why the runs of a record are of no more use: another source, other data, other epochs."""
    content = recorded.content
    reasons = []
    if content["source_sha256"] != this.source_sha256():
        reasons.append("the source of its recipe or model changed")
    if content["data_sha256"] != this.data_sha256():
        reasons.append("its data changed")
    if content["n_epochs"] != this.n_epochs:
        reasons.append("its number of epochs changed")
    return reasons
