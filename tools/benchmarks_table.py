"""What the benchmarks measured, as tables and a figure made of benchmarks/results/*.json.

python tools/benchmarks_table.py docs/benchmarks.md    write the tables between the markers, and benchmarks.svg beside the page
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from section import Section, print_or_write, svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RESULTS = Path(__file__).resolve().parent.parent / "benchmarks" / "results"
FIGURE = "benchmarks.svg"
SECTION = Section("measured")
OURS, IN_EIGHT_BITS, PEER = "#0072b2", "#56b4e9", "#999999"
"""Two blues of Okabe and Ito, and grey."""
EIGHT_BITS = "tunesmith-8bit"
_WORTH_SAYING = 0.1
"""From here on a peer's rounding is told of; ours would have been refused (`benchmarks.agreement`)."""
Record = dict[str, Any]


def newest(folder: Path) -> list[Record]:
    """The newest result of each suite on each machine, the newest machine first; suites in the order of the table of suites.

    An older one of the same suite stays if it has contestants that no newer one has, such as all other peers.
    """
    from benchmarks.suites import SUITES

    found: list[Record] = []
    files = [(json.loads(path.read_text(encoding="utf-8")), path.stem) for path in folder.glob("*.json")]
    results = [(record, stem) for record, stem in files if "summaries" in record]
    by_age = sorted(results, key=lambda pair: (pair[0]["date"], len(pair[1]), pair[1]))  # later ones of a day end in -2, -3
    for record, _ in reversed(by_age):
        record.setdefault("suite", "lora")
        same = [newer for newer in found if (newer["machine"], newer["suite"]) == (record["machine"], record["suite"])]
        if not record["summaries"].keys() <= {name for newer in same for name in newer["summaries"]}:
            found.append(record)
    dates = {record["machine"]: max(r["date"] for r in found if r["machine"] == record["machine"]) for record in found}
    order = list(SUITES)
    known = [record for record in found if record["suite"] in order]
    by_suite = sorted(known, key=lambda record: order.index(record["suite"]))
    return sorted(by_suite, key=lambda record: dates[record["machine"]], reverse=True)


def section(records: list[Record]) -> str:
    """What stands between the markers: for each machine its suites, and the figure of the newest machine."""
    if not records:
        return "Not measured yet: `make bench` does it."
    parts = []
    for machine in dict.fromkeys(record["machine"] for record in records):
        own = [record for record in records if record["machine"] == machine]
        parts.append(f"### {_machine(own[0])}")
        if not parts[1:]:
            parts.append(f"![Speed and memory against the best peer, and the share of the limit, by suite.]({FIGURE})")
        parts += [
            _overview("**The same rows in every step, and weights of as many bits, for everyone**", own, _does_the_same),
            _overview("**Everyone at their best**", own, lambda name, summary: True),
            *(_suite(record) for record in own),
        ]
    return "\n\n".join(parts)


def _overview(title: str, records: list[Record], may_take_part: Callable[[str, Record], bool]) -> str:
    """For each suite the fastest peer and the fastest tunesmith of those that may take part."""
    lines = [
        f"{title}: the fastest peer of each suite, and tunesmith.",
        "",
        "| suite | peer | tokens/s | MB | tunesmith | tokens/s | MB | speed | memory |",
        "|---|---|--:|--:|---|--:|--:|--:|--:|",
    ]
    for record in _newest_of_each_suite(records):
        rivals = [pair for pair in record["summaries"].items() if may_take_part(*pair)]
        peers, ours = ([pair for pair in rivals if pair[0].startswith("tunesmith") is mine] for mine in (False, True))
        if peers and ours:
            best = [max(pairs, key=lambda pair: pair[1]["tokens_per_second"]) for pairs in (peers, ours)]
            cells = [cell for name, summary in best for cell in (name, _speed(summary), _megabytes(summary))]
            (_, theirs), (_, own) = best
            ratios = [f"{own[field] / theirs[field]:.2f} x" for field in ("tokens_per_second", "train_peak_bytes")]
            lines.append(f"| {' | '.join([record['suite'], *cells, *ratios])} |")
    return "\n".join(lines)


def _does_the_same(name: str, summary: Record) -> bool:
    """Whether a contestant's steps hold the rows of the reference, and its weights are no coarser."""
    return not _has_other_rows(summary) and name != EIGHT_BITS


def _has_other_rows(summary: Record) -> bool:
    gap = summary["loss_gap"]
    return gap is None or gap != gap


def _speed(summary: Record) -> str:
    return f"{summary['tokens_per_second']:,.0f}"


def _megabytes(summary: Record) -> str:
    return f"{summary['train_peak_bytes'] / 1e6:,.0f}"


def _newest_of_each_suite(records: list[Record]) -> list[Record]:
    return list({record["suite"]: record for record in reversed(records)}.values())[::-1]


def _machine(record: Record) -> str:
    facts = record["machine_facts"]
    flags = ", ".join(flag.upper() for flag in facts["flags"] if flag.startswith(("avx512_bf16", "amx")))
    return f"{facts['num_cores']} cores of {facts['processor']}{f' ({flags})' if flags else ''}"


def _suite(record: Record) -> str:
    """One suite: a sentence and a table."""
    about = record.get("about", {}).get("about", "LoRA on all linear layers of SmolLM2-135M, instructions")
    lines = [
        f"**{record['suite']}**: {about}. {record['num_rows']} timed rows, median of {record['num_repeats']} runs, "
        f"{record['date']}.",
        "",
        "| contestant | real tokens/s (smallest to largest) | peak MB above imports | speed | memory | largest loss gap |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    limit, gaps = record.get("limit"), record.get("check", {}).get("first_norm_gaps", {})
    facts = [f"tunesmith reaches {100 * limit['share']:.0f} % of what matrix products alone would allow here."] if limit else []
    facts += [
        f"In the number format that it is timed in, the first gradient of {name} is {100 * gap:.0f} % off in length."
        for name, gap in gaps.items()
        if gap > _WORTH_SAYING
    ]
    end = ["", " ".join(facts)] if facts else []
    return "\n".join([*lines, *(_row(name, record) for name in record["summaries"]), *end])


def _row(name: str, record: Record) -> str:
    """One contestant, with its ratios to tunesmith."""
    summary, ours = record["summaries"][name], _ours(record)
    noisy = f" (others kept {summary['most_other_cores']:.1f} cores busy)" if summary["most_other_cores"] > 0.1 else ""
    cells = (
        name,
        f"{_speed(summary)} ({summary['slowest_tokens_per_second']:,.0f} to "
        f"{summary['fastest_tokens_per_second']:,.0f}){noisy}",
        _megabytes(summary),
        f"{summary['tokens_per_second'] / ours['tokens_per_second']:.2f} x",
        f"{summary['train_peak_bytes'] / ours['train_peak_bytes']:.2f} x",
        "other rows a step" if _has_other_rows(summary) else f"{100 * summary['loss_gap']:.2f} %",
    )
    return f"| {' | '.join(cells)} |"


def _ours(record: Record) -> Record:
    return next(summary for name, summary in record["summaries"].items() if name.startswith("tunesmith"))


def figure(records: list[Record]) -> str:
    """An SVG of tunesmith's speed and memory against the best peer's, and of its share of the machine's limit.

    Of the newest machine the newest result of each suite.
    """
    own = _newest_of_each_suite([record for record in records if record["machine"] == records[0]["machine"]])

    def draw(drawing: Figure) -> None:
        speed, memory, limit = drawing.subplots(1, 3, sharey=True, width_ratios=(3, 3, 2))
        _bars(speed, own, "tokens_per_second", "times the best peer's tokens/s")
        _bars(memory, own, "train_peak_bytes", "times its memory (less is better)")
        _limits(limit, own)
        speed.invert_yaxis()  # the first suite on top; both share the axis
        drawing.legend(*speed.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8, frameon=False)

    return svg(FIGURE, (8.4, 1.1 + 0.5 * len(own)), draw)


def _bars(axes: Axes, records: list[Record], field: str, title: str) -> None:
    """For each suite a bar of tunesmith as it comes, and below it one over a base in eight bits where that was measured."""
    most = 1.0
    for label, color, shift in (("tunesmith", OURS, -0.2), ("tunesmith --base-bits 8", IN_EIGHT_BITS, 0.2)):
        names = [EIGHT_BITS if color == IN_EIGHT_BITS else _as_it_comes(record) for record in records]
        found = {
            place + shift: _against_best_peer(record, name, field)
            for place, (record, name) in enumerate(zip(records, names, strict=True))
            if name in record["summaries"]
        }
        bars = axes.barh(list(found), list(found.values()), color=color, height=0.36, label=label)
        axes.bar_label(bars, labels=[f"{value:.2f}" for value in found.values()], padding=3, fontsize=8)
        most = max(most, *found.values(), most)
    axes.set_yticks(range(len(records)), [record["suite"] for record in records])
    axes.axvline(1, color=PEER, linewidth=1)
    axes.set_xlim(0, 1.18 * most)
    axes.set_title(title, loc="left", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)


def _limits(axes: Axes, records: list[Record]) -> None:
    """For each suite how near tunesmith comes to what matrix products alone would allow, in the format that it is timed in."""
    found = {place: 100 * record["limit"]["share"] for place, record in enumerate(records) if record.get("limit")}
    bars = axes.barh(list(found), list(found.values()), color=OURS, height=0.36)
    axes.bar_label(bars, labels=[f"{value:.0f}" for value in found.values()], padding=3, fontsize=8)
    axes.axvline(100, color=PEER, linewidth=1)
    axes.set_xlim(0, 118)
    axes.set_title("% of the limit", loc="left", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)


def _as_it_comes(record: Record) -> str:
    return next(name for name in record["summaries"] if name.startswith("tunesmith") and name != EIGHT_BITS)


def _against_best_peer(record: Record, name: str, field: str) -> float:
    peers = [summary for other, summary in record["summaries"].items() if not other.startswith("tunesmith")]
    best = max(peers, key=lambda summary: summary["tokens_per_second"])
    return record["summaries"][name][field] / best[field]


def main() -> None:
    """Print the section, or write it into the pages named, with the figure beside each."""
    sys.path.insert(0, str(RESULTS.parent.parent))
    records, pages = newest(RESULTS), sys.argv[1:]
    print_or_write(pages, lambda: section(records), lambda page: SECTION.put(page, section(records)))
    for page in pages if records else []:
        Path(page).with_name(FIGURE).write_text(figure(records), encoding="utf-8")


if __name__ == "__main__":
    main()
