"""`tunesmith evaluate`: measure a finished run on other data."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated

import tyro

from tunesmith import collector
from tunesmith.command import Command
from tunesmith.commands import _folder, _output, _result
from tunesmith.commands._flags import Texts
from tunesmith.commands._view import View
from tunesmith.errors import InputError


@dataclass(kw_only=True)
class Evaluate(Command):
    """Measure a finished run on other data, with 95 % intervals."""

    name = "evaluate"
    example = "tunesmith evaluate runs/reviews-minilm-lora-1 new-reviews.csv"

    folder: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run folder, or its name in ./runs."""
    data: Annotated[Texts, tyro.conf.Positional, tyro.conf.arg(metavar="DATA...", help_behavior_hint="(required)")] = ()
    """Rows of the same shape as the run was trained on: files, folders, hub id or starter:NAME."""
    json: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = False
    """Print the result as one JSON object on stdout."""
    quiet: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = False
    """Show no progress, only warnings and the result."""

    def run(self) -> int:
        if not self.data:
            raise InputError(f"No data was given. Name one or more files, for example: {self.example}")
        folder = _folder.find_run(self.folder)
        with collector.paused():
            from tunesmith.runs import evaluate

        with View(quiet=self.quiet) as view:
            found = evaluate.evaluate(folder, self.data, view)
        if self.json:
            stages = [dataclasses.asdict(stage) for stage in found.stages]
            how = {"description": found.description, "warnings": found.warnings}
            _output.emit_json({"run": str(folder), "data": self.data, **how, "stages": stages})
        else:
            _output.show(_result.stages_table(found.stages))
        return 0
