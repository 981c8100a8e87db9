"""What the book's own Sphinx extensions put on its pages, without building it."""

import json
import os
import re
import shutil
import subprocess
import sys
from urllib.parse import urlsplit

import pytest

from tools.surroundings import HOME, chapters

sys.path.insert(0, str(HOME / "book" / "_ext"))
import front
import header
import house
import indexes

PATH = chapters("01")[0]


def test_without_a_public_address_only_the_notebook_is_offered():
    assert header.buttons(PATH, "") == [("Download the notebook", f"../_sources/notebooks/{PATH.name}")]
    assert "http" not in header.header(PATH, "")


@pytest.mark.parametrize("address", ["https://github.com/owner/name", "https://github.com/owner/name/"])
def test_with_a_public_address_a_chapter_can_be_opened_in_colab_and_binder(address):
    colab, binder = (link for _, link in header.buttons(PATH, address)[1:])
    assert colab == f"https://colab.research.google.com/github/owner/name/blob/main/notebooks/{PATH.name}"
    assert binder == f"https://mybinder.org/v2/gh/owner/name/main?labpath=notebooks/{PATH.name}"
    assert colab in header.header(PATH, address)


def test_reading_time_counts_prose_and_code():
    prose = {"cell_type": "markdown", "source": ["word " * 900]}
    code = {"cell_type": "code", "source": ["x = 1\n"] * 300}
    assert header.reading_minutes([prose]) == 5
    assert header.reading_minutes([prose, code]) == 15


def test_every_chapter_but_the_first_builds_on_earlier_ones():
    for path, notebook in house.chapters():
        earlier = notebook["metadata"]["book"]["builds_on"]
        assert all(house.chapter(number)[0] < path for number in earlier)
        assert bool(earlier) == (path != PATH)
        assert all(f">{number}</a>" in header.header(path, "") for number in earlier)


def test_a_promise_needs_a_claim_that_speaks_against_it():
    promises = house.Promises.__new__(house.Promises)
    promises.content = ["12-shift-8: Convolutions do not mind shifts."]
    promise, sentence, number, where = promises.rows()[0]
    assert promise == "Convolutions do not mind shifts."
    assert "shift of 8 pixels" in sentence
    assert "12_convolutions.html#" in where
    assert float(number) > -1
    promises.content = ["12-unheard-of: Everything helps."]
    with pytest.raises(ValueError, match="no chapter makes the claim '12-unheard-of'"):
        promises.rows()


def test_the_header_says_what_must_be_downloaded():
    assert "nothing to download" in header.header(chapters("01")[0], "")
    assert "MB to download" in header.header(chapters("12")[0], "")


def test_a_figure_of_the_front_page_is_found_by_its_text_or_missed():
    notebook = json.loads(chapters("12")[0].read_text(encoding="utf-8"))
    alt, content = front.picture(notebook, "Two falling curves")
    assert alt.startswith("Two falling curves")
    assert content.startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="no picture with the text 'A horse'"):
        front.picture(notebook, "A horse")


def test_the_status_page_has_a_row_a_chapter_tested_or_not():
    status = house.Status.__new__(house.Status)
    path, notebook = house.chapters()[0]
    last = {"cpu_s": 7.6, "exact": 60, "tolerance": 2, "words": 0, "torch": "2.14.1", "device": "cpu"}
    assert status.row(path, notebook, last)[1:5] == ["8", "15", "60 exactly, 2 within tolerance", "2.14.1"]
    assert status.row(path, notebook, {})[1] == ""


def test_every_entry_of_the_pitfalls_is_a_symptom():
    symptoms = [line for _, parts in indexes.Symptoms.__new__(indexes.Symptoms).sections() for line in parts]
    entries = "\n".join(symptoms).splitlines()
    assert len(entries) >= 24
    assert all("18_pitfalls.html#" in entry for entry in entries)


def test_every_source_belongs_to_a_chapter_and_every_author_with_a_year_is_a_source():
    numbers = {path.stem[:2] for path, _ in house.chapters()}
    entries = indexes.sources().entries.values()
    assert {entry.fields["keywords"] for entry in entries} <= numbers
    known = {(entry.persons["author"][0].last_names[0], entry.fields["year"]) for entry in entries}
    for path, notebook in house.chapters():
        text = " ".join(house.source(notebook["cells"], "markdown").split())
        for name, year in re.findall(r"(?<!, )(?<!and )([A-Z][\w-]+)(?: and \w+)?,? \(?((?:19|20)\d\d)\)", text):
            assert (name, year) in known, f"{path.stem}: {name} ({year}) is not in book/references.bib"


@pytest.mark.parametrize("address", ["", "https://github.com/owner/name"])
def test_a_chapter_is_built_with_and_without_a_public_address(tmp_path, address):
    (tmp_path / "notebooks").mkdir()
    shutil.copy(PATH, tmp_path / "notebooks")
    config = ["-C", "-D", "extensions=myst_nb,header", "-D", f"root_doc=notebooks/{PATH.stem}"]
    config += ["-D", f"public_address={address}", "-D", "nb_execution_mode=off", "-D", "html_theme=basic"]
    config += ["-D", "html_sourcelink_suffix="]  # as jupyter-book sets it
    command = [sys.executable, "-m", "sphinx", "-Q", *config, str(tmp_path), str(tmp_path / "html")]
    subprocess.run(command, env=os.environ | {"PYTHONPATH": str(HOME / "book" / "_ext")}, check=True)
    page = (tmp_path / "html" / "notebooks" / f"{PATH.stem}.html").read_text(encoding="utf-8")
    links = re.findall(r'<a href="([^"]*)"', page.partition('<div class="chapter-header">')[2].partition("</div>")[0])
    outside = [urlsplit(link).netloc for link in links if link.startswith("http")]
    assert outside == (["colab.research.google.com", "mybinder.org"] if address else [])
    assert (tmp_path / "html" / "notebooks" / next(link for link in links if "_sources" in link)).exists()


def test_every_record_with_runs_is_on_the_results_page():
    table = house.Records.__new__(house.Records)
    shown = [row for one in house.chapters() for rows in table.parts(*one).values() for row in rows]
    assert len(shown) == sum(len(content["runs"]) > 0 for content in house.records()) > 50


def test_every_claim_names_the_section_that_makes_it():
    path, notebook = house.chapter("01")
    *_, interval, verdict, where = house.claims(path, notebook)[0]
    assert (verdict, interval) == ("holds", "")
    assert where == '<a href="../notebooks/01_tensors.html#why-not-a-list">Why not a list?</a>'


@pytest.mark.parametrize(
    ("word", "number", "name", "heading"),
    [
        ("momentum", "", "07_autograd_and_optimizers", "Momentum"),
        ("weight decay", "14", "14_regularization", "weight_decay"),
        ("checkpoint", "", "10_a_trainer_of_your_own", "Step 5: the house's trainer"),
    ],
)
def test_a_word_of_the_glossary_leads_to_the_section_that_introduces_it(word, number, name, heading):
    path, found = indexes.place(word, number)
    assert (path.stem, found) == (name, heading)


def test_a_word_that_no_chapter_uses_does_not_belong_into_the_glossary():
    with pytest.raises(ValueError, match="no chapter uses the word 'phlogiston'"):
        indexes.place("phlogiston")
