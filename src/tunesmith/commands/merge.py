"""`tunesmith merge`: write an ordinary transformers model with the fine-tune in its weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from tunesmith.command import Command
from tunesmith.commands import _folder, _output
from tunesmith.commands._view import View


@dataclass(kw_only=True)
class Merge(Command):
    """Write a run as an ordinary transformers model, its change folded into the weights."""

    name = "merge"
    example = "tunesmith merge runs/reviews-minilm-lora-1 --out reviews-model"

    folder: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run folder, or its name in ./runs."""
    out: Annotated[str, tyro.conf.arg(metavar="DIR")]
    """Where to write the model; must not exist yet."""
    json: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = False
    """Print the result as one JSON object on stdout."""
    quiet: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = False
    """Show no progress, only warnings and the result."""

    def run(self) -> int:
        folder = _folder.find_run(self.folder)
        from tunesmith.runs import merge

        with View(quiet=self.quiet) as view:
            merge.merge(folder, Path(self.out), view)
        if self.json:
            _output.emit_json({"run": str(folder), "out": self.out})
        else:
            _output.say(f"The merged model is in {self.out}; any program that reads transformers models can load it.")
        return 0
