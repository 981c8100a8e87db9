"""What every chapter and page must look like, whatever it teaches."""

import json
import re
import statistics
import subprocess
import sys

import nbformat
import pytest
import yaml

from tools import compare, notebooks, surroundings

HOME = surroundings.HOME
CHAPTERS = surroundings.chapters("")
PAGES = [*sorted((HOME / "book").glob("*.md")), HOME / "README.md"]
TAGS = {"trained", "measured", "data", "stub", "solution", "check", "raises-exception"}
TAGS |= {"hide-input", "hide-cell", "remove-cell"}
FILLER = re.compile(
    r"\b(let's|let us|simply|as we can see|note that|of course|obviously|basically|it is worth)\b", re.IGNORECASE
)
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:work|root|home|tmp|Users|opt)/")
EMOJI = re.compile("[\U0001f300-\U0001faff\u2600-\u26ff\u2705\u274c]")
MYST = re.compile(r"\{[a-z-]+\}`|^(```|:::)\{", re.MULTILINE)
IMAGES = ("image/png", "image/gif", "image/jpeg", "image/svg+xml")


@pytest.fixture(params=CHAPTERS, ids=lambda path: path.stem)
def path(request):
    return request.param


@pytest.fixture
def notebook(path):
    return nbformat.read(path, as_version=4)


@pytest.fixture
def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tags(cell):
    return set(cell.metadata.get("tags", []))


def prose(notebook):
    return [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]


def test_there_are_chapters():
    assert CHAPTERS


def test_notebook_is_tidy(path, notebook):
    """Ids, metadata, streams and counts are those that `make notebooks` writes."""
    assert notebooks.tidy(nbformat.read(path, as_version=4)) == notebook
    nbformat.validate(notebook)


def test_cells_were_executed_in_order_and_none_is_empty(notebook, code):
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert all(cell.source.strip() for cell in notebook.cells)


def test_no_stderr_and_no_unexpected_error(code):
    for cell in code:
        for output in cell.outputs:
            assert output.get("name") != "stderr", cell.source
            assert output.output_type != "error" or "raises-exception" in tags(cell), cell.source


def test_no_machine_paths_and_not_too_big(path):
    text = path.read_text(encoding="utf-8")
    assert not MACHINE_PATH.search(text)
    assert len(text) <= 2.5e6
    assert "widget" not in text


def test_all_chapters_together_are_not_too_big():
    assert sum(path.stat().st_size for path in CHAPTERS) <= 20e6


def test_cells_are_short(code):
    """Median five lines (blank ones not counted), none over thirty, lines to 88 characters."""
    taught = [cell for cell in code if "remove-cell" not in tags(cell)]  # all chapters open with one same cell
    lengths = [sum(bool(line.strip()) for line in cell.source.splitlines()) for cell in taught]
    assert statistics.median(lengths) <= 5
    assert max(lengths) <= 30
    too_long = [line for cell in code for line in cell.source.splitlines() if len(line) > 88]
    assert not too_long


def test_printed_lines_fit_a_phone(code):
    printed = []
    for cell in code:
        for output in cell.outputs:
            printed += str(output.get("text", output.get("data", {}).get("text/plain", ""))).splitlines()
    too_long = [line for line in printed if len(line) > 66]
    assert not too_long


def test_tags_are_known_and_tolerances_named(code):
    for cell in code:
        assert tags(cell) <= TAGS
        compare.tolerance_of(cell.metadata)  # raises when `trained` names none


def test_pictures_have_alternative_text_and_a_number_beside_them(code):
    for cell in code:
        kinds = {kind for output in cell.outputs for kind in output.get("data", {})}
        if kinds & set(IMAGES):
            assert len(cell.metadata.mystnb.image.alt) > 40, cell.source
            text = " ".join(str(output.get("text", "")) for output in cell.outputs)
            assert re.search(r"\d", text), cell.source


def test_arc(path, notebook, code):
    text = "\n".join(prose(notebook))
    assert len(re.findall(r"^# ", text, re.MULTILINE)) == 1
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert headings[-3:] == ["What we measured", "What to remember", "Exercises"]
    assert any("runtime.report(" in cell.source for cell in code[:5])


def test_chapters_open_with_the_same_cell():
    assert len({first_code(path) for path in CHAPTERS}) == 1


def test_a_chapter_without_its_repository_says_what_to_do(tmp_path):
    """`-S` hides the packages installed here, this book's among them."""
    alone = subprocess.run(
        [sys.executable, "-S", "-c", first_code(CHAPTERS[0])], cwd=tmp_path, capture_output=True, text=True
    )
    assert alone.returncode == 1
    assert alone.stdout == ""
    assert re.fullmatch(r"This chapter needs [^\n]+ open the chapter from there\.\n", alone.stderr)


def first_code(path) -> str:
    return next(cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code")


def test_exercises_have_stub_solution_and_check(notebook):
    _, _, exercises = "\n\0".join(cell.source for cell in notebook.cells).rpartition("## Exercises")
    titles = re.findall(r"^\0?### (.+)$", exercises, re.MULTILINE)
    kinds = [next(iter(tags(cell) & {"stub", "solution", "check"}), None) for cell in notebook.cells]
    kinds = [kind for kind in kinds if kind]
    n_checked = len(kinds) // 3
    assert n_checked >= 4
    assert kinds == ["stub", "solution", "check"] * n_checked
    assert len([title for title in titles if "open" not in title]) == n_checked
    for cell in notebook.cells:
        if "stub" in tags(cell):
            assert "..." in cell.source
        if "solution" in tags(cell):
            assert "hide-cell" in tags(cell)


def test_prose_reads_anywhere_and_without_filler(notebook):
    for text in prose(notebook):
        assert not FILLER.search(text), text
        assert not EMOJI.search(text), text
        assert not re.search(r"[A-Za-z]!(?!\[)", text), text
        assert not MYST.search(text), text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_read_without_filler(page):
    text = page.read_text(encoding="utf-8")
    assert not FILLER.search(text)
    assert not EMOJI.search(text)
    assert not MACHINE_PATH.search(text)


def test_every_chapter_is_in_the_table_of_contents():
    toc = yaml.safe_load((HOME / "_toc.yml").read_text(encoding="utf-8"))
    listed = [entry["file"] for part in toc["parts"] for entry in part["chapters"]]
    assert [name for name in listed if name.startswith("notebooks/")] == [f"notebooks/{path.stem}" for path in CHAPTERS]


def test_claims_have_unique_ids_of_their_chapter():
    seen = []
    for path in CHAPTERS:
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            for output in cell.get("outputs", []):
                about = output.get("metadata", {}).get("claim")
                if about:
                    assert about["id"].startswith(f"{path.stem[:2]}-")
                    assert about["verdict"] == "holds"
                    seen.append(about["id"])
    assert len(seen) == len(set(seen))


def test_no_data_and_no_large_file_is_committed():
    listing = subprocess.run(["git", "ls-files"], cwd=HOME, capture_output=True, text=True)
    if listing.returncode != 0:
        pytest.skip("not a git checkout")
    tracked = [HOME / name for name in listing.stdout.splitlines() if (HOME / name).exists()]
    assert not [path for path in tracked if path.stat().st_size > 2.5e6]
    binary = {".gz", ".zip", ".npz", ".npy", ".pt", ".pkl", ".whl", ".tgz", ".dcm"}
    assert not [path for path in tracked if path.suffix in binary or "cache" in path.parts]
