"""Shows what came of a run, and what a run would do."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tunesmith.commands import _output
from tunesmith.quantity import format_bytes, format_seconds
from tunesmith.reports.result import RunResult, Stage
from tunesmith.watch import Rehearsal, RehearsedRow

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

OPEN, CLOSE = "⟦", "⟧"


def show_result(result: RunResult, folder: Path, *, as_json: bool) -> None:
    """Print a run's results: as one JSON object, or as the summary to read."""
    if as_json:
        from tunesmith.reports import usage

        following = [command.line for command in usage.next_commands(result, folder)]
        _output.emit_json({"run": str(folder), **dataclasses.asdict(result), "next": following})
        return
    from tunesmith.reports import summary

    _output.show(summary.summarise(result, folder))


def stages_table(stages: Sequence[Stage]) -> Table:
    """Metrics with their 95 % intervals, one line for each."""
    from rich.table import Table

    from tunesmith.reports.wording import format_interval, format_value, metric_wording

    table = Table("", "measured on", "metric", "value", "95 % interval", box=None, pad_edge=False)
    for stage in stages:
        for name, measure in stage.metrics.items():
            count = f"{stage.split}, {measure.count:,} rows" if measure.count else stage.split
            value, interval = format_value(name, measure.value), format_interval(name, measure)
            table.add_row(*map(_output.clean, (stage.name, count, metric_wording(name).title, value, interval)))
    return table


def show_rehearsal(rehearsal: Rehearsal, *, as_json: bool, described: bool = False) -> None:
    """Print what a run would do: settings, first rows as trained, steps and time.

    Args:
        rehearsal: What the run would do.
        as_json: As one JSON object.
        described: Whether what was found in the data has been said already, on stderr.
    """
    if as_json:
        _output.emit_json(dataclasses.asdict(rehearsal))
        return
    colour = bool(_output.console().color_system) and not _output.console().no_color
    lines = [f"{key} = {value}" for key, value in flat(rehearsal.settings).items()]
    _output.show("Settings", *(f"  {line}" for line in lines), "")
    if not described:
        _output.show(*rehearsal.description, "")
    mark = "in colour" if colour else f"between {OPEN} and {CLOSE}"
    _output.show(f"First rows exactly as trained (the loss is on what is {mark}):")
    for number, row in enumerate(rehearsal.rows, 1):
        _output.show("", row_text(row, number, colour=colour))
    _output.show("", *_prediction(rehearsal), "Nothing was trained. Leave out --dry-run to start.")


def flat(tree: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """A nested tree with dotted keys; what is not set is left out."""
    found: dict[str, object] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        elif value is not None:
            found[f"{prefix}{key}"] = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else value
    return found


def row_text(row: RehearsedRow, number: int, *, colour: bool) -> Text:
    """One row with its loss tokens in colour, or between marks where there is no colour."""
    from rich.text import Text

    count = "1 token" if len(row.tokens) == 1 else f"{len(row.tokens)} tokens"
    what = f"loss on {sum(row.learnt)}" if row.label is None else "to be given its label"
    text = Text(f"row {number}, {count}, {what}: ", style="dim" if colour else "")
    before = False
    for token, learnt in zip([*row.tokens, ""], [*row.learnt, False], strict=True):
        if learnt != before and not colour:
            text.append(OPEN if learnt else CLOSE)
        text.append(_output.clean(token), style="not dim bold green" if learnt and colour else "not dim" if colour else "")
        before = learnt
    if row.label is not None:
        label = _output.clean(row.label)
        text.append(" -> ", style="not dim" if colour else "")
        text.append(label if colour else f"{OPEN}{label}{CLOSE}", style="not dim bold green" if colour else "")
    return text


def _prediction(rehearsal: Rehearsal) -> list[str]:
    """What the run is expected to take."""
    parts = [f"{rehearsal.num_steps:,} steps"]
    if rehearsal.predicted_seconds is not None:
        parts.append(f"about {format_seconds(rehearsal.predicted_seconds)}")
    if rehearsal.predicted_memory_bytes is not None:
        parts.append(f"about {format_bytes(rehearsal.predicted_memory_bytes)} of memory")
    return [f"Predicted: {', '.join(parts)}."]
