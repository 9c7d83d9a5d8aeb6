"""`tunesmith resume`: go on with a run that was interrupted, to bitwise the same weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from tunesmith import collector
from tunesmith.command import Command
from tunesmith.commands import _folder, _result
from tunesmith.commands._view import View


@dataclass(kw_only=True)
class Resume(Command):
    """Go on with an interrupted run from its last good checkpoint.

    Settings and data are those of the run; the weights become bitwise those of a run that was never interrupted.
    """

    name = "resume"
    example = "tunesmith resume runs/reviews-minilm-lora-1"

    folder: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run folder, or its name in ./runs."""
    json: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = False
    """Print the result as one JSON object on stdout."""
    quiet: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = False
    """Show no progress, only warnings and the result."""

    def run(self) -> int:
        folder = _folder.find_run(self.folder)
        with collector.paused():
            from tunesmith.runs import resume

        with View(quiet=self.quiet) as view:
            result = resume.resume(folder, view)
        _result.show_result(result, folder, as_json=self.json)
        return 0
