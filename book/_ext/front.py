"""The front page: figures out of the chapters, and what the book holds, counted when it is built."""

from __future__ import annotations

import base64
import html
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import Directive
from house import chapter, chapters, claims, headings, records
from indexes import exercises


class FigureStrip(Directive):
    """Figures of chapters, each a link to its chapter; a line is ``NN: how its alternative text begins``."""

    has_content = True

    def run(self):
        app = self.state.document.settings.env.app
        folder = Path(app.outdir) / "_images"
        folder.mkdir(parents=True, exist_ok=True)
        cards = []
        for line in filter(None, self.content):
            number, beginning = line.split(": ", 1)
            path, notebook = chapter(number)
            alt, content = picture(notebook, beginning)
            file = folder / f"front-{number}.png"
            file.write_bytes(content)
            cards.append(
                f'<a href="../notebooks/{path.stem}.html"><img src="../_images/{file.name}" alt="{html.escape(alt)}">'
                f"<span>{html.escape(headings(notebook, 1)[0])}</span></a>"
            )
        return [nodes.raw("", f'<div class="figure-strip">{"".join(cards)}</div>', format="html")]


def picture(notebook, beginning: str) -> tuple[str, bytes]:
    """Return the alternative text and the PNG of the picture whose alternative text begins so.

    Raises
    ------
    ValueError
        No picture of the chapter has such a text.
    """
    for cell in notebook["cells"]:
        alt = cell["metadata"].get("mystnb", {}).get("image", {}).get("alt", "")
        if alt.startswith(beginning):
            for output in cell["outputs"]:
                if "image/png" in output.get("data", {}):
                    return alt, base64.b64decode("".join(output["data"]["image/png"]))
    raise ValueError(f"front page: no picture with the text {beginning!r}.")


class Counts(Directive):
    """What the book holds, in one line."""

    def run(self):
        n_cells = sum(cell["cell_type"] == "code" for _, notebook in chapters() for cell in notebook["cells"])
        n_runs = sum(len(record["runs"]) for record in records())
        parts = {
            "chapters": len(chapters()),
            "code cells that a test repeats": n_cells,
            "claims, each measured": sum(len(claims(*one)) for one in chapters()),
            "exercises": sum(len(exercises(*one)) for one in chapters()),
            "recorded trainings": n_runs,
        }
        items = "".join(f"<li><b>{count:,}</b> {name}</li>" for name, count in parts.items())
        return [nodes.raw("", f'<ul class="counts">{items}</ul>', format="html")]


def setup(app):
    app.add_directive("figure-strip", FigureStrip)
    app.add_directive("counts", Counts)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
