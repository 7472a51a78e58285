"""matplotlib figures as SVG elements that can stand in one HTML page."""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from certkv.cli.page.markup import Markup

SVG = "http://www.w3.org/2000/svg"
XLINK = "http://www.w3.org/1999/xlink"
LINKS = ("href", f"{{{XLINK}}}href")

STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # ships with matplotlib, so that every machine draws the same
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555555",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "svg.fonttype": "path",
    "svg.hashsalt": "certkv",  # the same capture gives the same file
}

DPI = 150
"""Of what is drawn as pixels: heat maps, and clouds of very many points."""


@contextmanager
def style() -> Iterator[None]:
    """Draw in our style, whatever the user's own settings of matplotlib are."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure, in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(figure)
    return figure


def to_svg(figure: Figure, name: str, label: str) -> Markup:
    """Return a figure as one ``svg`` element.

    Parameters
    ----------
    figure : Figure
    name : str
        Unique in the page: every id in the element starts with it. Ids that nothing refers to are dropped.
    label : str
        What a reader who cannot see the plot is told.

    Returns
    -------
    Markup
    """
    file = io.BytesIO()
    figure.savefig(file, format="svg", dpi=DPI)
    root = ET.fromstring(file.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{SVG}}}metadata", f"{{{SVG}}}style"):  # with the date; reaching the whole page
                parent.remove(child)
    wanted = _references(root)
    for node in root.iter():
        if node.attrib.get("id") not in wanted:
            node.attrib.pop("id", None)  # equal pictures have equal ids
        for key, value in node.attrib.items():
            if key == "id":
                node.set(key, f"{name}-{value}")
            elif key in LINKS and value.startswith("#"):
                node.set(key, f"#{name}-{value[1:]}")
            else:
                node.set(key, value.replace("url(#", f"url(#{name}-"))
    for key, value in {
        "role": "img",
        "aria-label": label,
        "stroke-linejoin": "round",
        "stroke-linecap": "butt",
    }.items():
        root.set(key, value)
    ET.register_namespace("", SVG)
    ET.register_namespace("xlink", XLINK)
    return Markup(ET.tostring(root, encoding="unicode"))


def _references(root: ET.Element) -> set[str]:
    """Return the ids that something in a drawing refers to."""
    found = set()
    for node in root.iter():
        for key, value in node.attrib.items():
            if key in LINKS and value.startswith("#"):
                found.add(value[1:])
            found.update(re.findall(r"url\(#([^)]+)\)", value))
    return found
