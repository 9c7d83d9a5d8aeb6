"""What every method learnt from the starter tasks, as tables and a figure made of benchmarks/results/learning.json.

python tools/learning_table.py docs/methods.md    write the table between the markers, and learning.svg beside the page
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from section import Section
from tunesmith.planning import catalogue
from tunesmith.quantity import format_bytes, format_seconds

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RESULTS = Path(__file__).resolve().parent.parent / "benchmarks" / "results" / "learning.json"
FIGURE = "learning.svg"
SECTION = Section("learnt")
REFERENCE = 0.801
"""Accuracy of TF-IDF with logistic regression on the film reviews: what needs no pre-trained model."""
TITLES = {"reviews": "Film reviews: accuracy", "instructions": "Instructions: perplexity (less is better)"}
MERGES, STAYS = "#0072b2", "#d55e00"
"""Blue and vermilion of Okabe and Ito, which colour-blind readers tell apart; the marker's form says the same."""
Record = dict[str, Any]


def by_task(records: list[Record]) -> dict[str, list[Record]]:
    """The records of each task, in the order of the catalogue; what the catalogue does not have any more is left out."""
    order = [entry.name for entry in catalogue.entries()]
    known = sorted((r for r in records if r["method"] in order), key=lambda record: order.index(record["method"]))
    return {task: found for task in TITLES if (found := [record for record in known if record["task"] == task])}


def section(records: list[Record]) -> str:
    """What stands between the markers: for each task how it was measured and a table, then the figure."""
    tasks = by_task(records)
    if not tasks:
        return "Not measured yet: `make learning` does it."
    parts = [f"### {TITLES[task]}\n\n{_how(found)}\n\n{_table(found)}" for task, found in tasks.items()]
    names = " and ".join(TITLES[task] for task in tasks)
    return "\n\n".join([*parts, f"![Trainable share of the weights against quality. {names}.]({FIGURE})"])


def written(text: str, records: list[Record]) -> str:
    """`text` with what stands between the markers replaced by the section.

    Raises:
        ValueError: If a marker is missing.
    """
    return SECTION.put(text, section(records))


def _how(records: list[Record]) -> str:
    """How the runs of one task were done, in words."""
    first = records[0]
    settings = first["settings"]
    command = " ".join(["tunesmith fit", settings["data"], "--model", settings["model"], *settings["arguments"]])
    dates = sorted({record["date"] for record in records})
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    machine = first["machine_facts"]
    where = f"{machine['processor']}, {settings['num_threads']} threads"
    lines = [
        f"`{command} --method NAME`, every run in a process of its own, {when}, on {where}.",
        f"Every method at its own default learning rate; {first['num_training_rows']:,} rows to learn from, "
        f"{_rows(first)} held out and measured before and after; 95 % intervals in brackets. One seed.",
    ]
    if first["task"] == "reviews":
        lines.append(f"TF-IDF with logistic regression reaches {REFERENCE:.1%} there; what stays below is marked.")
    return "\n".join(lines)


def _rows(record: Record) -> str:
    count = record["after"].get("count")
    return "rows that were" if count is None else f"{count:,} rows"


def _table(records: list[Record]) -> str:
    head = "| method | learns | rate | steps | before | after | training | peak memory |\n|---|--:|--:|--:|--:|--:|--:|--:|"
    return "\n".join([head, *(_row(record) for record in records)])


def _row(record: Record) -> str:
    """One method's line; a run that others disturbed says so at its time."""
    after = f"{_measure(record['metric'], record['after'])}{_below(record)}"
    busy = f" ({record['other_cores']:.1f} cores busy with other work)" if record["other_cores"] > 0.1 else ""
    cells = (
        record["method"],
        f"{record['trainable_share'] * 100:.3g}%",
        f"{record['learning_rate']:g}",
        f"{record['num_steps']:,}",
        _value(record["metric"], record["before"]["value"]),
        after,
        f"{format_seconds(record['train_seconds'])}{busy}",
        format_bytes(record["peak_memory_bytes"]),
    )
    return f"| {' | '.join(cells)} |"


def _below(record: Record) -> str:
    """By how much a method stays below the reference, if it does."""
    missing = REFERENCE - record["after"]["value"]
    return f", **{missing * 100:.1f} points below**" if record["task"] == "reviews" and missing > 0 else ""


def _value(metric: str, value: float) -> str:
    return f"{value:.1%}" if metric == "accuracy" else f"{value:.2f}"


def _measure(metric: str, measure: dict[str, float | None]) -> str:
    """A value with its interval, if it has one."""
    value, low, high = measure["value"], measure.get("low"), measure.get("high")
    assert value is not None
    if low is None or high is None:
        return _value(metric, value)
    return f"{_value(metric, value)} ({_value(metric, low)} to {_value(metric, high)})"


def figure(records: list[Record]) -> str:
    """An SVG of the share of the weights that learns, against quality, one panel for each task."""
    import io

    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    tasks, output = by_task(records), io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": FIGURE, "font.size": 9, "font.family": "sans-serif"}):
        drawing = Figure(figsize=(6.6, 4.6 * len(tasks)), layout="constrained")
        FigureCanvasSVG(drawing)
        for axes, (task, found) in zip(drawing.subplots(len(tasks), squeeze=False)[:, 0], tasks.items(), strict=True):
            _panel(axes, task, found)
        drawing.savefig(output, format="svg", facecolor="white", metadata={"Date": None})
    return output.getvalue()


def _panel(axes: Axes, task: str, records: list[Record]) -> None:
    """One task: a point with its interval for each method, named in a column on the right."""
    merges = {entry.name: entry.mergeable for entry in catalogue.entries()}
    factor = 100 if records[0]["metric"] == "accuracy" else 1
    for is_merged, colour, form, label in ((True, MERGES, "o", "merges into the base"), (False, STAYS, "s", "does not merge")):
        chosen = [record for record in records if merges[record["method"]] == is_merged]
        for record in chosen:
            axes.errorbar(*_point(record, factor), yerr=_interval(record, factor), color=colour, linewidth=0.8)
        shares, values = zip(*(_point(record, factor) for record in chosen), strict=True) if chosen else ((), ())
        axes.scatter(shares, values, color=colour, marker=form, s=26, zorder=3, label=label)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("share of the weights that learns, %")
    axes.set_title(TITLES[task] + (", %" if factor == 100 else ""), loc="left", fontsize=10, pad=24)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    _references(axes, records[0], factor)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False, fontsize=8, borderaxespad=0.2)
    _names(axes, records, factor)


def _references(axes: Axes, record: Record, factor: int) -> None:
    """Lines of what the base model gives and of what needs no pre-trained model."""
    if record["task"] == "reviews":
        axes.axhline(REFERENCE * factor, color="#333333", linewidth=1, linestyle="--", label="TF-IDF + logistic regression")
    else:
        axes.axhline(record["before"]["value"], color="#333333", linewidth=1, linestyle=":", label="base model")


def _names(axes: Axes, records: list[Record], factor: int) -> None:
    """The methods' names in a column right of the axes, in the order of their points and apart, with a line to each point."""
    ordered = sorted(records, key=lambda record: record["after"]["value"])
    low, high = axes.get_ylim()
    wanted = [(record["after"]["value"] * factor - low) / (high - low) for record in ordered]
    for record, height in zip(ordered, spread(wanted, 1 / 18), strict=True):
        axes.annotate(
            record["method"],
            xy=_point(record, factor),
            xytext=(1.04, height),
            textcoords="axes fraction",
            verticalalignment="center",
            fontsize=8,
            arrowprops={"arrowstyle": "-", "color": "#999999", "linewidth": 0.5, "relpos": (0, 0.5), "shrinkB": 3},
        )


def spread(heights: list[float], gap: float) -> list[float]:
    """Ascending heights moved apart to at least `gap`, within 0 to 1 as far as there is room."""
    placed: list[float] = []
    for height in heights:
        placed.append(max(height, placed[-1] + gap) if placed else max(height, 0.0))
    ceiling = max(1.0, gap * (len(placed) - 1))
    for index in reversed(range(len(placed))):
        placed[index] = min(placed[index], ceiling)
        ceiling = placed[index] - gap
    return placed


def _point(record: Record, factor: int) -> tuple[float, float]:
    return record["trainable_share"] * 100, record["after"]["value"] * factor


def _interval(record: Record, factor: int) -> list[list[float]] | None:
    """Distances to the ends of the interval, as matplotlib wants them."""
    value, low, high = (record["after"].get(name) for name in ("value", "low", "high"))
    return None if low is None or high is None else [[(value - low) * factor], [(high - value) * factor]]


def measured() -> list[Record]:
    """The records of the benchmark, none where it has not been run."""
    return json.loads(RESULTS.read_text(encoding="utf-8"))["runs"] if RESULTS.exists() else []


def main(arguments: list[str]) -> None:
    """Print the section, or write it into the files named, each with the figure beside it."""
    records = measured()
    if not arguments:
        print(section(records))
    for name in arguments:
        path = Path(name)
        path.write_text(written(path.read_text(encoding="utf-8"), records), encoding="utf-8")
        if by_task(records):
            (path.parent / FIGURE).write_text(figure(records), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
