"""``make notebooks``: execute chapters and store the outputs that changed."""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
import time
from pathlib import Path

import nbformat

from tools import compare, surroundings

KEPT_CELL_METADATA = ("jupyter", "mystnb", "tags", "tolerance")


def execute(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Return a copy of a notebook, executed in a fresh kernel of this Python."""
    from nbclient import NotebookClient

    fresh = nbformat.from_dict(notebook)
    for cell in fresh.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    fresh.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    NotebookClient(
        fresh,
        timeout=1200,
        kernel_name="python3",
        resources={"metadata": {"path": str(surroundings.NOTEBOOKS)}},
        extra_arguments=["--log-level=ERROR"],
    ).execute()
    return tidy(fresh)


def tidy(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Keep what a reader needs: small, sorted metadata, merged streams, counts from 1."""
    notebook.metadata = nbformat.from_dict(
        {
            "book": notebook.metadata.get("book", {}),
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python", "pygments_lexer": "ipython3"},
        }
    )
    count = 0
    for i, cell in enumerate(notebook.cells):
        cell.id = f"{cell.cell_type}-{i:03d}"
        cell.metadata = nbformat.from_dict(
            {key: cell.metadata[key] for key in KEPT_CELL_METADATA if cell.metadata.get(key)}
        )
        if cell.cell_type != "code":
            continue
        count += 1
        cell.execution_count = count
        for output in cell.outputs:
            if "metadata" in output:  # kept: what the page of claims is made of
                output.metadata = {key: output.metadata[key] for key in ("claim",) if key in output.metadata}
            if output.output_type == "execute_result":
                output.execution_count = count
            if output.output_type == "error":
                # Paths of this machine do not belong into the book: the last frame is enough.
                output.traceback = [short_traceback(output)]
        cell.outputs = merge_streams(cell.outputs)
    return notebook


def short_traceback(output) -> str:
    """Return an error as ``Name: message``, what a reader looks at first."""
    return f"{output.ename}: {output.evalue}"


def merge_streams(outputs: list) -> list:
    """Join neighbouring prints, which arrive in pieces of any size."""
    merged: list = []
    for output in outputs:
        last = merged[-1] if merged else None
        if last and output.output_type == "stream" == last.output_type and output.name == last.name:
            last.text += output.text
        else:
            merged.append(output)
    return merged


def agrees(stored: nbformat.NotebookNode, fresh: nbformat.NotebookNode) -> bool:
    """Return whether sources are the same and outputs agree as nbval would have it."""
    if len(stored.cells) != len(fresh.cells) or stored.metadata != fresh.metadata:
        return False
    for old, new in zip(stored.cells, fresh.cells, strict=True):
        if (old.cell_type, old.source, old.metadata) != (new.cell_type, new.source, new.metadata):
            return False
        if old.get("id") != new.get("id") or old.get("execution_count") != new.get("execution_count"):
            return False
        if old.cell_type == "code":
            before, now = compare.comparable(old.outputs), compare.comparable(new.outputs)
            aligned, _ = compare.align_outputs(before, now, compare.tolerance_of(old.metadata))
            if aligned != before:
                return False
    return True


def refusal(fresh: nbformat.NotebookNode) -> str:
    """Return why outputs may not be stored (GPU, stand-in data, full profile), or an empty text."""
    text = "".join(output.get("text", "") for cell in fresh.cells for output in cell.get("outputs", []))
    found = re.search(r"^device: (\S+) \| profile: (\S+)(?: \| |\n)data: (.+)$", text, re.M)
    if found is None:
        return "it does not call runtime.report()"
    if found[1] != "cpu":
        return f"it ran on {found[1]}; stored outputs come from a CPU (set BOOK_DEVICE=cpu)"
    if found[2] != "quick":
        return f"it ran with the profile {found[2]}; stored outputs are those of quick"
    if "(stand-in)" in found[3]:
        return "it ran on stand-in data; run `make data` first"
    return ""


def store(path: Path, notebook: nbformat.NotebookNode) -> None:
    """Write a notebook in one move."""
    handle, scratch = tempfile.mkstemp(suffix=".ipynb", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            nbformat.write(notebook, file)
        os.chmod(scratch, 0o644)
        os.replace(scratch, path)
    except BaseException:
        Path(scratch).unlink(missing_ok=True)
        raise


def main(arguments: list[str]) -> int:
    """Execute the chosen chapters one after the other; return the exit status."""
    from nbclient.exceptions import CellExecutionError

    parser = argparse.ArgumentParser(prog="python -m tools.notebooks", description=__doc__)
    parser.add_argument("--chapters", default="")
    parser.add_argument("--always", action="store_true", help="store new outputs, and pictures, in any case")
    chosen = parser.parse_args(arguments)
    try:
        paths = surroundings.chapters(chosen.chapters)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    os.environ.update(surroundings.environment(workers=2, device=os.environ.get("BOOK_DEVICE", "cpu")))
    failed = 0
    for path in paths:
        stored, started = nbformat.read(path, as_version=4), time.perf_counter()
        try:
            fresh = execute(stored)
        except CellExecutionError as error:
            print(f"{path.name}: left as it was, a cell failed:\n{error}", file=sys.stderr)
            failed = 1
            continue
        seconds = time.perf_counter() - started
        if why := refusal(fresh):
            print(f"{path.name}: not stored, {why}.", file=sys.stderr)
            failed = 1
        elif agrees(stored, fresh) and not chosen.always:
            print(f"{path.name}: unchanged ({seconds:.0f} s)")
        else:
            store(path, fresh)
            print(f"{path.name}: stored ({seconds:.0f} s)")
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
