"""The text that a run ends with and that `tunesmith show` prints again."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from tunesmith.measure import Measure
from tunesmith.quantity import format_bytes, format_seconds
from tunesmith.reports import breakdown, usage, wording
from tunesmith.reports.escape import printable, shorten
from tunesmith.reports.result import RunResult
from tunesmith.reports.verdict import judge

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
    from rich.table import Table
    from rich.text import Text

_MAX_EXAMPLES = 4
_MAX_CELL_CHARACTERS = 160
_WIDEST = 1_000
_VERDICT_STYLES = {"better": "bold green", "worse": "bold red", "none found": "bold yellow", "not measured": "bold"}


def summarise(result: RunResult, folder: Path) -> Group:
    """The closing text of a run, for a rich console.

    No text in it is read as markup, and none holds a character that acts on a terminal.
    """
    from rich.console import Group

    verdict = judge(result)
    blocks: list[RenderableType] = [_title(result), _text(verdict.sentence, _VERDICT_STYLES[verdict.difference])]
    sections: tuple[tuple[str, list[RenderableType]], ...] = (
        ("Results", _results(result)),
        ("What it took", _filled(_costs(result))),
        ("Where a step's time and memory go", _profile(result)),
        ("What it forgot", [*_finding(result), *_filled(_forgotten(result))]),
        ("Before and after", _filled(_examples(result))),
        ("Warnings", _filled(_warnings(result))),
        ("Where it is", [*_places(folder)]),
        ("Next", [*_next(result, folder)]),
    )
    for title, body in sections:
        if body:
            blocks += [_text(""), _text(title, "bold"), *body]
    return Group(*blocks)


def summary_text(result: RunResult, folder: Path, width: int = 100) -> str:
    """The closing text of a run as plain lines of at most `width` characters, without colour."""
    from rich.console import Console

    console = Console(file=io.StringIO(), width=width, color_system=None, force_terminal=False, legacy_windows=False)
    text = "".join(segment.text for segment in console.render(summarise(result, folder)))
    return "\n".join(line.rstrip() for line in text.splitlines()) + "\n"


def _filled(table: Table) -> list[RenderableType]:
    """The table, if it has rows."""
    return [table] if table.row_count else []


def _text(text: str, style: str = "") -> Text:
    """Text that is shown as it is: no markup, no control characters."""
    from rich.text import Text

    return Text(printable(text), style=style)


def _cell(text: str, style: str = "") -> Text:
    """A cell of a table: one line of text, cut where it grows too long."""
    return _text(shorten(printable(text, multiline=False), _MAX_CELL_CHARACTERS), style)


def _title(result: RunResult) -> Text:
    """What was tuned on what, by which method."""
    method = result.method.get("name", "unknown method")
    return _text(printable(f"{result.model.name} on {result.data.name} by {method}: {result.status}", multiline=False), "dim")


class _Fitting:
    """The wide form of something where the terminal has room for it, else the narrow one."""

    def __init__(self, wide: Table, narrow: Table) -> None:
        self._wide, self._narrow = wide, narrow

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        needed = console.measure(self._wide, options=options.update(max_width=_WIDEST)).maximum
        yield self._wide if needed <= options.max_width else self._narrow


def _results(result: RunResult) -> list[RenderableType]:
    """All metrics of all stages with their intervals; nothing if nothing was measured."""
    wide, narrow = (_results_table(result, narrow=narrow) for narrow in (False, True))
    return [_Fitting(wide, narrow)] if wide.row_count else []


def _results_table(result: RunResult, *, narrow: bool) -> Table:
    """Values with their intervals beside them, or below them where it has to be narrow."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    stages = result.measured_stages
    metrics = list(dict.fromkeys(name for stage in stages for name in stage.metrics))
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column(_cell("model"))
    table.add_column(_cell("rows"))
    for name in metrics:
        title = wording.metric_wording(name).title
        table.add_column(_text(f"{title}\n95 % interval") if narrow else _cell(f"{title} (95 % interval)"), justify="right")
    tuned = judge(result).tuned
    for stage in stages:
        cells = [_measured(name, stage.metrics[name], narrow) if name in stage.metrics else "–" for name in metrics]
        style = "bold" if stage is tuned else ""
        titles = [_cell(text, style) for text in (stage.name, stage.split)]
        table.add_row(*titles, *[_text(text, style) for text in cells])
    return table


def _measured(name: str, measure: Measure, narrow: bool) -> str:
    """A measure with its interval, on one line or on two."""
    if not narrow:
        return wording.format_measure(name, measure)
    return "\n".join(filter(None, (wording.format_value(name, measure.value), wording.format_interval(name, measure))))


def _costs(result: RunResult) -> Table:
    """Trained share, memory, time and speed."""
    table = _facts()
    trained = f"{wording.trainable_share(result.model)} parameters" if result.was_started else "nothing: not started"
    table.add_row(_cell("trained"), _cell(trained))
    cost, progress = result.cost, result.progress
    if cost:
        seconds = f"{format_seconds(cost.train_seconds)} of training, {format_seconds(cost.total_seconds)} in all"
        table.add_row(_cell("peak memory"), _cell(format_bytes(cost.peak_memory_bytes)))
        table.add_row(_cell("time"), _cell(seconds))
        table.add_row(_cell("speed"), _cell(wording.tokens_per_second(cost)))
    if progress:
        best = f"kept: step {progress.best_step:,}, best by {wording.metric_wording(progress.best_metric).title}"
        steps = f"{progress.steps:,} of {progress.planned_steps:,}; {progress.stop_reason}"
        table.add_row(_cell("steps"), _cell(f"{steps}; {best if progress.best_step else 'not evaluated yet'}"))
    return table


def _profile(result: RunResult) -> list[RenderableType]:
    """The parts of a step with their time and speed, and what holds memory; nothing if it was not measured."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    if result.profile is None:
        return []
    times = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for number, title in enumerate(breakdown.TIME_COLUMNS):
        times.add_column(_cell(title), justify="right" if number else "left")
    for row in breakdown.time_rows(result.profile):
        times.add_row(*map(_cell, row))
    memory = _facts()
    for row in breakdown.memory_rows(result.profile, result.cost):
        memory.add_row(*map(_cell, row))
    return [_text(breakdown.heading(result.profile)), _text(""), times, _text(""), memory]


def _finding(result: RunResult) -> list[Text]:
    """What all gauges say together."""
    return [_text(printable(result.forgotten, multiline=False))] if result.forgotten else []


def _forgotten(result: RunResult) -> Table:
    """Every retention gauge with what it says."""
    table = _facts()
    for name, measure in result.retention.items():
        table.add_row(_cell(wording.title_of(name)), _cell(wording.format_measure(name, measure)))
        table.add_row(_cell(""), _cell(wording.gauge_explanation(name), "dim"))
    return table


def _examples(result: RunResult) -> Table:
    """A few held-out rows as the base model and as the tuned model answer them."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for title, ratio in (("row", 3), ("expected", 2), ("before", 2), ("after", 2)):
        table.add_column(_cell(title), max_width=18 * ratio)
    for example in result.examples[:_MAX_EXAMPLES]:
        texts = (example.prompt, example.expected, example.before or "(nothing)", example.after or "(nothing)")
        table.add_row(*[_cell(text) for text in texts])
    return table


def _warnings(result: RunResult) -> Table:
    """Everything the user was warned of."""
    table = _facts()
    for warning in result.warnings:
        table.add_row(_cell("!", "bold yellow"), _cell(warning))
    return table


def _places(folder: Path) -> list[Text]:
    """Where the report and the weights are."""
    trained, report = usage.trained_folder(folder), folder / usage.REPORT
    places = [(report, "report"), *([(trained, trained.name)] if trained else [])]
    return [_unbroken(f"{name:<12}  {printable(str(path), multiline=False)}") for path, name in places if path.exists()]


def _next(result: RunResult, folder: Path) -> list[Text]:
    """Commands to copy, with what they do as a comment of the shell."""
    commands = usage.next_commands(result, folder)
    longest = max(len(command.line) for command in commands)
    return [_unbroken(f"{command.line:<{longest}}  # {command.purpose}") for command in commands]


def _unbroken(line: str) -> Text:
    """A line that is never wrapped, so that it can be copied whole."""
    text = _text(line)
    text.no_wrap, text.overflow = True, "ignore"
    return text


def _facts() -> Table:
    """An empty table of two columns, indented."""
    from rich.table import Table

    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(min_width=12)
    table.add_column(overflow="fold")
    return table
