"""Light pages: icons drawn inline, pictures with their sizes, tables that fit a phone, no idle scripts or styles.

The theme loads a program of half a megabyte (compressed) that draws its icons, and the index of the
search on every page. After the build each icon is put in as the picture that the program would
draw, and both are taken out again, with the programs and styles of tabs and folding boxes, of which
this book has none. What is left waits until the page is drawn. Of the styles, which hold a page up,
four of five kilobytes are for things that no page has; they go as well.
"""

from __future__ import annotations

import re
from functools import cache, partial
from pathlib import Path
from urllib.parse import unquote

import imagesize
import lightningcss
from bs4 import BeautifulSoup

ICON = re.compile(r'<(i|span) class="([^"]*\bfa[srb]?\b[^"]*\bfa-([a-z-]+)[^"]*)"([^>]*)></\1>')
SIZES = {"fa-lg", "fa-xs", "fa-sm", "fa-xl"}
PICTURE = re.compile(r'<img (?![^>]*\bloading=)([^>]*?)src="([^"]+)"([^>]*?)/?>')
IDLE = r'\s*<script[^>]*src="[^"]*/?({})\.js[^"]*"[^>]*></script>'
SEARCH = "|searchtools|language_data|searchindex"
IDLE_PARTS = re.compile(
    r'\s*<link rel="stylesheet"[^>]*/(togglebutton|sphinx-design\.min)\.css[^>]*/>'
    r"|\s*<script>(let toggle|var toggle|kernelName)[^<]*</script>"
    r'|\s*<script type="text/x-thebe-config">.*?</script>',
    re.DOTALL,
)
OPTIONS = re.compile(r'<script src="[^"]*documentation_options\.js[^"]*"></script>')
BLOCKING = re.compile(r'<script src="(?=[^"]*(?:_static/|searchindex\.js))')
BRAND = re.compile(r'<div class="sidebar-primary-item">(?=\s*<a class="navbar-brand)')
TABLE = re.compile(r"<table\b.*?</table>", re.DOTALL)
MARKS = re.compile(r'\b(?:class|id)="([^"]*)"')
STYLED = re.compile(r"[.#](-?[A-Za-z_][\w-]*)")


def lighten(app, problem):
    """Rewrite every built page, and drop what none of them loads any more."""
    if problem is not None or app.builder.name != "html":
        return
    static = Path(app.outdir) / "_static"
    program = (static / "scripts" / "fontawesome.js").read_text(encoding="utf-8")
    options = f"<script>{(static / 'documentation_options.js').read_text(encoding='utf-8')}</script>"
    for path in Path(app.outdir).rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        text = ICON.sub(partial(_icon, program), text)
        text = PICTURE.sub(partial(_picture, path.parent), text)
        text = TABLE.sub(_labelled, text)
        idle = "fontawesome|design-tabs|togglebutton" + SEARCH * (path.name != "search.html")
        text = re.sub(IDLE.format(idle), "", text)
        text = OPTIONS.sub(options, IDLE_PARTS.sub("", text))  # scripts in the page's head need it at once
        text = BLOCKING.sub('<script defer src="', text)
        text = BRAND.sub('<div class="sidebar-primary-item" role="navigation" aria-label="Front page">', text)
        path.write_text(text, encoding="utf-8")
    for idle in {*static.rglob("*.map"), *static.rglob("fontawesome.js*")}:
        idle.unlink()
    _drop_unused_styles(Path(app.outdir))


def _drop_unused_styles(html: Path):
    """Drop rules for classes and ids that stand in no page and in no script."""
    used = {mark for page in html.rglob("*.html") for mark in " ".join(MARKS.findall(page.read_text("utf-8"))).split()}
    scripts = "".join(path.read_text("utf-8") for path in html.glob("_static/**/*.js") if "locales" not in path.parts)
    used.update(re.findall(r"[\w-]+", scripts))
    beginnings = tuple(word for word in used if word.endswith("-") and word.strip("-"))  # scripts put names together
    for path in html.glob("_static/**/*.css"):
        style = path.read_text("utf-8")
        unused = {name for name in STYLED.findall(style) if name not in used and not name.startswith(beginnings)}
        path.write_text(lightningcss.process_stylesheet(style, unused_symbols=unused), "utf-8")


def _icon(program: str, match: re.Match) -> str:
    """Return the icon (Font Awesome Free, CC BY 4.0) as inline SVG with the classes that the theme styles."""
    _, classes, _, attributes = match.groups()
    known = [name for name in re.findall(r"\bfa-[a-z-]+", classes) if name not in SIZES | {"fa-solid", "fa-regular"}]
    width, height, outline = _outline(known[-1].removeprefix("fa-"), program)
    title = re.sub(r'title="([^"]*)"', r'data-title="\1"', attributes)
    return (
        f'<svg class="svg-inline--fa {" ".join(classes.split())}"{title} aria-hidden="true" '
        f'viewBox="0 0 {width} {height}"><path fill="currentColor" d="{outline}"></path></svg>'
    )


@cache
def _outline(name: str, program: str) -> tuple[str, str, str]:
    found = re.findall(rf'[{{,]"?{name}"?:\[(\d+),(\d+),\[[^\]]*\],"\w+","(M[^"]+)"\]', program)
    if not found:
        raise ValueError(f"the theme's program draws no icon {name!r}.")
    return found[-1]  # its last family is the solid one


def _picture(folder: Path, match: re.Match) -> str:
    """Give a picture its size, so that nothing jumps, and load it when it comes into view."""
    before, source, after = match.groups()
    path = folder / unquote(source)
    size = ""
    if "width=" not in before + after and path.is_file():
        width, height = imagesize.get(path)
        size = f'width="{width}" height="{height}" ' if width > 0 else ""
    return f'<img {before}src="{source}"{after.rstrip()} {size}loading="lazy">'


def _labelled(match: re.Match) -> str:
    """Write each column's head beside its cells: on phones a row becomes a block."""
    table = BeautifulSoup(match[0], "html.parser")
    heads = [head.get_text(" ", strip=True) for head in table.select("thead th")]
    for row in table.select("tbody tr"):
        for head, cell in zip(heads, row.find_all("td", recursive=False), strict=False):
            if cell.get_text(strip=True):
                cell["data-label"] = head
            else:
                cell["class"] = "empty"
    return str(table)


def setup(app):
    app.connect("build-finished", lighten, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
