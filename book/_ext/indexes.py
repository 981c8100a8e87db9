"""Ways to find something: all exercises, a map of concepts, a glossary that knows where a word is first used."""

from __future__ import annotations

import ast
import html
import re
from collections import defaultdict
from pathlib import Path

from docutils import nodes
from house import HOME, MarkdownTable, chapter, chapter_link, chapters, source


def headings(notebook, level: int) -> list[str]:
    """Return the texts of all headings of one level."""
    return re.findall(rf"^{'#' * level} (.+)$", source(notebook["cells"], "markdown"), re.MULTILINE)


def link(path: Path, heading: str, text: str | None = None) -> str:
    """Return an HTML link to a heading of a chapter."""
    plain = re.sub(r"[`*$]", "", heading)
    shown = html.escape(plain if text is None else text)
    return f'<a href="../notebooks/{path.stem}.html#{nodes.make_id(plain)}">{shown}</a>'


class Exercises(MarkdownTable):
    """All exercises, with their difficulty."""

    head = ["Chapter", "Exercise", "Difficulty"]
    heading = re.compile(r"Exercise (\d+)(?: \(([\w-]+)\))?: (.+)")

    @classmethod
    def rows(cls):
        rows = []
        for path, notebook in chapters():
            for text in headings(notebook, 3):
                found = cls.heading.fullmatch(text)
                if found:
                    number, difficulty, title = found.groups()
                    rows.append([chapter_link(path), link(path, text, f"{number}. {title}"), difficulty or "medium"])
        return rows


class Symptoms(MarkdownTable):
    """The entries of chapter 18: what is seen when something is wrong."""

    head = ["Kind", "What you see"]
    endings = {"What we measured", "What to remember", "Exercises"}

    def rows(self):
        path, notebook = chapter("18")
        kind, rows = "", []
        for level, text in re.findall(r"^(##|###) (.+)$", source(notebook["cells"], "markdown"), re.MULTILINE):
            if level == "##":
                kind = text
            elif kind not in self.endings:
                rows.append([kind, link(path, text)])
        return rows


class Map(MarkdownTable):
    """What each chapter teaches, and the helpers that come from it."""

    head = ["Chapter", "Concepts, in order", "Helpers from here"]
    endings = {"What we measured", "What to remember", "Exercises"}

    def rows(self):
        introduced = defaultdict(list)
        for path in sorted((HOME / "helpers").glob("[a-z]*.py")):
            docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
            for number in re.findall(r"Introduced in chapter (\d\d)", docstring)[:1]:
                introduced[number].append(
                    f'<a href="helpers.html#module-helpers.{path.stem}"><code>{path.stem}</code></a>'
                )
        return [
            [
                f"[{path.stem[:2]} {headings(notebook, 1)[0]}](../notebooks/{path.name})",
                "; ".join(link(path, text) for text in headings(notebook, 2) if text not in self.endings),
                ", ".join(introduced[path.stem[:2]]),
            ]
            for path, notebook in chapters()
        ]


class Glossary(MarkdownTable):
    """Words with their meaning, one ``word: meaning`` a line, and the section to read about them."""

    has_content = True
    head = ["Word", "Meaning", "Where"]

    def rows(self):
        rows = []
        for line in sorted(filter(None, self.content), key=str.lower):
            word, meaning = line.split(": ", 1)
            rows.append([f"**{word}**", meaning, self.where(word)])
        return rows

    def where(self, word: str) -> str:
        """Link to the first section whose heading has the word, or else to the first that uses it.

        Raises
        ------
        ValueError
            No chapter uses it: then it does not belong into the glossary.
        """
        pattern = re.compile(rf"\b{re.escape(word)}(s|es|d|ed|ing)?\b", re.IGNORECASE)
        first = None
        for path, notebook in chapters():
            for heading, line in sections(notebook):
                if pattern.search(line):
                    here = f"{path.stem[:2]}, {link(path, heading)}"
                    if line.startswith("#"):
                        return here
                    first = first or here
        if first is None:
            raise ValueError(f"glossary: no chapter uses the word {word!r}.")
        return first


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
    app.add_directive("symptoms", Symptoms)
    app.add_directive("words", Glossary)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
