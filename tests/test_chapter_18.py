"""Chapter 18: every entry of the gallery is complete and listed, and its small tools refuse what they should."""

import ast
import math
import multiprocessing
import re

import nbformat
import pytest
import torch
from torch import nn

from helpers import runtime
from tests.test_chapters import definitions
from tools.surroundings import NOTEBOOKS

PATH = NOTEBOOKS / "18_pitfalls.ipynb"
# What the curriculum names, in the words of the table of symptoms.
WANTED = [
    *("(N, 1) against (N,)", "no `zero_grad`", "`n * [block]`", "`min` typed for `max`", "no `eval()`", "`.data`"),
    *("a softmax before `CrossEntropyLoss`", "the tensor is not contiguous", "no `weights_only=True`"),
    *("a step outside `no_grad`", "a short last batch", "empty slots counted", "`one_hot` without `num_classes`"),
    *("each run starts where the last one ended", "units called layers", "arguments swapped", "a start left raw"),
    *("a number left over from a loop", "paths joined without a separator", "tensors compared with `==`"),
]


class Entry:
    """One mistake: its section, its prose and its code."""

    def __init__(self, section, heading):
        self.section, self.heading = section, heading
        self.prose, self.code, self.printed = "", [], ""


def gallery():
    """Return the entries: the third-level headings between two second-level ones."""
    entries, section = [], ""
    for cell in nbformat.read(PATH, as_version=4).cells:
        if cell.cell_type == "code":
            if entries:
                entries[-1].code.append(cell.source)
                entries[-1].printed += "".join(str(output.get("text", "")) for output in cell.outputs)
            continue
        for block in re.split(r"(?m)^(?=##)", cell.source):
            title = re.match(r"(##+) (.+)", block)
            if title and title[1] == "##":
                section = title[2]
            elif title:
                entries.append(Entry(section, title[2]))
            if section == "What we measured":
                return entries
            if entries:
                entries[-1].prose += block
    raise AssertionError('there is no "What we measured"')


ENTRIES = gallery()
each_entry = pytest.mark.parametrize("entry", ENTRIES, ids=[entry.heading for entry in ENTRIES])


@pytest.fixture(scope="module")
def chapter():
    return definitions("18", gallery={}, loss_fn=nn.CrossEntropyLoss())


def test_there_are_enough_entries_and_no_heading_twice():
    assert len(ENTRIES) >= 24
    assert len({entry.heading for entry in ENTRIES}) == len(ENTRIES)


@each_entry
def test_entry_runs_both_versions_and_checks_them(entry):
    source = "\n".join(entry.code)
    assert len(entry.code) >= 2
    nodes = list(ast.walk(ast.parse(source)))
    calls = {node.func.id for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert "claim" in calls or any(isinstance(node, ast.Assert) for node in nodes)
    compared = [line for line in entry.printed.splitlines() if re.search(r": wrong .+, right .+", line)]
    assert len(compared) == 1


@each_entry
def test_entry_names_cause_cure_and_links(entry):
    parts = re.search(r"\*\*Cause\.\*\*(.+?)\*\*Cure\.\*\*(.+?)\*\*More:\*\*", entry.prose, re.DOTALL)
    cause, cure = parts.groups()
    without_asides = re.sub(r"\([^)]*\)", "", cause)
    assert len(re.findall(r"\.(?=\s)", without_asides)) == 2, "the cause has two sentences"
    assert cure.strip()
    more = entry.prose.rpartition("**More:**")[2]
    chapters = re.findall(r"\]\((\d\d_\w+\.ipynb)\)", more)
    assert chapters
    assert all((NOTEBOOKS / name).exists() for name in chapters)
    assert re.search(r"\]\(https://[\w.-]+/\S+\)", more)


def test_table_of_symptoms_lists_every_entry_in_its_section():
    prose = [cell.source for cell in nbformat.read(PATH, as_version=4).cells if cell.cell_type == "markdown"]
    table = next(text for text in prose if "| What you see |" in text)
    rows = re.findall(r"(?m)^\| (.+?) \| ?(.*?) ?\|$", table)[1:]
    listed, section = [], None
    for first, second in rows:
        if first.startswith("**"):
            section = first.strip("*")
        else:
            assert second, f"no cause for {first}"
            listed.append((section, first))
    assert listed == [(entry.section, entry.heading) for entry in ENTRIES]
    causes = {second for _, second in rows}
    assert [wanted for wanted in WANTED if wanted not in causes] == []


def test_last_table_has_a_row_for_each_entry():
    for cell in nbformat.read(PATH, as_version=4).cells:
        if cell.cell_type == "code" and "in gallery.items()" in cell.source:
            rows = cell.outputs[0].text.strip().splitlines()[1:]
            assert len(rows) == len(ENTRIES)
            return
    raise AssertionError("there is no table")


def test_fails_wants_the_right_error(chapter, capsys):
    def action():
        raise ValueError("sizes (2) and\n(3) differ")

    assert chapter["fails"](action, ValueError, "(2) and (3)") == "ValueError"
    assert capsys.readouterr().out == "ValueError: (2) and (3)\n"
    with pytest.raises(AssertionError, match="sizes"):
        chapter["fails"](action, ValueError, "something else")
    with pytest.raises(ValueError, match="differ"):
        chapter["fails"](action, RuntimeError, "(2) and (3)")
    with pytest.raises(AssertionError, match="no ValueError"):
        chapter["fails"](lambda: None, ValueError, "")


def test_compare_refuses_equal_answers(chapter, capsys):
    chapter["compare"]("some number", 2.0, 12_345)
    assert capsys.readouterr().out == "some number: wrong 2.000, right 12,345\n"
    assert chapter["text"](1e-13) == "1e-13"
    assert chapter["text"](math.nan) == "nan"
    assert chapter["text"](True) == "True"
    with pytest.raises(AssertionError):
        chapter["compare"]("another", 0.50001, 0.50002)


def test_ring_halves_the_plane(chapter):
    X, y = chapter["ring"](100_000, "many points")
    assert abs(y.float().mean() - 0.5) < 0.01
    assert X[y == 1].norm(dim=1).min() > X[y == 0].norm(dim=1).max()


def test_n_nodes_counts_each_operation_once(chapter):
    w = torch.ones(3, requires_grad=True)
    square = w * w
    assert chapter["n_nodes"](square) == 2  # the product and the leaf
    assert chapter["n_nodes"](square.sum() + square.sum()) == 5
    assert chapter["n_nodes"](square.detach()) == 0


def test_numbers_stored(chapter):
    w = torch.ones(7, requires_grad=True)
    assert chapter["numbers_stored"](lambda: w.exp()) == 7
    assert chapter["numbers_stored"](lambda: w.detach().exp()) == 0


def test_standardised_is_scikit_learns(chapter):
    from sklearn.preprocessing import StandardScaler

    draws = torch.randn(2, 9, 3, generator=runtime.generator("draws")).double()
    mine = chapter["standardised"](draws[:, 5:], draws[:, :5])
    for i in range(2):
        scaler = StandardScaler().fit(draws[i, :5].numpy())
        reference = torch.from_numpy(scaler.transform(draws[i, 5:].numpy())) * math.sqrt(4 / 5)  # n - 1 against n
        torch.testing.assert_close(mine[i], reference)


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork here")
@pytest.mark.parametrize(("name", "n_different"), [("Noisy", 2), ("RightNoisy", 4)])
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_real_workers_do_as_the_copies(chapter, name, n_different):
    """The chapter copies the data set itself; two worker processes must give the same."""
    dataset = chapter[name]()
    by_hand = [[chapter[name]()[i] for i in (0, 1)] for _ in range(2)]
    loader = torch.utils.data.DataLoader(
        dataset, batch_size=2, sampler=range(4), num_workers=2, multiprocessing_context="fork"
    )
    drawn = [batch.tolist() for batch in loader]
    assert len({number for batch in drawn for number in batch}) == n_different
    if name == "Noisy":
        one = chapter["Noisy"]()
        assert drawn == [[one[0], one[1]]] * 2
    else:
        assert drawn[0] == by_hand[0]
