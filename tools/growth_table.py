"""How time and memory of a step grow, as tables and a figure made of the newest benchmarks/results/growth-*.json.

python tools/growth_table.py docs/benchmarks.md    write the tables between the markers, and growth.svg beside the page
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any

from section import Drawing, Section, svg, tell_newest

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RESULTS = Path(__file__).resolve().parent.parent / "benchmarks" / "results"
FIGURE = "growth.svg"
SECTION = Section("growth")
TIME, MEMORY = "#0072b2", "#d55e00"
"""Blue and vermilion of Okabe and Ito."""
ALONG = {"rows": "rows", "length": "length", "vocabulary": "vocabulary"}
"""What grows along each series, by its name in a point."""
ABOUT = {
    "rows": "rows of 128 tokens a step",
    "length": "tokens a row, 4,096 tokens a step",
    "vocabulary": "tokens in the vocabulary, 16 rows of 128",
}
Record = dict[str, Any]
Point = dict[str, Any]


def section(record: Record | None) -> str:
    """What stands between the markers."""
    if record is None:
        return "Not measured yet: `python -m benchmarks.growth` does it."
    facts = record["machine_facts"]
    about = (
        f"LoRA of rank 16 on all linear layers of a small Llama (8 layers of 256), half of the tokens labelled; "
        f"{facts['num_cores']} cores of {facts['processor']}, {record['date']}. "
        "Memory is what a step takes besides the model, all processes together."
    )
    tables = [_table(name, points) for name, points in record["series"].items()]
    return "\n\n".join([about, f"![Time per token and memory of a step along each series.]({FIGURE})", *tables])


def microseconds(point: Point) -> float:
    """Per token of the median step."""
    return 1e6 * statistics.median(point["step_seconds"]) / (point["point"]["rows"] * point["point"]["length"])


def _table(name: str, points: list[Point]) -> str:
    lines = [f"| {ABOUT[name]} | microseconds a token | MB a step |", "|--:|--:|--:|"]
    for point in points:
        noisy = f" (others kept {point['other_cores']:.1f} cores busy)" if point["other_cores"] > 0.1 else ""
        lines.append(
            f"| {point['point'][ALONG[name]]:,} | {microseconds(point):.0f}{noisy} | {point['step_bytes'] / 1e6:,.0f} |"
        )
    return "\n".join(lines)


def figure(record: Record) -> str:
    """An SVG with a panel for each series: time per token, and the memory of a step beside it."""

    def draw(drawing: Figure) -> None:
        upper, lower = drawing.subplots(2, len(record["series"]), sharex="col", sharey="row", squeeze=False)
        for above, below, (name, points) in zip(upper, lower, record["series"].items(), strict=True):
            places = [point["point"][ALONG[name]] for point in points]
            above.plot(places, [microseconds(point) for point in points], "o-", color=TIME, markersize=3)
            below.plot(places, [point["step_bytes"] / 1e6 for point in points], "o-", color=MEMORY, markersize=3)
            above.set_title(name, loc="left", fontsize=9)
            below.set_xscale("log", base=2)
            below.set_xticks(places, [f"{place // 1024}k" if place >= 1024 else str(place) for place in places])
            for axes in (above, below):
                axes.spines[["top", "right"]].set_visible(False)
        for first in (upper[0], lower[0]):
            first.set_ylim(bottom=0)  # once all is drawn: the panels of a line share it
        upper[0].set_ylabel("microseconds a token")
        lower[0].set_ylabel("MB a step")

    return svg(FIGURE, (7.4, 3.6), draw)


def main() -> None:
    """Print the section, or write it into the pages named, with the figure beside each."""
    tell_newest(SECTION, RESULTS, section, Drawing(FIGURE, figure))


if __name__ == "__main__":
    main()
