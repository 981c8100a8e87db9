"""What this book adds to Sphinx: pages that load nothing twice, and tables made from measured files."""

from __future__ import annotations

import json
import re
import tomllib
from importlib.util import find_spec
from pathlib import Path
from shutil import copyfile, copytree

from docutils import nodes
from docutils.parsers.rst import Directive

HOME = Path(__file__).resolve().parents[2]


# --- pages ----------------------------------------------------------------------------------------


def clean_scripts(app, pagename, templatename, context, doctree):
    """Keep each script once; no Thebe; MathJax on pages with mathematics only."""
    has_math = doctree is not None and any(next(doctree.findall(kind), None) for kind in (nodes.math, nodes.math_block))
    seen, kept = set(), []
    for script in context.get("script_files", []):
        name = str(getattr(script, "filename", script) or "")
        body = (getattr(script, "attributes", None) or {}).get("body") or ""
        if "thebe" in (name + body).lower():
            continue
        if "mathjax" in (name + body).lower() and not has_math:
            continue
        if (name, body) in seen:
            continue
        seen.add((name, body))
        kept.append(script)
    context["script_files"] = kept
    styles = context.get("css_files", [])
    context["css_files"] = [css for css in styles if "thebe" not in str(getattr(css, "filename", css))]


def unwrap_tagged_math(app, doctree, docname):
    r"""Keep Sphinx from wrapping equations of several lines into `split`, in which MathJax allows no `\tag`."""
    for node in doctree.findall(nodes.math_block):
        text = node.astext()
        if r"\\" in text and r"\tag" in text:
            node["nowrap"] = True
            node.children = []
            node += nodes.Text(r"\[" + text + r"\]")


# --- tables ---------------------------------------------------------------------------------------


class MarkdownTable(Directive):
    """A directive whose content is a Markdown table that `rows` makes."""

    head: list[str] = []

    def rows(self) -> list[list[str]]:
        raise NotImplementedError

    def run(self):
        rows = self.rows()
        if not rows:
            return [nodes.paragraph(text="Nothing is recorded yet.")]
        lines = [self.head, ["---"] * len(self.head), *rows]
        markdown = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        node = nodes.container(classes=["house-table"])
        self.state.nested_parse(_string_list(markdown), self.content_offset, node)
        return [node]


def _string_list(text):
    from docutils.statemachine import StringList

    return StringList(text.splitlines(), source="house")


def chapters():
    """Return (path, notebook) of every chapter, in order."""
    paths = sorted((HOME / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    return [(path, json.loads(path.read_text(encoding="utf-8"))) for path in paths]


def chapter_link(path: Path) -> str:
    return f"[{path.stem[:2]}](../notebooks/{path.name})"


def short(value: float) -> str:
    """As claims print numbers."""
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e15 else f"{value:.3g}"


class Claims(MarkdownTable):
    """All claims that the chapters' stored outputs hold."""

    head = ["Chapter", "Claim", "Measured", "95 % interval", "Verdict"]

    def rows(self):
        rows = []
        for path, notebook in chapters():
            for cell in notebook["cells"]:
                for output in cell.get("outputs", []):
                    about = output.get("metadata", {}).get("claim")
                    if about:
                        interval = "" if about["low"] is None else f"{short(about['low'])} to {short(about['high'])}"
                        sentence = about["sentence"].replace("|", "\\|")
                        rows.append([chapter_link(path), sentence, short(about["value"]), interval, about["verdict"]])
        return rows


class Timings(MarkdownTable):
    """Measured CPU seconds of each chapter, beside its budget."""

    head = ["Chapter", "CPU seconds", "Budget", "Code cells"]

    def rows(self):
        timings = json.loads((HOME / "data" / "timings.json").read_text(encoding="utf-8"))
        return [
            [
                chapter_link(path),
                f"{timings['cpu_s'].get(path.stem, float('nan')):.0f}",
                str(notebook["metadata"]["book"]["budget_s"]),
                str(sum(cell["cell_type"] == "code" for cell in notebook["cells"])),
            ]
            for path, notebook in chapters()
        ]


class Records(MarkdownTable):
    """The recorded runs: means over seeds."""

    head = ["Record", "What was run", "Seeds", "Epochs", "Images", "Accuracy: mean (range)", "Minutes, fastest seed"]

    def rows(self):
        rows = []
        for path in sorted((HOME / "data" / "results").glob("*.json")):
            content = json.loads(path.read_text(encoding="utf-8"))
            runs = content["runs"]
            column = "val_accuracy" if "val_accuracy" in runs[0]["history"][-1] else "tune_accuracy"
            accuracies = [run["history"][-1][column] for run in runs]
            minutes = min(sum(row["seconds"] for row in run["history"]) for run in runs) / 60
            spread = f"{sum(accuracies) / len(runs):.3f} ({min(accuracies):.3f} to {max(accuracies):.3f})"
            about = content["about"].splitlines()[0] + "".join(f" {k} = {v}." for k, v in content["settings"].items())
            n_epochs = str(content["n_epochs"])
            rows.append([path.stem, about, str(len(runs)), n_epochs, column.split("_")[0], spread, f"{minutes:.1f}"])
        return rows


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


def copy_mathjax(app, problem):
    """Copy what pages with mathematics load out of the package: one script and its fonts, 4 of 24 MB."""
    if problem is None:
        source = Path(find_spec("sphinx-mathjax-offline").origin).parent / "static" / "mathjax"
        target = Path(app.outdir) / "_static" / "mathjax"
        copytree(source / "output" / "chtml", target / "output" / "chtml", dirs_exist_ok=True)
        copyfile(source / "tex-chtml.js", target / "tex-chtml.js")


def setup(app):
    app.connect("build-finished", copy_mathjax)
    app.connect("html-page-context", clean_scripts, priority=900)
    app.connect("doctree-resolved", unwrap_tagged_math)
    for name, directive in {
        "claims": Claims,
        "timings": Timings,
        "records": Records,
        "data-sets": DataSets,
        "versions": Versions,
    }.items():
        app.add_directive(name, directive)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
