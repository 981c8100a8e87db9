"""Compare a cell's stored output with a fresh one, number by number.

The words around the numbers must be the same. How far a number may move is decided by the cell's
tags: none, `trained`, `measured`, `data` (see book/how-to-run.md).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any

EXACT_REL = 1e-4  # untagged floats: rounding may differ between processors
NUMBER = re.compile(
    r"(?<![\w.])[-+]?(?:\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
    r"|(?<![\w.])[-+]?(?:nan|inf)(?!\w)"
)
DEVICES = re.compile(r"\b(?:cpu|cuda(?::\d+)?|mps)\b")
# A text in which every difference that a tag allows has been put back to what was stored.
TEXT_TYPES = ("text/plain", "text/html", "text/markdown", "text/latex")
IGNORED_TYPES = ("image/png", "image/jpeg", "image/gif", "image/svg+xml")


@dataclass
class Tolerance:
    """How far numbers may move. `anything`: only the words count."""

    abs: float = 0.0
    rel: float = EXACT_REL
    int_abs: int = 0
    anything: bool = False

    def allows(self, stored: str, fresh: str) -> bool:
        """Return whether `fresh` may stand where `stored` stood."""
        if stored == fresh or self.anything:
            return True
        a, b = _value(stored), _value(fresh)
        if isinstance(a, int) and isinstance(b, int):
            return abs(a - b) <= self.int_abs
        if isinstance(a, int) != isinstance(b, int):
            return False
        if math.isnan(a) or math.isnan(b) or math.isinf(a) or math.isinf(b):
            return (math.isnan(a) and math.isnan(b)) or a == b
        return abs(a - b) <= max(self.abs, self.rel * abs(a))

    def __str__(self) -> str:
        return f"abs {self.abs:g}, rel {self.rel:g}, int_abs {self.int_abs}"


def _value(text: str) -> int | float:
    text = text.replace(",", "")
    return int(text) if re.fullmatch(r"[-+]?\d+", text) else float(text)


def tolerance_of(metadata: dict[str, Any]) -> Tolerance:
    """Return the tolerance that a cell's tags and metadata ask for.

    Raises
    ------
    ValueError
        A `trained` cell names no tolerance, or an unknown one.
    """
    tags = metadata.get("tags", [])
    if "measured" in tags:
        return Tolerance(anything=True)
    if "trained" in tags:
        given = dict(metadata.get("tolerance", {}))
        if not given or set(given) - {"abs", "rel", "int_abs"}:
            raise ValueError(
                'a cell tagged "trained" needs metadata "tolerance" with some of abs, rel, int_abs; '
                f"it has {given or 'none'}."
            )
        return Tolerance(**{"rel": EXACT_REL, **given})
    return Tolerance()


@dataclass
class Comparison:
    """What came out: numbers that moved too far, and whether anything moved at all."""

    mismatches: list[str] = field(default_factory=list)
    moved: bool = False


def align(stored: str, fresh: str, tolerance: Tolerance, result: Comparison) -> str:
    """Return `fresh` with each number within `tolerance` replaced by the stored one.

    When the words around the numbers differ, `fresh` is returned unchanged, and nbval shows the
    difference. Runs of blanks count as one where a number has moved: columns shift.
    """
    if stored == fresh:
        return stored
    if tolerance.anything:
        stored_words, fresh_words = DEVICES.sub("cpu", stored), DEVICES.sub("cpu", fresh)
    else:
        stored_words, fresh_words = stored, fresh
    a, b = list(NUMBER.finditer(stored_words)), list(NUMBER.finditer(fresh_words))
    if len(a) != len(b) or _words(stored_words) != _words(fresh_words):
        return fresh
    result.moved = True
    bad = []
    for one, other in zip(a, b, strict=True):
        if not tolerance.allows(one.group(), other.group()):
            around = stored[max(0, one.start() - 40) : one.end() + 20].replace("\n", " ").strip()
            bad.append(f"near '{around}': stored {one.group()}, now {other.group()}, tolerance {tolerance}")
    result.mismatches += bad
    return fresh if bad else stored


def _words(text: str) -> list[str]:
    # Blanks next to a number are layout: "[ 1.0" and "[-1.0" hold the same words.
    return [" ".join(part.split()) for part in NUMBER.split(text)]


def align_outputs(stored: list, fresh: list, tolerance: Tolerance) -> tuple[list, Comparison]:
    """Return the fresh outputs with tolerated differences put back, and what was found.

    Images are left out on both sides by the caller (`IGNORED_TYPES`).
    """
    result = Comparison()
    if len(stored) != len(fresh):
        return fresh, result
    aligned = []
    for old, new in zip(stored, fresh, strict=True):
        new = dict(new)
        if "text" in new and "text" in old:
            new["text"] = align(_joined(old["text"]), _joined(new["text"]), tolerance, result)
        if "evalue" in new and "evalue" in old:
            new["evalue"] = align(old["evalue"], new["evalue"], tolerance, result)
        if "data" in new and "data" in old:
            data = dict(new["data"])
            for kind in TEXT_TYPES:
                if kind in data and kind in old["data"]:
                    data[kind] = align(_joined(old["data"][kind]), _joined(data[kind]), tolerance, result)
            new["data"] = data
        aligned.append(new)
    return aligned, result


def _joined(text: str | list[str]) -> str:
    return text if isinstance(text, str) else "".join(text)


def comparable(outputs: list) -> list:
    """Return outputs reduced to what is compared: no images, counts, tracebacks or metadata."""
    kept = []
    for output in outputs:
        if output["output_type"] == "stream":
            kept.append({"stream": output["name"], "text": _joined(output["text"])})
        elif output["output_type"] == "error":
            kept.append({"ename": output["ename"], "evalue": output["evalue"]})
        else:
            data = {kind: _joined(value) for kind, value in output["data"].items() if kind not in IGNORED_TYPES}
            images = sorted(set(output["data"]) & set(IGNORED_TYPES))
            kept.append({"data": data, "images": images})
    return kept
