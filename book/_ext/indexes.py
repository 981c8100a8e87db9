"""Ways to find something: all exercises, a map of concepts, a glossary that knows where a word is first used."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from functools import cache
from pathlib import Path

from house import HOME, ByChapter, MarkdownTable, Sections, chapter, chapters, heading_link, headings, source
from pybtex.database import parse_file
from pybtex.style.formatting.plain import Style as Plain


class Exercises(ByChapter):
    """All exercises, with their difficulty."""

    head = ["Exercise", "Difficulty"]

    def parts(self, path, notebook):
        rows = exercises(path, notebook)
        return {"": rows} if rows else {}


def exercises(path, notebook) -> list[list[str]]:
    """Return a row for each exercise of a chapter: number and title as a link, difficulty."""
    found = [re.fullmatch(r"Exercise (\d+)(?: \(([\w-]+)\))?: (.+)", text) for text in headings(notebook, 3)]
    return [[heading_link(path, one[0], f"{one[1]}. {one[3]}"), one[2] or "medium"] for one in found if one]


class Symptoms(Sections):
    """The entries of chapter 18: what is seen when something is wrong."""

    endings = {"What we measured", "What to remember", "Exercises"}

    def sections(self):
        path, notebook = chapter("18")
        kinds: dict[str, list[str]] = {}
        for level, text in re.findall(r"^(##|###) (.+)$", source(notebook["cells"], "markdown"), re.MULTILINE):
            if level == "##":
                entries = kinds.setdefault(text, [])
            else:
                entries.append(f"- {heading_link(path, text)}")
        for kind, entries in kinds.items():
            if entries and kind not in self.endings:
                yield kind, {"\n".join(entries): []}


class References(ByChapter):
    """The primary sources, under the chapter that uses them first; an entry's keyword is its chapter's number."""

    def parts(self, path, notebook):
        found = [entry for entry in sources().entries.values() if entry.fields["keywords"] == path.stem[:2]]
        if not found:
            return {}
        shown = Plain(abbreviate_names=True).format_entries(sorted(found, key=lambda entry: entry.fields["year"]))
        return {"\n".join(f"- {entry.text.render_as('html')}" for entry in shown): []}


@cache
def sources():
    """Return the content of book/references.bib."""
    return parse_file(HOME / "book" / "references.bib")


class Map(MarkdownTable):
    """The concepts that each chapter introduces, and the helpers that come from it."""

    head = ["Concepts", "Chapter", "Helpers from here"]

    def rows(self):
        introduced, concepts = defaultdict(list), defaultdict(list)
        for path in sorted((HOME / "helpers").glob("[a-z]*.py")):
            docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
            for number in re.findall(r"Introduced in chapter (\d\d)", docstring)[:1]:
                introduced[number].append(
                    f'<a href="helpers.html#module-helpers.{path.stem}"><code>{path.stem}</code></a>'
                )
        for word, number, _ in words((HOME / "book" / "glossary.md").read_text(encoding="utf-8")):
            path, heading = place(word, number)
            concepts[path.stem].append(heading_link(path, heading, word))
        return [
            [
                ", ".join(concepts[path.stem]),
                f"[{path.stem[:2]} {headings(notebook, 1)[0]}](../notebooks/{path.name})",
                ", ".join(introduced[path.stem[:2]]),
            ]
            for path, notebook in chapters()
        ]


class Glossary(MarkdownTable):
    """Words with their meaning, and the section that introduces them.

    A line is ``word: meaning``, or ``word (NN): meaning`` when chapter NN is the place to read about it.
    """

    has_content = True
    head = ["Word", "Meaning", "Where"]

    def rows(self):
        return [
            [f"**{word}**", meaning, f"{path.stem[:2]}, {heading_link(path, heading)}"]
            for word, number, meaning in words("\n".join(self.content))
            for path, heading in [place(word, number)]
        ]


def words(text: str) -> list[tuple[str, str, str]]:
    """Return (word, number of a chapter or "", meaning) of each line of the glossary, in order."""
    found = re.findall(r"^([^:(#`\n]+?)(?: \((\d\d)\))?: (.+)$", text, re.MULTILINE)
    return sorted(found, key=lambda one: one[0].lower())


@cache
def place(word: str, number: str = "") -> tuple[Path, str]:
    """Return the section (chapter, heading) that sets the word in italics, else one named after it, else its first use.

    Raises
    ------
    ValueError
        No chapter uses it: then it does not belong into the glossary.
    """
    word_pattern = r"\b" + re.escape(word).replace(r"\ ", "[ _]") + r"(s|es|d|ed|ing)?\b"
    patterns = (rf"\*{word_pattern}\*", rf"^#.*{word_pattern}", word_pattern)
    for pattern in patterns:
        for path, notebook in [chapter(number)] if number else chapters():
            for heading, line in sections(notebook):
                if re.search(pattern, line, re.IGNORECASE) and not heading.startswith("Exercise"):
                    return path, heading
    raise ValueError(f"glossary: no chapter uses the word {word!r}.")


def sections(notebook):
    """Yield each line of a chapter's prose with the heading that it stands under."""
    heading = ""
    for line in source(notebook["cells"], "markdown").splitlines():
        title = re.match(r"#{1,3} (.+)", line)
        heading = title[1] if title else heading
        yield heading, line


def setup(app):
    app.add_directive("exercises", Exercises)
    app.add_directive("concept-map", Map)
    app.add_directive("sources", References)
    app.add_directive("symptoms", Symptoms)
    app.add_directive("words", Glossary)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
