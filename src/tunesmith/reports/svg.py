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
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_NAMES = ("ink", "muted", "line", "first", "second", "marked")
COLOURS = {name: f"#{number:02x}{number:02x}{number:02x}" for number, name in enumerate(_NAMES, 1)}
"""Marker colours by the page's variable that replaces them."""
_VARIABLES = {colour: f"var(--{name})" for name, colour in COLOURS.items()}
SMALL, WIDE = (3.6, 2.25), (5.4, 3.0)
"""Sizes of a drawing in inches."""
_PROPERTIES = frozenset(
    {"fill", "fill-opacity", "opacity", "text-anchor"}
    | {f"stroke{ending}" for ending in ("", "-opacity", "-width", "-dasharray", "-dashoffset", "-linejoin", "-linecap")}
)
_SETTINGS: dict[Any, Any] = {
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
    view_box = re.search(r'viewBox="([\d. ]+)"', svg)
    opening = f'<svg class="drawing" role="img" aria-label="{html.escape(description)}"'
    body = re.sub(r"<\w[^>]*>", lambda tag: _clean_tag(tag[0], name), svg[svg.index(">") + 1 :])
    body = re.sub(r"\n\s*", "\n", body).strip()
    return f'{opening} viewBox="{view_box[1] if view_box else "0 0 1 1"}">{body}'


def _clean_tag(tag: str, name: str) -> str:
    """One opening tag with its ids and references made unique to the drawing, and without style."""
    tag = tag.replace(' id="', f' id="{name}-').replace(' xlink:href="#', f' href="#{name}-').replace("url(#", f"url(#{name}-")
    return re.sub(r' style="([^"]*)"', _presentation, tag)


def _presentation(style: re.Match[str]) -> str:
    """A style attribute as presentation attributes: only what paints, and the size of the font."""
    attributes: list[tuple[str, str]] = []
    for declaration in html.unescape(style[1]).split(";"):
        key, _, value = (part.strip() for part in declaration.partition(":"))
        if key in ("font", "font-size"):
            size = re.search(r"([\d.]+)px", value)
            attributes += [("font-size", size[1])] if size else []
        elif key in _PROPERTIES:
            attributes.append((key, _VARIABLES.get(value, value)))
    return "".join(f' {key}="{html.escape(value)}"' for key, value in attributes)
