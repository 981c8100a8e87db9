"""Make and check the records of long runs: ``python -m helpers.recording run|check|repeat``.

The recipes stand in the package `helpers.recipes`; `helpers.results` reads what is written here.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import random
import sys
import time
from pathlib import Path
from typing import Any

from helpers import results
from helpers.stats import mean_interval


def _run(id: str, seeds: list[int]) -> list[dict[str, Any]]:
    """Train some seeds; a top-level function, so that worker processes can call it."""
    import torch

    from helpers import recipes  # noqa: F401  (fills RECIPES)

    torch.set_num_threads(1)
    this = results.RECIPES[id]
    started = time.process_time()
    trained = this.train(seeds if this.together else seeds[0], this.n_epochs, **this.settings)
    cpu_s = (time.process_time() - started) / len(seeds)
    runs = []
    for seed, history in zip(seeds, trained if this.together else [trained], strict=True):
        rows = [{key: round(value, 6) for key, value in row.items()} for row in history.rows]
        runs.append({"seed": seed, "n_parameters": history.n_parameters, "cpu_s": round(cpu_s, 3), "history": rows})
        last = " ".join(f"{key} {value:.4f}" for key, value in rows[-1].items() if "accuracy" in key)
        print(f"{id} seed {seed}: {last} in {cpu_s:.1f} CPU s", flush=True)
    return runs


def run(ids: list[str], workers: int) -> None:
    """Run what the records of `ids` lack, or hold from another source or data.

    A record is written anew after each seed, so that a run that is stopped goes on where it was.
    Recipes that were never run get an empty record: the Results page lists them as missing.
    """
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    for this in results.RECIPES.values():
        if not (results.RECORDS / f"{this.id}.json").exists():
            _write(_about(this) | {"runs": []})
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for id in ids:
            this, content = results.RECIPES[id], _about(results.RECIPES[id])
            content["runs"] = _reusable(this, content)
            done = {run["seed"] for run in content["runs"]}
            missing = [seed for seed in range(this.seeds) if seed not in done]
            if not missing:
                print(f"{id}: up to date")
                continue
            tasks = [missing] if this.together else [[seed] for seed in missing]
            for runs in pool.map(_run, [id] * len(tasks), tasks):
                content["runs"] += runs
                _write(content)
            print(f"{id}: wrote data/results/{id}.json")


def _about(this: results.Recipe) -> dict[str, Any]:
    """Return what a record says of itself before its runs."""
    import torch
    import torchvision

    from helpers.runtime import device

    return {
        "id": this.id,
        "about": this.train.__doc__,
        "settings": this.settings,
        "source_sha256": this.source_sha256(),
        "data_sha256": this.data_sha256(),
        "n_epochs": this.n_epochs,
        "seeds": this.seeds,
        "device": torch.cuda.get_device_name() if device().type == "cuda" else _cpu_name(),
        "threads": 1,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__.split("+")[0],
            "torchvision": torchvision.__version__.split("+")[0],
        },
    }


def _reusable(this: results.Recipe, content: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the recorded runs to keep: all of a whole record, of a part only those made here alike."""
    try:
        recorded = results.record(this.id)
    except FileNotFoundError:
        return []
    alike = all(recorded.content[key] == content[key] for key in ("device", "versions"))
    whole = not results.stale(this, recorded)
    if whole or (alike and not results.outdated(this, recorded)):
        return [run for run in recorded.runs if run["seed"] < this.seeds]
    return []


def _write(content: dict[str, Any]) -> None:
    """Write a record, its runs in the order of their seeds; the file changes at once or not at all.

    The summary (means with 95 % intervals) is for the pages that are made without numpy.
    """
    content["runs"].sort(key=lambda run: run["seed"])
    content["summary"] = _summary(content["runs"])
    path = results.RECORDS / f"{content['id']}.json"
    scratch = path.with_suffix(".tmp")
    scratch.write_text(_compact(content), encoding="utf-8")
    os.replace(scratch, path)


def _summary(runs: list[dict[str, Any]]) -> dict[str, list[float]]:
    """Return mean and ends of the 95 % interval of each accuracy at the end."""
    summary = {}
    for column in (name for name in runs[0]["history"][-1] if name.endswith("accuracy")) if runs else ():
        values = [run["history"][-1][column] for run in runs]
        if len(values) > 1 and all(map(math.isfinite, values)):
            summary[column] = [round(number, 6) for number in mean_interval(values)]
    return summary


def _compact(content: dict[str, Any]) -> str:
    """Write JSON with one row of a history on a line: short, and readable in a diff."""
    head = json.dumps({key: value for key, value in content.items() if key != "runs"}, indent=1)
    runs = ",\n".join(
        f'  {json.dumps({key: value for key, value in run.items() if key != "history"})[:-1]}, "history": [\n   '
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


def check() -> int:
    """Compare all records with their recipes; return how many faults there are.

    Runs that are still missing are listed, and are no fault: a chapter that needs them says so.
    """
    import torch

    bad = 0
    for id, this in results.RECIPES.items():
        try:
            recorded = results.record(id)
        except FileNotFoundError as error:
            print(f"{error}{' It is optional.' if this.optional else ''}")
            continue
        outdated = results.outdated(this, recorded)
        for reason in results.stale(this, recorded):
            print(f"record {id}: {reason}; run `make results`.")
        bad += len(outdated)
        version = recorded.content["versions"]["torch"]
        if version != torch.__version__.split("+")[0]:
            print(f"record {id} is from torch {version} (stale, not wrong; here is {torch.__version__}).")
    for path in sorted(results.RECORDS.glob("*.json")):
        if path.stem not in results.RECIPES:
            print(f"record {path.name} belongs to no recipe; delete it.")
            bad += 1
    if not bad:
        print("no record contradicts its recipe")
    return bad


def repeat_one() -> int:
    """Repeat one recorded run, drawn at random; return 1 when it contradicts its record."""
    id = random.choice([id for id, this in results.RECIPES.items() if not this.optional])
    seed = random.randrange(results.RECIPES[id].seeds)
    recorded = results.record(id)
    again = results.Record({"runs": _run(id, [seed])})
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

    parser = argparse.ArgumentParser(prog="python -m helpers.recording", description=__doc__)
    parser.add_argument("action", choices=("run", "check", "repeat"))
    parser.add_argument("ids", nargs="*", metavar="RECORD")
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 1)))
    chosen = parser.parse_intermixed_args(arguments)
    if unknown := sorted(set(chosen.ids) - set(results.RECIPES)):
        parser.error(f"no recipe {', '.join(unknown)}; there are {', '.join(results.RECIPES)}")
    if chosen.action == "check":
        return int(check() > 0)
    if chosen.action == "repeat":
        return repeat_one()
    run(chosen.ids or [id for id, this in results.RECIPES.items() if not this.optional], chosen.workers)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
