"""`tunesmith show`: what came of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from tunesmith.command import Command
from tunesmith.commands import _folder, _result
from tunesmith.reports.result import RunResult


@dataclass(kw_only=True)
class Show(Command):
    """Show what came of a run: metrics, cost, what it forgot, where things are."""

    name = "show"
    example = "tunesmith show runs/reviews-minilm-lora-1"

    folder: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run folder, or its name in ./runs."""
    json: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = False
    """Print everything as one JSON object on stdout."""

    def run(self) -> int:
        folder = _folder.find_run(self.folder)
        _result.show_result(RunResult.load(folder), folder, as_json=self.json)
        return 0
