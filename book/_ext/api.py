"""Pages about the helpers, made from their docstrings and tied to the chapters that use them."""

from __future__ import annotations

import ast
import json
import re
import sys
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.statemachine import StringList

HOME = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(HOME))


def chapters_using() -> dict[str, list[str]]:
    """Return for each module of `helpers` the names of the chapters that import it."""
    using: dict[str, list[str]] = {}
    for path in sorted((HOME / "notebooks").glob("[0-9][0-9]_*.ipynb")):
        for module in sorted(modules_of(path)):
            using.setdefault(module, []).append(path.stem)
    return using


def modules_of(path: Path) -> set[str]:
    """Return the modules of `helpers` that a chapter imports."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    found = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and node.module == "helpers":
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("helpers."):
            found.add(node.module.split(".")[1])
    return found


class Helpers(Directive):
    """A section for each public module of `helpers`: what it is for, who uses it, what it holds."""

    def run(self):
        using, lines = chapters_using(), []
        for path in sorted((HOME / "helpers").glob("[a-z]*.py")):
            module = path.stem
            links = ", ".join(f":doc:`{name[:2]} </notebooks/{name}>`" for name in using.get(module, []))
            lines += [module, "-" * len(module), ""]
            lines += [f"Used in chapters {links}." if links else "Used by other helpers and by the commands.", ""]
            lines += [f".. automodule:: helpers.{module}", "   :members:", "   :ignore-module-all:", ""]
        section = nodes.section()
        section.document = self.state.document
        self.state.nested_parse(StringList(lines, source="helpers"), self.content_offset, section, match_titles=1)
        return section.children


def link_chapters(app, what, name, obj, options, lines):
    """Turn "chapter 12" in a docstring into a link."""
    stems = {path.stem[:2]: path.stem for path in (HOME / "notebooks").glob("[0-9][0-9]_*.ipynb")}

    def link(match):
        number = match[1].zfill(2)
        return f":doc:`chapter {match[1]} </notebooks/{stems[number]}>`" if number in stems else match[0]

    lines[:] = [re.sub(r"\bchapter (\d\d?)\b", link, line) for line in lines]


def setup(app):
    app.add_directive("helpers", Helpers)
    app.connect("autodoc-process-docstring", link_chapters)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
