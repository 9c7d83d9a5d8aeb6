"""`tunesmith runs`: all runs of a folder, one line each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from tunesmith.command import Command
from tunesmith.commands import _folder, _output
from tunesmith.errors import RunError
from tunesmith.reports.result import RunResult

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(kw_only=True)
class Runs(Command):
    """List the runs in ./runs or another folder."""

    name = "runs"
    example = "tunesmith runs"

    parent: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="[DIR]", help_behavior_hint="Default: runs.")] = "runs"
    """Folder that holds run folders."""
    json: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = False
    """Print the list as one JSON object on stdout."""

    def run(self) -> int:
        if self.parent != "runs" and not Path(self.parent).is_dir():
            raise RunError(f"There is no folder {self.parent!r}.")
        rows = [_row(folder) for folder in _folder.run_folders(Path(self.parent))]
        if self.json:
            _output.emit_json({"runs": rows})
        elif not rows:
            _output.say(f"No runs in {self.parent} yet. `tunesmith fit --help` shows how to make one.")
        else:
            _output.show(_table(rows))
            _say_how_to_go_on([row["resume"] for row in rows if "resume" in row])
        return 0


def _row(folder: Path) -> dict[str, str]:
    """What the list says of one run; a damaged one says so instead of hiding the others."""
    from tunesmith.reports.usage import resume_command
    from tunesmith.reports.verdict import judge
    from tunesmith.reports.wording import format_measure, metric_wording

    try:
        result = RunResult.load(folder)
    except RunError as error:
        return {"run": str(folder), "status": "damaged", "error": str(error)}
    verdict = judge(result)
    shown = ""
    if verdict.metric and verdict.tuned:
        shown = (
            f"{metric_wording(verdict.metric).title} {format_measure(verdict.metric, verdict.tuned.metrics[verdict.metric])}"
        )
    method = str(result.method.get("name", ""))
    facts = {"run": str(folder), "status": result.status, "created": result.created, "task": result.task}
    row = {**facts, "model": result.model.name, "data": result.data.name, "method": method, "result": shown}
    resume = resume_command(result, folder)
    return row | ({"resume": resume.line} if resume else {})


def _say_how_to_go_on(commands: list[str]) -> None:
    """Commands to copy, below the table, whose cells would break them."""
    if commands:
        _output.say("\nGo on with:")
    for command in commands:
        _output.say(f"  {command}")


def _table(rows: list[dict[str, str]]) -> Table:
    """The list as a table."""
    from rich.table import Table

    columns = ("run", "status", "task", "model", "method", "result")
    table = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(_output.clean(row.get(column, "")) for column in columns))
    return table
