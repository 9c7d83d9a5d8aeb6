"""Drawings as SVG that lives inside a page: no fonts, no style attributes, colours by the page's own variables.

matplotlib draws with marker colours; cleaning turns them into `var(--name)`, so that one drawing serves light and dark
mode, and its style attributes into presentation attributes, so that the page can forbid inline styles.
"""

from __future__ import annotations

import html
import io
import re
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = {"ink": "#010101", "muted": "#020202", "line": "#030303", "first": "#040404", "second": "#050505", "marked": "#060606"}
"""Marker colours by the page's variable that replaces them."""
SMALL, WIDE = (3.6, 2.25), (5.4, 3.0)
"""Sizes of a drawing in inches."""
_PROPERTIES = frozenset(
    "fill fill-opacity opacity stroke stroke-opacity stroke-width stroke-dasharray stroke-dashoffset stroke-linejoin "
    "stroke-linecap stroke-miterlimit text-anchor".split()
)
_SETTINGS = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": COLOURS["line"],
    "axes.labelcolor": COLOURS["muted"],
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.grid.axis": "y",
    "axes.formatter.useoffset": False,
    "grid.color": COLOURS["line"],
    "grid.linewidth": 0.6,
    "xtick.color": COLOURS["line"],
    "ytick.color": COLOURS["line"],
    "xtick.labelcolor": COLOURS["muted"],
    "ytick.labelcolor": COLOURS["muted"],
    "ytick.major.size": 0,
    "text.color": COLOURS["ink"],
    "legend.frameon": False,
    "legend.labelcolor": COLOURS["ink"],
}


def draw(name: str, description: str, size_inches: tuple[float, float], plot: Callable[[Axes], None]) -> str:
    """One drawing as an `<svg>` element that may stand in a page as it is.

    Args:
        name: Of letters and hyphens, different for every drawing of a page; the ids inside begin with it.
        description: What a reader who cannot see it is told.
        size_inches: Width and height.
        plot: Draws onto the axes it is given.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    output = io.StringIO()
    with warnings.catch_warnings(), matplotlib.rc_context({**_SETTINGS, "svg.hashsalt": name}):
        # The reader's browser draws the text, with fonts of its own: a glyph that is missing here is of no matter.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from")
        figure = Figure(figsize=size_inches, layout="constrained")
        FigureCanvasSVG(figure)
        plot(figure.add_subplot())
        figure.savefig(output, format="svg", transparent=True, metadata={"Date": None})
    return _clean(output.getvalue(), name, description)


def _clean(svg: str, name: str, description: str) -> str:
    """The drawing without prologue, metadata and style, with ids of its own and the page's colours."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r' style="([^"]*)"', _presentation, svg)
    svg = re.sub(r' id="', f' id="{name}-', svg)
    svg = re.sub(r'xlink:href="#', f'href="#{name}-', svg)
    svg = re.sub(r"url\(#", f"url(#{name}-", svg)
    opening = f'<svg class="drawing" role="img" aria-label="{html.escape(description)}"'
    view_box = re.search(r'viewBox="([\d. ]+)"', svg)
    body = svg[svg.index(">") + 1 :]
    return f'{opening} viewBox="{view_box[1] if view_box else ""}">{re.sub(r"\n\s*", chr(10), body).strip()}'


def _presentation(style: re.Match[str]) -> str:
    """A style attribute as presentation attributes: only what paints, and the size of the font."""
    attributes = []
    for declaration in html.unescape(style[1]).split(";"):
        key, _, value = (part.strip() for part in declaration.partition(":"))
        if key == "font":
            size = re.search(r"([\d.]+)px", value)
            attributes += [("font-size", size[1])] if size else []
        elif key in _PROPERTIES:
            attributes.append((key, next((f"var(--{n})" for n, colour in COLOURS.items() if colour == value), value)))
    return "".join(f' {key}="{html.escape(value)}"' for key, value in attributes)
