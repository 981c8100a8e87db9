"""What stands under a chapter's title: what it costs, what it builds on, where to run it."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from urllib.parse import urlsplit

from api import modules_of
from docutils import nodes
from house import HOME, chapter, source

WORDS_A_MINUTE = 180  # of prose; a line of code counts as six words


def reading_minutes(cells) -> int:
    """Estimate the minutes that a careful first reading takes."""
    words, lines = len(source(cells, "markdown").split()), len(source(cells, "code").splitlines())
    return 5 * max(1, round((words + 6 * lines) / WORDS_A_MINUTE / 5))


def buttons(path: Path, address: str) -> list[tuple[str, str]]:
    """Return (text, link) of the buttons; Colab and Binder need the repository's public address."""
    shown = [("Download the notebook", f"../_sources/notebooks/{path.name}")]
    if address:
        place = urlsplit(address).path.strip("/")
        colab = f"https://colab.research.google.com/github/{place}/blob/main/notebooks/{path.name}"
        binder = f"https://mybinder.org/v2/gh/{place}/main?labpath=notebooks/{path.name}"
        shown += [("Open in Colab", colab), ("Open in Binder", binder)]
    return shown


def header(path: Path, address: str) -> str:
    """Return the HTML that tells what a chapter costs and where it can be run."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    about, cells = notebook["metadata"]["book"], notebook["cells"]
    registry = tomllib.loads((HOME / "data" / "registry.toml").read_text(encoding="utf-8"))
    status = json.loads((HOME / "data" / "timings.json").read_text(encoding="utf-8"))
    seconds = status.get(path.stem, {}).get("cpu_s")
    download = sum(registry[name].get("download_mb", 0) for name in about["data"])
    earlier = [f'<a href="{chapter(number)[0].stem}.html">{number}</a>' for number in about["builds_on"]]
    modules = [f'<a href="../book/helpers.html#module-helpers.{name}">{name}</a>' for name in modules_of(cells)]
    facts = [f"{reading_minutes(cells)} minutes to read"]
    if seconds is not None:
        facts.append(f"{seconds:.0f} seconds to run on a CPU")
    facts.append(f"{download:g} MB to download" if download else "nothing to download")
    if earlier:
        facts.append(f"builds on {', '.join(earlier)}")
    if modules:
        facts.append(f"helpers: {', '.join(modules)}")
    links = " ".join(
        f'<a href="{link}"{" download" if link.startswith("..") else ""}>{text}</a>'
        for text, link in buttons(path, address)
    )
    items = "".join(f"<li>{fact}</li>" for fact in facts)
    return f'<div class="chapter-header"><ul>{items}</ul><p>{links}</p></div>'


def number_title(app, doctree):
    """Put a chapter's number before its title, and so into the sidebar too."""
    page, title = app.env.docname, next(doctree.findall(nodes.title), None)
    if page.startswith("notebooks/") and title is not None:
        title.insert(0, nodes.Text(f"{Path(page).name[:2]} "))


def add_header(app, doctree):
    """Put the header under the title of a chapter."""
    page = app.env.docname
    title = next(doctree.findall(nodes.title), None)
    if page.startswith("notebooks/") and title is not None:
        html = header(HOME / f"{page}.ipynb", app.config.public_address)
        title.parent.insert(title.parent.index(title) + 1, nodes.raw("", html, format="html"))


def setup(app):
    app.add_config_value("public_address", "", "env")
    app.connect("doctree-read", number_title, priority=100)  # before Sphinx collects the titles
    app.connect("doctree-read", add_header)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
