"""Where the time of a step goes, as a table and a figure made of the newest benchmarks/results/step-*.json.

python tools/step_table.py docs/benchmarks.md    write the table between the markers, and step.svg beside the page
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from section import Drawing, Section, svg, tell_newest

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RESULTS = Path(__file__).resolve().parent.parent / "benchmarks" / "results"
FIGURE = "step.svg"
SECTION = Section("step")
COLORS = {"forward": "#0072b2", "head": "#e69f00", "backward": "#56b4e9", "optimizer": "#009e73", "rest": "#999999"}
"""Of Okabe and Ito; the rest is data, and waiting for the slower process."""
Record = dict[str, Any]


def section(record: Record | None) -> str:
    """What stands between the markers."""
    if record is None:
        return "Not measured yet: `python -m benchmarks.step` does it."
    facts = record["machine_facts"]
    about = (
        f"`tunesmith fit --profile`, the step of median speed; {facts['num_cores']} cores of {facts['processor']}, "
        f"{record['date']}. *Products alone* is how long the step's matrix products would take at the rate that this machine "
        "reaches in the largest of them, in bfloat16 where that is faster."
    )
    lines = [
        f"| | microseconds a token | {' | '.join(COLORS)} | products alone |",
        f"|---|--:|{'--:|' * len(COLORS)}--:|",
        *(_row(work) for work in record["work"].values()),
    ]
    return "\n\n".join([about, f"![Shares of the parts of a training step.]({FIGURE})", "\n".join(lines)])


def shares(profile: Record) -> dict[str, float]:
    """Of each part in the seconds of the step."""
    seconds = dict.fromkeys(COLORS, 0.0)
    for part in profile["parts"]:
        seconds[part["name"] if part["name"] in seconds else "rest"] += part["seconds"]
    whole = sum(seconds.values())
    return {name: one / whole for name, one in seconds.items()}


def products_alone(profile: Record) -> float:
    """Share of the step that its products would take at the machine's limit."""
    flop = sum(part["flop"] for part in profile["parts"])
    return flop / profile["limit_flop_per_second"] / _seconds(profile)


def _seconds(profile: Record) -> float:
    return sum(part["seconds"] for part in profile["parts"])


def _row(work: Record) -> str:
    profile = work["profile"]
    noisy = f" (others kept {work['other_cores']:.1f} cores busy)" if work["other_cores"] > 0.1 else ""
    parts = " | ".join(f"{100 * share:.1f} %" for share in shares(profile).values())
    per_token = 1e6 * _seconds(profile) / profile["num_tokens"]
    return f"| {work['about']} | {per_token:,.0f}{noisy} | {parts} | {100 * products_alone(profile):.0f} % |"


def figure(record: Record) -> str:
    """An SVG with a bar for each work, of the shares of its parts, and a mark at what products alone would take."""
    works = list(record["work"].values())
    places = range(len(works))

    def draw(drawing: Figure) -> None:
        axes = drawing.subplots()
        left = [0.0] * len(works)
        for name, color in COLORS.items():
            widths = [100 * shares(work["profile"])[name] for work in works]
            axes.barh(places, widths, left=left, color=color, height=0.6, label=name)
            left = [start + width for start, width in zip(left, widths, strict=True)]
        limits = [100 * products_alone(work["profile"]) for work in works]
        axes.scatter(limits, places, marker="|", s=260, color="black", linewidth=2, label="products alone", zorder=3)
        axes.set_yticks(places, [work["about"] for work in works])
        axes.invert_yaxis()
        axes.set_xlim(0, max(101, *limits))
        axes.set_xlabel("% of a step's time")
        axes.spines[["top", "right"]].set_visible(False)
        drawing.legend(loc="outside lower center", ncols=len(COLORS) + 1, fontsize=8, frameon=False)

    return svg(FIGURE, (7.0, 1.2 + 0.42 * len(works)), draw)


def main() -> None:
    """Print the section, or write it into the pages named, with the figure beside each."""
    tell_newest(SECTION, RESULTS, section, Drawing(FIGURE, figure))


if __name__ == "__main__":
    main()
