"""The nbval plugin: what passes, what fails, and what it says. Each test runs small real notebooks."""

import re

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

from tools.compare import Comparison, Tolerance, align, tolerance_of

TRAINED = {"tags": ["trained"], "tolerance": {"abs": 0.01, "int_abs": 3}}


@pytest.fixture(autouse=True)
def only_the_plugins_named(monkeypatch):
    """Loading every installed plugin takes longer than a small notebook."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")


def cell(source, stored, tags=(), count=1, **metadata):
    """Return a code cell with a stored printed output."""
    outputs = [new_output("stream", name="stdout", text=stored)] if stored else []
    metadata = {"tags": list(tags), **metadata}
    return new_code_cell(source, outputs=outputs, execution_count=count, metadata=metadata)


def run(pytester, *cells, name="90_small", book=None, options=()):
    """Run a notebook made of `cells` through nbval and the plugin; return pytest's result."""
    notebook = new_notebook(cells=list(cells))
    notebook.metadata["book"] = book or {"budget_s": 60, "data": []}
    path = pytester.path / f"{name}.ipynb"
    nbformat.write(notebook, path)
    plugins = ["-p", "nbval.plugin", "-p", "xdist.plugin", "-p", "tests.plugin", "-p", "no:cacheprovider"]
    command = [*plugins, "--nbval", "--nbval-current-env", "-v", *options]
    return pytester.runpytest_subprocess(*command, str(path))


def verdicts(result, n):
    """Return PASSED, FAILED or ERROR of each of `n` cells."""
    found = dict(re.findall(r"Cell (\d+) (PASSED|FAILED|ERROR|SKIPPED)", "\n".join(result.outlines)))
    return [found[str(i)] for i in range(n)]


def test_untagged_cells(pytester):
    result = run(
        pytester,
        cell("print('loss 0.50001')", "loss 0.50000\n"),  # drift within 1e-4
        cell("print('loss 0.5003')", "loss 0.5000\n"),  # too large
        cell("print('Loss 0.5')", "loss 0.5\n"),  # other words
        cell("print('7 images')", "8 images\n"),  # other whole number
        cell("print('a')\nprint('b')", "a\n"),  # extra output
        cell("print('a')", "a\nb\n"),  # missing output
        cell("print('same')", ""),  # output where none was stored
        cell("print('[ 1.00001, -2.]')", "[ 1.0, -2.]\n"),
    )
    assert verdicts(result, 8) == ["PASSED", *["FAILED"] * 6, "PASSED"]
    text = result.stdout.str()
    assert "90_small, cell 1: near 'loss 0.5000': stored 0.5000, now 0.5003" in text.replace("\n", " ")
    assert "make notebooks CHAPTERS=90" in text


def test_trained_cells(pytester):
    result = run(
        pytester,
        cell("print('accuracy 0.895, 12 wrong')", "accuracy 0.890, 10 wrong\n", **TRAINED),
        cell("print('accuracy 0.905')", "accuracy 0.890\n", **TRAINED),
        cell("print('14 wrong')", "10 wrong\n", **TRAINED),
        cell("print('about 0.89')", "accuracy 0.89\n", **TRAINED),
        cell("print('0.89')", "0.89\n", tags=["trained"]),  # names no tolerance
    )
    assert verdicts(result, 5) == ["PASSED", "FAILED", "FAILED", "FAILED", "FAILED"]
    assert "needs metadata" in result.stdout.str()


def test_measured_cells(pytester):
    result = run(
        pytester,
        cell("print('3.21 ms on cuda')", "9.87 ms on cpu\n", ["measured"]),
        cell("print('3.21 s')", "9.87 ms\n", ["measured"]),
    )
    assert verdicts(result, 2) == ["PASSED", "FAILED"]


def test_data_cells_are_not_compared_on_a_stand_in(pytester):
    report = "device: cpu | profile: quick | data: wine ({})\n"
    on_stand_in = run(
        pytester,
        cell(f"print({report.format('stand-in')!r}, end='')", report.format("real"), ["measured", "data"]),
        cell("print('other words')", "words\n", ["data"]),
        cell("print('2')", "1\n"),
    )
    assert verdicts(on_stand_in, 3) == ["PASSED", "PASSED", "FAILED"]
    assert "NOT COMPARED" in on_stand_in.stdout.str()
    on_real_data = run(
        pytester,
        cell(f"print({report.format('real')!r}, end='')", report.format("real"), ["measured", "data"]),
        cell("print('other words')", "words\n", ["data"]),
    )
    assert verdicts(on_real_data, 2) == ["PASSED", "FAILED"]


def test_exceptions(pytester):
    def raising(source, name, value):
        stored = [new_output("error", ename=name, evalue=value, traceback=[])]
        return new_code_cell(source, outputs=stored, execution_count=1, metadata={"tags": ["raises-exception"]})

    result = run(
        pytester,
        raising("raise ValueError('no')", "ValueError", "no"),
        raising("raise TypeError('no')", "ValueError", "no"),
        raising("raise ValueError('other')", "ValueError", "no"),
        raising("1 + 1;", "ValueError", "no"),  # nothing raised
        cell("raise ValueError('no')", ""),  # not announced
    )
    assert verdicts(result, 5) == ["PASSED", "FAILED", "FAILED", "FAILED", "FAILED"]


def test_a_cell_that_was_never_executed_fails(pytester):
    result = run(pytester, cell("1 + 1;", "", count=None))
    assert "never executed" in result.stdout.str()
    assert result.ret != 0


def test_pictures_are_not_compared_but_must_be_there(pytester):
    draw = "from IPython.display import display\ndisplay({'image/gif': 'AAAA', 'text/plain': 'GIF'}, raw=True)"
    stored = [new_output("display_data", data={"image/gif": "BBBB", "text/plain": "GIF"})]
    result = run(pytester, new_code_cell(draw, outputs=stored, execution_count=1), cell("pass", ""))
    assert verdicts(result, 2) == ["PASSED", "PASSED"]


def exercise(check="assert f is not None and f(2) == 4, 'f(2) should be 4'"):
    return (
        cell("def f(x): ...", "", ["stub"]),
        cell("def f(x):\n    return 2 * x", "", ["solution"], count=2),
        cell(check, "", ["check"], count=3),
        cell("print(f(5))", "10\n", count=4),  # the solution is back in place
    )


def test_exercise_whose_check_refuses_the_stub_passes(pytester):
    assert verdicts(run(pytester, *exercise()), 4) == ["PASSED"] * 4


def test_exercise_whose_check_accepts_the_stub_fails(pytester):
    result = run(pytester, *exercise("assert callable(f)"))
    assert verdicts(result, 3)[2] == "FAILED"
    assert "must refuse the unfilled stub" in result.stdout.str()


def test_exercise_whose_check_stumbles_over_the_stub_fails(pytester):
    result = run(pytester, *exercise("assert f(2) + 1 == 5"))  # None + 1: a TypeError tells the reader nothing
    assert verdicts(result, 3)[2] == "FAILED"
    assert "it gave TypeError" in result.stdout.str()


def test_exercise_whose_solution_is_wrong_fails(pytester):
    result = run(pytester, *exercise("assert f(2) == 5, 'f(2) should be 5'"))
    assert verdicts(result, 3)[2] == "FAILED"


def test_budget_guard_and_summary(pytester):
    result = run(pytester, cell("print(1)", "1\n"), book={"budget_s": 0.01, "data": []})
    assert "more than twice its budget" in result.stdout.str()
    assert result.ret != 0
    fine = run(pytester, cell("print(1)", "1\n"), cell("print(2.5)", "2.50001\n", count=2))
    fine.stdout.fnmatch_lines(["90_small*60*1*1*0*0*"])


def test_missing_data_skip_the_chapter_and_fail_the_run(pytester, monkeypatch):
    monkeypatch.setenv("BOOK_DATA_CACHE", str(pytester.path / "empty"))
    result = run(pytester, cell("print(1)", "1\n"), book={"budget_s": 60, "data": ["cifar10"]})
    result.assert_outcomes(skipped=1)
    assert result.ret == 1
    assert "connect to the network and run `make data`" in result.stdout.str()


def test_parallel_run_sums_up_each_notebook(pytester):
    result = run(pytester, cell("print(1)", "1\n"), options=["-n", "1", "--dist", "loadfile"])
    result.stdout.fnmatch_lines(["90_small*60*"])


@pytest.mark.parametrize(
    ("stored", "fresh", "same"),
    [
        ("tensor([1., 2.])", "tensor([1., 2.00001])", True),
        ("shape (3, 4)", "shape (3, 5)", False),
        ("1,574,402 parameters", "1,574,403 parameters", False),
        ("float32", "float64", False),
        ("nan", "nan", True),
        ("nan", "inf", False),
        ("-inf", "inf", False),
        ("1e-8", "1.00001e-08", True),
        ("0.2-0.3", "0.2-0.30001", True),
        ("3", "3.0", False),
        ("a 1.0 b", "a  1.00001 b", True),
        ("a 1.0 b", "a 1.0 c", False),
    ],
)
def test_numbers_in_text(stored, fresh, same):
    result = Comparison()
    assert (align(stored, fresh, Tolerance(), result) == stored) is same


def test_tolerances():
    assert tolerance_of({}) == Tolerance()
    assert tolerance_of({"tags": ["measured"]}).anything
    assert tolerance_of(TRAINED) == Tolerance(abs=0.01, int_abs=3)
    with pytest.raises(ValueError, match="needs metadata"):
        tolerance_of({"tags": ["trained"], "tolerance": {"absolute": 1}})
