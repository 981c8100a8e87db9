"""What the book's own Sphinx extensions put on its pages, without building it."""

import sys

import pytest

from tools.surroundings import HOME, chapters

sys.path.insert(0, str(HOME / "book" / "_ext"))
import header

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


def test_a_chapter_builds_on_the_earlier_ones_that_it_names(tmp_path):
    text = "See [chapter 06](06_gradients_by_hand.ipynb), [later](09_x.ipynb), [again](06_gradients_by_hand.ipynb#a)."
    cells = [{"cell_type": "markdown", "source": [text]}]
    assert header.builds_on(tmp_path / "08_y.ipynb", cells) == ["06_gradients_by_hand"]


def test_the_header_says_what_must_be_downloaded():
    assert "nothing to download" in header.header(chapters("01")[0], "")
    assert "MB to download" in header.header(chapters("12")[0], "")
