"""A figure: drawn into the page as SVG that takes the page's colours, or into a file of its own."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import matplotlib as mpl
from cycler import cycler
from matplotlib.figure import Figure

INK = "#010203"
"""Stands for the page's text colour while a figure is drawn."""

COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bb7700", "#777777", "#009988", "#cc3311")
"""Paul Tol's bright scheme, and two more of his vibrant one (SRON technical note SRON/EPS/TN/09-002)."""

STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
    "font.family": "sans-serif",
    "font.size": 9,
    "text.parse_math": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": cycler(color=COLOURS),
    "lines.linewidth": 1.6,
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
}


@dataclass(frozen=True)
class Drawing:
    """A figure.

    Args:
        name: what it shows, in a few words; unique on its page.
        size: width and height in inches.
        draw: fills a figure.
        caption: what it shows, in a sentence.
    """

    name: str
    size: tuple[float, float]
    draw: Callable[[Figure], None]
    caption: str = ""

    @property
    def slug(self) -> str:
        """The name as that of a file."""
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")

    def svg(self) -> str:
        """The figure for the page: no size of its own, text as text."""
        return _inline(self._saved("svg", transparent=True, metadata={"Date": None}).decode(), self.name)

    def save(self, path: Path) -> None:
        """Write the figure, black on white, in the format of the suffix: `.svg` or `.pdf`."""
        date = "Date" if path.suffix == ".svg" else "CreationDate"
        path.write_bytes(self._saved(path.suffix[1:], metadata={date: None}))

    def _saved(self, kind: str, **options: Any) -> bytes:
        # The salt makes the ids inside the SVG those of this figure alone, and the same in every report.
        with mpl.rc_context(cast(Any, STYLE | {"svg.hashsalt": self.name})):
            figure = Figure(figsize=self.size, layout="constrained")
            self.draw(figure)
            stream = io.BytesIO()
            figure.savefig(stream, format=kind, **options)
        return stream.getvalue()


def _inline(svg: str, name: str) -> str:
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\s+xmlns(:\w+)?="[^"]*"', "", svg)
    svg = re.sub(r'(<svg[^>]*?)\swidth="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?)\sheight="[^"]*"', r"\1", svg, count=1)
    return svg.replace("<svg", f'<svg role="img" aria-label="{_escaped(name)}"', 1).replace(INK, "currentColor")


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
