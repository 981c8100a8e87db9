"""The functions of chapter 05 on small texts, against other ways of computing the same."""

import math
from collections import Counter
from itertools import pairwise

import pytest
import torch

from helpers.runtime import generator, seeded_weights
from tests.test_chapters import definitions

ALPHABET = "\n abcdefghijklmnopqrstuvwxyz“”'-,.;:!?"
TEXT = "\na bee, a bat.\na bob! and an abbot sat.\n"
IDS = torch.tensor([ALPHABET.index(c) for c in TEXT])


@pytest.fixture(scope="module")
def chapter():
    return definitions("05", ALPHABET=ALPHABET, merges=[("a", "n"), ("an", "an")])


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_read_text_finds_the_encoding(chapter, tmp_path, encoding):
    (tmp_path / "text").write_bytes("“très”".encode(encoding))
    assert chapter["read_text"](tmp_path / "text", fallback="cp1252") == "“très”"


def test_read_text_does_not_guess_unasked(chapter, tmp_path):
    (tmp_path / "text").write_bytes("très".encode("cp1252"))
    with pytest.raises(UnicodeDecodeError):
        chapter["read_text"](tmp_path / "text")


def test_cleaning(chapter):
    text = "“Yes!--of course,” -- said _Ann's_ well-known\nAUNT."
    assert chapter["clean_words"](text) == ["yes!--of", "course", "", "said", "ann's", "well-known", "aunt"]
    assert chapter["words_of"](text) == ["yes", "of", "course", "said", "ann's", "well-known", "aunt"]
    assert chapter["words_of"]("Don’t 'tis 18th --") == ["don't", "tis", "th"]


@pytest.mark.parametrize("last", ["End of the Project Gutenberg EBook", "*** END OF THIS EBOOK ***"])
def test_novel_of_leaves_the_licence_out(chapter, last):
    text = f"licence\nChapter 1\n\nThe novel.\n\nChapter 2\n\nIts end.\n{last}\nlicence\n"
    novel = chapter["novel_of"](text)
    assert chapter["words_of"](novel) == ["chapter", "the", "novel", "chapter", "its", "end"]


def test_simplify_keeps_to_the_alphabet(chapter):
    assert chapter["simplify"]("A bee,\n a bat.\n\n\nA bob! (And) an _abbot_ sat.") == TEXT
    assert chapter["simplify"]("“It’s\n late!” (No. 7)\n\n* * *\n\nÉtude--end") == "\n“it's late!” no.\ntude--end\n"


def test_pair_counts_and_losses(chapter):
    counts, pairs, starts = chapter["pair_counts"](IDS, len(ALPHABET)), Counter(pairwise(TEXT)), Counter(TEXT[:-1])
    assert counts.sum() == len(TEXT) - 1
    assert all(counts[ALPHABET.index(a), ALPHABET.index(b)] == n for (a, b), n in pairs.items())
    probs = counts.double() / counts.sum(dim=1, keepdim=True).clamp(min=1)
    expected = -sum(n * math.log(n / starts[a]) for (a, _), n in pairs.items()) / (len(TEXT) - 1)
    assert chapter["mean_loss"](probs, counts) == pytest.approx(expected)
    assert set(pairwise(chapter["write"](probs, 200, generator("write")))) <= set(pairs)
    # The loss of the table is that of all pairs, one after the other.
    names = {"P": probs.float(), "row_weight": counts.sum(dim=1) / counts.sum()}
    table_loss = definitions("05", row_loss=torch.nn.CrossEntropyLoss(reduction="none"), **names)["table_loss"]
    with seeded_weights(0):
        model = torch.nn.Linear(len(ALPHABET), len(ALPHABET), bias=False)
    X = torch.eye(len(ALPHABET))
    torch.testing.assert_close(table_loss(model, X), torch.nn.CrossEntropyLoss()(model(X)[IDS[:-1]], IDS[1:]))


def test_byte_pairs(chapter):
    words = {tuple("banana_"): 2, tuple("an_"): 5}
    expected = {("a", "n"): 9, ("n", "_"): 5, ("n", "a"): 4, ("b", "a"): 2, ("a", "_"): 2}
    assert chapter["neighbours"](words) == Counter(expected)
    assert chapter["join"](("a", "a", "a"), ("a", "a")) == ("aa", "a")
    assert chapter["pieces_of"]("banana") == ("b", "anan", "a", "_")
