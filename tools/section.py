"""A section of a page that is made by a program and stands between two markers, which stay; and the result that it tells."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure as MatplotlibFigure


@dataclass(frozen=True)
class Section:
    """What stands between `<!-- name -->` and `<!-- end of name -->`."""

    name: str

    def put(self, page: str, text: str) -> str:
        """The page with `text` as its section.

        Raises:
            ValueError: If a marker is missing.
        """
        start, end = f"<!-- {self.name} -->", f"<!-- end of {self.name} -->"
        before, rest = page.split(start)
        _, after = rest.split(end)
        return f"{before}{start}\n{text}\n{end}{after}"


@dataclass(frozen=True)
class Drawing:
    """A drawing of a result, and the name of its file beside the page."""

    name: str
    draw: Callable[[dict[str, Any]], str]


def svg(name: str, size: tuple[float, float], draw: Callable[[MatplotlibFigure], None]) -> str:
    """A figure of `size` inches as SVG, the same text whenever it is drawn of the same numbers; `name` is that of its file."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    output = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.size": 9, "font.family": "sans-serif"}):
        drawing = Figure(figsize=size, layout="constrained")
        FigureCanvasSVG(drawing)
        draw(drawing)
        drawing.savefig(output, format="svg", facecolor="white", metadata={"Date": None})
    return output.getvalue()


def print_or_write(pages: Sequence[str], make: Callable[[], str], written: Callable[[str], str]) -> None:
    """Print what `make` gives, or put it into the pages named, by `written`, which takes and gives a whole page."""
    if not pages:
        print(make())
    for path in map(Path, pages):
        path.write_text(written(path.read_text(encoding="utf-8")), encoding="utf-8")


def newest_result(folder: Path, kind: str) -> dict[str, Any] | None:
    """The newest `KIND-DATE-MACHINE.json`, None if there is none; later ones of a day end in -2, -3."""
    until_date = len(kind) + len("-2026-01-01")
    files = sorted(folder.glob(f"{kind}-*.json"), key=lambda path: (path.stem[:until_date], len(path.stem), path.stem))
    return json.loads(files[-1].read_text(encoding="utf-8")) if files else None


def tell_newest(section: Section, results: Path, text: Callable[[dict[str, Any] | None], str], drawing: Drawing) -> None:
    """Print what `text` makes of the newest result of the section's kind, or put it into the pages that the command names.

    Beside each page comes the figure.
    """
    record, pages = newest_result(results, section.name), sys.argv[1:]
    print_or_write(pages, lambda: text(record), lambda page: section.put(page, text(record)))
    for page in pages if record else []:
        assert record is not None
        Path(page).with_name(drawing.name).write_text(drawing.draw(record), encoding="utf-8")
