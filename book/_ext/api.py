"""Pages about the helpers, made from their docstrings and tied to the chapters that use them."""

from __future__ import annotations

import ast
import re
import sys

from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.statemachine import StringList
from house import HOME, chapters, source
from sphinx.ext.autodoc.mock import MockFinder

sys.path.insert(0, str(HOME))


def chapters_using() -> dict[str, list[str]]:
    """Return for each module of `helpers` the names of the chapters that import it."""
    using: dict[str, list[str]] = {}
    for path, notebook in chapters():
        for module in modules_of(notebook["cells"]):
            using.setdefault(module, []).append(path.stem)
    return using


def modules_of(cells) -> list[str]:
    """Return the modules of `helpers` that a chapter imports."""
    found = set()
    for node in ast.walk(ast.parse(source(cells, "code"))):
        if isinstance(node, ast.ImportFrom) and node.module == "helpers":
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("helpers."):
            found.add(node.module.split(".")[1])
    return sorted(found)


class Helpers(Directive):
    """A section for each public module of `helpers`: what it is for, who uses it, what it holds."""

    def run(self):
        using, lines = chapters_using(), []
        for path in sorted((HOME / "helpers").glob("[a-z]*.py")):
            module = path.stem
            links = [f":doc:`{name[:2]} </notebooks/{name}>`" for name in using.get(module, [])]
            users = f"chapter{'s' * (len(links) > 1)} {', '.join(links)}"
            lines += [module, "-" * len(module), ""]
            lines += [f"Used in {users}." if links else "Used by other helpers and by the commands.", ""]
            lines += [f".. automodule:: helpers.{module}", "   :members:", "   :ignore-module-all:", ""]
        section = nodes.section()
        section.document = self.state.document
        self.state.nested_parse(StringList(lines, source="helpers"), self.content_offset, section, match_titles=1)
        return section.children


def link_chapters(app, what, name, obj, options, lines):
    """Turn "chapter 12" in a docstring into a link."""
    stems = {path.stem[:2]: path.stem for path, _ in chapters()}

    def link(match):
        number = match[1].zfill(2)
        return f":doc:`chapter {match[1]} </notebooks/{stems[number]}>`" if number in stems else match[0]

    lines[:] = [re.sub(r"\bchapter (\d\d?)\b", link, line) for line in lines]


def drop_stand_in_signature(app, what, name, obj, options, signature, returned):
    """Show no arguments where they are those of the stand-in for torch's class."""
    return ("", returned) if signature == "(*args, **kwargs)" else None


def hide_torch(app, config):
    """Put a stand-in for torch, so that pages are the same and as fast where it is installed."""
    sys.meta_path.insert(0, MockFinder(["torch", "torchvision"]))


def setup(app):
    app.connect("config-inited", hide_torch)
    app.add_directive("helpers", Helpers)
    app.connect("autodoc-process-docstring", link_chapters)
    app.connect("autodoc-process-signature", drop_stand_in_signature)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
