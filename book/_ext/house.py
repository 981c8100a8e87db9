"""What this book adds to Sphinx: pages that load nothing twice, and tables made from measured files."""

from __future__ import annotations

import html
import json
import re
import textwrap
import tomllib
from functools import cache
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.statemachine import StringList

HOME = Path(__file__).resolve().parents[2]


# --- pages ----------------------------------------------------------------------------------------


def clean_scripts(app, pagename, templatename, context, doctree):
    """Keep each script once, and no Thebe."""
    seen, kept = set(), []
    for script in context.get("script_files", []):
        name = str(getattr(script, "filename", script) or "")
        body = (getattr(script, "attributes", None) or {}).get("body") or ""
        if "thebe" in (name + body).lower():
            continue
        if (name, body) in seen:
            continue
        seen.add((name, body))
        kept.append(script)
    context["script_files"] = kept
    styles = context.get("css_files", [])
    context["css_files"] = [css for css in styles if "thebe" not in str(getattr(css, "filename", css))]


def describe(app, pagename, templatename, context, doctree):
    """Give each page the description that search engines show: its first sentences."""
    first = next(doctree.findall(nodes.paragraph), None) if doctree else None
    if first is not None:
        text = html.escape(textwrap.shorten(first.astext(), 155, placeholder=" ..."))
        context["metatags"] = f'{context.get("metatags", "")}<meta name="description" content="{text}" />'


# --- tables ---------------------------------------------------------------------------------------


class MarkdownTable(Directive):
    """A directive whose content is a Markdown table that `rows` makes."""

    head: list[str] = []
    empty = "Nothing is recorded yet."

    def rows(self) -> list[list[str]]:
        raise NotImplementedError

    def run(self):
        return [self.table(self.rows())]

    def table(self, rows):
        """Return `rows` under the head as a node."""
        lines = [self.head, ["---"] * len(self.head), *rows]
        markdown = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        node = nodes.container(classes=["house-table", type(self).__name__.lower()])
        return self.parsed(markdown if rows else self.empty, node)

    def parsed(self, markdown: str, node):
        """Parse Markdown into `node`, and return it."""
        self.state.nested_parse(StringList(markdown.splitlines(), source="house"), self.content_offset, node)
        return node


class Sections(MarkdownTable):
    """Sections with a title; in each one table or several, with text over them, or text alone."""

    def sections(self):
        """Yield each title with its rows under the Markdown that stands over them; both may be empty."""
        raise NotImplementedError

    def run(self):
        made = []
        for title, parts in self.sections():
            section = nodes.section("", nodes.title(text=title), ids=[nodes.make_id(title)], names=[title.lower()])
            for text, rows in parts.items():
                self.parsed(text, section)
                if rows:
                    section += self.table(rows)
            made.append(section)
        return made


class ByChapter(Sections):
    """A section for each chapter that has something to show."""

    def parts(self, path, notebook) -> dict[str, list[list[str]]]:
        """Return the rows of each table under the text that stands over it."""
        raise NotImplementedError

    def sections(self):
        for path, notebook in chapters():
            if parts := self.parts(path, notebook):
                yield f"{headings(notebook, 1)[0]} (chapter {path.stem[:2]})", parts


@cache
def chapters():
    """Return (path, notebook) of every chapter, in order; read once a build."""
    paths = sorted((HOME / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    return [(path, json.loads(path.read_text(encoding="utf-8"))) for path in paths]


def chapter(number: str):
    """Return (path, notebook) of the chapter with this number, two digits."""
    return next((path, notebook) for path, notebook in chapters() if path.stem.startswith(number))


def source(cells, kind: str) -> str:
    """Return the text of all cells of a kind, ``"markdown"`` or ``"code"``."""
    return "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == kind)


def headings(notebook, level: int) -> list[str]:
    """Return the texts of all headings of one level."""
    return re.findall(rf"^{'#' * level} (.+)$", source(notebook["cells"], "markdown"), re.MULTILINE)


def heading_link(path: Path, heading: str, text: str | None = None) -> str:
    """Return an HTML link to a heading of a chapter."""
    plain = re.sub(r"[`*$]", "", heading)
    shown = html.escape(plain if text is None else text)
    return f'<a href="../notebooks/{path.stem}.html#{nodes.make_id(plain)}">{shown}</a>'


@cache
def records() -> list[dict]:
    """Return the content of every record, in the order of their names; read once a build."""
    paths = sorted((HOME / "data" / "results").glob("*.json"))
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


def chapter_link(path: Path) -> str:
    return f"[{path.stem[:2]}](../notebooks/{path.name})"


def short(value: float) -> str:
    """As claims print numbers."""
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e15 else f"{value:.3g}"


class Claims(ByChapter):
    """All claims that the chapters' stored outputs hold."""

    head = ["Claim", "Measured", "95 % interval", "Verdict", "Where"]

    def parts(self, path, notebook):
        rows = claims(path, notebook)
        return {"": rows} if rows else {}


class Promises(Sections):
    """What is often said and did not hold: a line is ``claim: the promise``, with the claim that speaks against it."""

    has_content = True
    head = ["It is often said", "What was measured", "Number", "Where"]
    text = (
        "Each of these was measured at the size and with the recipe that the claim names. "
        "With others it may be different: measure it there."
    )

    def sections(self):
        yield "Promises that did not hold", {self.text: self.rows()}

    def rows(self):
        found = {about["id"]: (about, where) for one in chapters() for about, where in claims_with_places(*one)}
        rows = []
        for line in filter(None, self.content):
            claim, promise = line.split(": ", 1)
            if claim not in found:
                raise ValueError(f"promises: no chapter makes the claim {claim!r}.")
            about, where = found[claim]
            rows.append([promise, *claim_row(about)[:2], where])
        return rows


def claims(path, notebook) -> list[list[str]]:
    """Return a row for each claim of a chapter: sentence, number, interval, verdict, link to its section."""
    return [[*claim_row(about), where] for about, where in claims_with_places(path, notebook)]


def claim_row(about: dict) -> list[str]:
    """Return a claim's sentence, number, interval and verdict."""
    interval = "" if about["low"] is None else f"{short(about['low'])} to {short(about['high'])}"
    return [about["sentence"].replace("|", "\\|"), short(about["value"]), interval, about["verdict"]]


def claims_with_places(path, notebook):
    """Yield each claim that a chapter's stored outputs hold, with a link to the section that makes it."""
    heading = ""
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            heading = (re.findall(r"^#{1,3} (.+)$", "".join(cell["source"]), re.MULTILINE) or [heading])[-1]
        for output in cell.get("outputs", []):
            if about := output.get("metadata", {}).get("claim"):
                yield about, heading_link(path, heading)


class Status(MarkdownTable):
    """What each chapter took when it was last tested, and how its outputs were compared."""

    head = ["Chapter", "CPU seconds", "Budget", "Outputs compared", "torch", "Device", "Data", "When"]

    def rows(self):
        status = json.loads((HOME / "data" / "timings.json").read_text(encoding="utf-8"))
        return [self.row(path, notebook, status.get(path.stem, {})) for path, notebook in chapters()]

    def row(self, path, notebook, last):
        ways = {"exact": "exactly", "tolerance": "within tolerance", "words": "in their words"}
        budget = notebook["metadata"]["book"]["budget_s"]
        compared = ", ".join(f"{last[key]} {name}" for key, name in ways.items() if last.get(key))
        row = [
            chapter_link(path),
            f"{last['cpu_s']:.0f}{' (over)' if last['cpu_s'] > budget else ''}" if last else "",
            str(budget),
        ]
        return [*row, compared, *(last.get(key, "") for key in ("torch", "device", "data", "date"))]


class Records(ByChapter):
    """The recorded runs: means over seeds with 95 % intervals; one table for the records of one recipe."""

    head = ["Record", "Parameters", "Seeds, epochs", "Training", "Validation", "CPU s a run"]
    held_out = ("val_accuracy", "fresh_accuracy", "tune_accuracy")

    def parts(self, path, notebook):
        tables = {}
        for content in records():
            if content["id"].startswith(path.stem[:2]) and content["runs"]:
                tables.setdefault(content["about"].splitlines()[0], []).append(self.row(content))
        return tables

    def row(self, content):
        runs, summary = content["runs"], content["summary"]
        settings = ", ".join(f"{name} {value}" for name, value in content["settings"].items())
        n_parameters = runs[0].get("n_parameters")
        held_out = next((column for column in self.held_out if column in summary), None)
        kind = {"fresh_accuracy": " (fresh points)", "tune_accuracy": " (`X_tune`)"}.get(held_out, "")
        cpu_s = sorted(run["cpu_s"] for run in runs if "cpu_s" in run)
        return [
            f"`{content['id']}`<br>{settings}",
            f"{n_parameters:,}" if n_parameters else "",
            f"{len(runs)}, {content['n_epochs']:,}",
            self.estimate(summary, "train_accuracy"),
            self.estimate(summary, held_out) + kind,
            f"{cpu_s[len(cpu_s) // 2]:.3g}" if cpu_s else "",
        ]

    def estimate(self, summary, column) -> str:
        if column not in summary:
            return "see the chapter"
        mean, low, high = summary[column]
        return f"{mean:.3f} [{low:.3f}, {high:.3f}]"


class RecordsMade(MarkdownTable):
    """Where and with which versions the records were made."""

    head = ["Records", "Device", "Python", "torch", "torchvision"]

    def rows(self):
        made: dict[tuple[str, ...], int] = {}
        for content in records():
            versions = content["versions"]
            key = (content["device"], versions["python"], versions["torch"], versions["torchvision"])
            made[key] = made.get(key, 0) + 1
        return [[str(count), *key] for key, count in made.items()]


class RecordsMissing(MarkdownTable):
    """Recorded runs that are not all there."""

    head = ["Record", "What is to be run", "Seeds that are there"]
    empty = "Nothing is missing."

    def rows(self):
        return [
            [f"`{content['id']}`", content["about"].splitlines()[0], f"{len(content['runs'])} of {content['seeds']}"]
            for content in records()
            if len(content["runs"]) < content["seeds"]
        ]


class DataSets(MarkdownTable):
    """The registry of data sets."""

    head = ["Data set", "Content", "Comes from", "Licence", "Source to cite"]

    def rows(self):
        registry = tomllib.loads((HOME / "data" / "registry.toml").read_text(encoding="utf-8"))
        return [
            [
                f"[{about['title']}]({about['homepage']}), `{name}`",
                about["shape"],
                self.origin(about),
                about["licence"],
                about["citation"],
            ]
            for name, about in registry.items()
        ]

    def origin(self, about) -> str:
        if "package" in about:
            return f"package {about['distribution']}"
        return f"download, {about['download_mb']:g} MB" + ("; has a stand-in" if "stand_in" in about else "")


class Versions(MarkdownTable):
    """The locked versions that the stored outputs come from."""

    head = ["Package", "Version"]
    shown = ("torch", "torchvision", "numpy", "matplotlib", "scikit-learn", "scipy", "imageio", "nbval", "jupyter-book")

    def rows(self):
        lock = (HOME / "requirements.txt").read_text(encoding="utf-8")
        return [[name, re.search(rf"^{name}==(\S+)", lock, re.M).group(1)] for name in self.shown]


def setup(app):
    app.connect("html-page-context", clean_scripts, priority=900)
    app.connect("html-page-context", describe)
    for name, directive in {
        "claims": Claims,
        "promises": Promises,
        "status": Status,
        "records": Records,
        "records-made": RecordsMade,
        "records-missing": RecordsMissing,
        "data-sets": DataSets,
        "versions": Versions,
    }.items():
        app.add_directive(name, directive)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
