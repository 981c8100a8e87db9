"""The pytest plugin that lets nbval compare this book's four kinds of cells, and sums up.

Tags: none (text and whole numbers exact, floats within 1e-4), `trained` (tolerances in the cell's
metadata), `measured` (only the words), `data` (not compared on a stand-in); further `check`, at
which the exercise's stub must fail and its solution pass. See book/how-to-run.md.
"""

from __future__ import annotations

import datetime
import json
import os
import re
from collections import Counter
from importlib.metadata import version
from pathlib import Path

import pytest

from tools import compare, surroundings

REPORT = re.compile(r"^device: (?P<device>\S+) \| profile: (?P<profile>\S+)(?: \| |\n)data: (?P<data>.+)$", re.M)
summaries: list[dict] = []  # one per notebook, gathered where the tests are reported


class Notebook:
    """What is known of a notebook while its cells run."""

    def __init__(self, file):
        self.name = Path(file.path).stem
        book = file.nb.metadata.get("book", {})
        self.budget = book.get("budget_s")
        self.needs = book.get("data", [])
        self.cells = [cell for cell in file.nb.cells if cell.cell_type == "code"]
        self.report = {"device": "?", "profile": "?", "data": "?"}
        self.counts = Counter()

    @property
    def on_stand_in(self) -> bool:
        return "(stand-in)" in self.report["data"]


def notebook_of(item) -> Notebook:
    if not hasattr(item.parent, "_book"):
        item.parent._book = Notebook(item.parent)
    return item.parent._book


def is_cell(item) -> bool:
    return type(item).__name__ == "IPyNbCell"


# --- comparing ----------------------------------------------------------------------------------


def pytest_itemcollected(item):
    if not is_cell(item):
        return
    # Every image is skipped; the numbers printed beside it are what is compared.
    skipped = set(item.parent.skip_compare) | set(compare.IGNORED_TYPES)
    item.parent.skip_compare = tuple(skipped)
    nbval_compare = item.compare_outputs

    def compare_outputs(fresh, stored, skip_compare=None):
        notebook, tags = notebook_of(item), item.cell.metadata.get("tags", [])
        if not stored and not fresh:
            return True
        for output in fresh:
            if found := REPORT.search(output.get("text", "")):
                notebook.report = found.groupdict()
        if "data" in tags and notebook.on_stand_in:
            notebook.counts["not compared"] += 1
            return True
        tolerance = compare.tolerance_of(item.cell.metadata)
        aligned, result = compare.align_outputs(stored, fresh, tolerance)
        from nbformat import NotebookNode

        same = nbval_compare([NotebookNode(output) for output in aligned], stored, skip_compare)
        if tolerance.anything:
            notebook.counts["words only"] += 1
        else:
            notebook.counts["tolerance" if result.moved or "trained" in tags else "exact"] += 1
        if not same:
            chapter = notebook.name.split("_")[0]
            where = f"\n{notebook.name}, cell {item.cell_num}: "
            item.comparison_traceback += [where + line for line in result.mismatches]
            item.comparison_traceback.append(
                f"\nIf the new output is right, store it with: make notebooks CHAPTERS={chapter}"
            )
        return same

    item.compare_outputs = compare_outputs


def pytest_runtest_setup(item):
    if not is_cell(item):
        return
    if item.cell.execution_count is None:
        pytest.fail("This cell was never executed: run `make notebooks` and commit its outputs.", pytrace=False)
    if missing := missing_data(notebook_of(item).needs):
        pytest.skip(f"{', '.join(missing)} is missing: run `make data`")


def missing_data(names) -> list[str]:
    """Return which data sets are not there and have no stand-in; reading them checks their content."""
    from helpers import datasets

    return [
        name for name in names if "stand_in" not in datasets.entry(name) and not datasets.real_folder(name).is_dir()
    ]


# --- exercises ----------------------------------------------------------------------------------


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    result = yield
    if is_cell(item) and "check" in item.cell.metadata.get("tags", []):
        stub_must_fail(item)
    return result


def stub_must_fail(item):
    """Run the stub and the check again: the check must refuse it; then put the solution back."""
    cells, here = notebook_of(item).cells, item.cell_num
    before = list(reversed(cells[:here]))
    stub, solution = (
        next((cell for cell in before if tag in cell.metadata.get("tags", [])), None) for tag in ("stub", "solution")
    )
    if stub is None or solution is None:
        pytest.fail("A cell tagged `check` needs a `stub` and a `solution` before it.", pytrace=False)
    outcomes = [run_silently(item.parent.kernel, cell.source) for cell in (stub, item.cell, solution)]
    if outcomes[0] is not None:
        pytest.fail(f"The exercise's stub does not even run: {outcomes[0]}", pytrace=False)
    if outcomes[1] != "AssertionError":
        pytest.fail(
            f"The check must refuse the unfilled stub with an AssertionError; it gave {outcomes[1] or 'no error'}.",
            pytrace=False,
        )
    if outcomes[2] is not None:
        pytest.fail(f"The solution fails the second time: {outcomes[2]}", pytrace=False)


def run_silently(kernel, source: str) -> str | None:
    """Execute `source` in the notebook's kernel; return the name of its exception, or None."""
    reply = kernel.kc.execute_interactive(source, output_hook=lambda message: None, allow_stdin=False, timeout=120)
    return reply["content"].get("ename")


# --- summing up ---------------------------------------------------------------------------------


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item, nextitem):
    too_slow = None
    if is_cell(item) and (nextitem is None or nextitem.parent is not item.parent):
        notebook = notebook_of(item)
        seconds = cpu_seconds(item.parent.kernel)
        summary = {"name": notebook.name, "cpu_s": seconds, "budget_s": notebook.budget, **notebook.report}
        item.user_properties.append(("book_notebook", summary | {"counts": dict(notebook.counts)}))
        on_gpu = os.environ.get("BOOK_DEVICE", "").startswith("cuda")
        if notebook.budget and seconds > 2 * notebook.budget and not on_gpu:
            too_slow = (
                f"{notebook.name} took {seconds:.0f} CPU seconds, more than twice its budget of {notebook.budget} s."
            )
    yield
    if too_slow:
        pytest.fail(too_slow, pytrace=False)


def cpu_seconds(kernel) -> float:
    """Return the CPU seconds that a notebook's kernel has used, start included."""
    import psutil

    try:
        times = psutil.Process(kernel.km.provisioner.process.pid).cpu_times()
    except (psutil.Error, AttributeError):
        return float("nan")
    return times.user + times.system + times.children_user + times.children_system


def pytest_runtest_logreport(report):
    if report.when == "teardown":
        summaries.extend(value for key, value in report.user_properties if key == "book_notebook")


def pytest_terminal_summary(terminalreporter):
    if not summaries:
        return
    line = terminalreporter.write_line
    terminalreporter.section("notebooks")
    head = f"{'notebook':<18}{'CPU s':>7}{'budget':>8}  {'device':<8}"
    line(head + f"{'exact':>6}{'within':>8}{'words':>7}{'not':>5}  data")
    for summary in sorted(summaries, key=lambda each: each["name"]):
        counts = summary["counts"]
        columns = [counts.get(kind, 0) for kind in ("exact", "tolerance", "words only", "not compared")]
        line(
            f"{summary['name']:<18}{summary['cpu_s']:>7.1f}{summary['budget_s'] or '-':>8}  {summary['device']:<8}"
            f"{columns[0]:>6}{columns[1]:>8}{columns[2]:>7}{columns[3]:>5}  {summary['data']}"
            + ("  NOT COMPARED" if "(stand-in)" in summary["data"] else "")
        )
    line("outputs compared: exactly, within tolerance, words only (measured), not at all")


def store_status(path: Path):
    """Write what each chapter took and how it was compared to the file that the status page is made of."""
    status = json.loads(path.read_text(encoding="utf-8"))
    for summary in summaries:
        counts = summary["counts"]
        status[summary["name"]] = {
            "cpu_s": round(summary["cpu_s"], 1),
            "exact": counts.get("exact", 0),
            "tolerance": counts.get("tolerance", 0),
            "words": counts.get("words only", 0),
            "torch": version("torch"),
            "device": summary["device"],
            "data": summary["data"],
            "date": datetime.date.today().isoformat(),
        }
    path.write_text(json.dumps(status, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def pytest_sessionfinish(session, exitstatus):
    """Store the status when asked to; a chapter skipped for want of data must not look like success."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or exitstatus != 0:
        return
    if os.environ.get("BOOK_STORE_STATUS"):
        store_status(surroundings.HOME / "data" / "timings.json")
    skipped = [report for report in reporter.stats.get("skipped", []) if "run `make data`" in str(report.longrepr)]
    if skipped:
        reporter.write_line("")
        reporter.write_line(
            "Chapters were skipped because their data are missing: connect to the network and run `make data`, "
            "or set BOOK_DATA_MIRROR; then run `make test` again."
        )
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
