"""Drawings as SVG text."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from edgeclin.errors import MissingExtra

try:
    import matplotlib

    matplotlib.use("svg")
    from matplotlib.figure import Figure
except ImportError as exc:
    raise MissingExtra("matplotlib, which draws reports,", "convert,cloud") from exc

BLUE, RED, GREEN, YELLOW, GREY = "#2a6f97", "#d1495b", "#52796f", "#edae49", "#9a8c98"
_READABLE = 16


def figure(width: float = 7.2, height: float = 3.2, columns: int = 1) -> tuple[Any, Any]:
    """An empty figure (inches) and its axes, several side by side."""
    drawn = Figure(figsize=(width, height), layout="constrained")
    axes = drawn.subplots(1, columns)
    for one in np.atleast_1d(axes):
        one.spines[["top", "right"]].set_visible(False)
    return drawn, axes


def svg(drawn: Any) -> str:
    """The figure as an `<svg>` element."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none"}):  # letters, not their outlines
        drawn.savefig(buffer, format="svg")
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def matrix(axes: Any, counts: np.ndarray, names: Sequence[str], row: str, column: str) -> None:
    """Draw counts [labels, labels], with numbers and names while they can be read."""
    axes.imshow(np.log1p(counts), cmap="Blues", aspect="auto")
    axes.set_xlabel(column)
    axes.set_ylabel(row)
    if len(names) > _READABLE:
        return
    for place in np.ndindex(counts.shape):
        colour = "white" if counts[place] > counts.max() / 4 else "black"
        axes.text(place[1], place[0], str(counts[place]), ha="center", va="center", color=colour)
    # A label is text, whatever dollar signs stand in it.
    axes.set_xticks(range(len(names)), names, rotation=20, ha="right", parse_math=False)
    axes.set_yticks(range(len(names)), names, parse_math=False)
