"""`tunesmith merge`: write an ordinary transformers model with the fine-tune in its weights."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from tunesmith import collector, settings
from tunesmith.command import Command
from tunesmith.commands import _folder, _output
from tunesmith.commands._flags import OptionalText
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
    rows: Annotated[OptionalText, tyro.conf.arg(metavar="DATA", help_behavior_hint="")] = None
    """Rows to compare the merged model with a quantised run on, instead of those that the run held out."""
    max_divergence: Annotated[OptionalText, tyro.conf.arg(metavar="NUMBER", help_behavior_hint="Default: 0.001.")] = None
    """Most that the predictions of the two may differ, in nats (KL); above it nothing is written."""
    json: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = False
    """Print the result as one JSON object on stdout."""
    quiet: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = False
    """Show no progress, only warnings and the result."""

    def run(self) -> int:
        folder, limit = _folder.find_run(self.folder), self._limit()
        with collector.paused():
            from tunesmith.runs import merge

        with View(quiet=self.quiet) as view:
            found = merge.merge(folder, Path(self.out), view, rows=(self.rows,) if self.rows else (), max_divergence=limit)
        if self.json:
            compared = {} if found is None else {"compared_with_run": dataclasses.asdict(found)}
            _output.emit_json({"run": str(folder), "out": self.out, **compared})
        else:
            if found is not None:
                _output.say(f"Compared with the run: {found}.")
            _output.say(f"The merged model is in {self.out}; any program that reads transformers models can load it.")
        return 0

    def _limit(self) -> float | None:
        """The given limit, None if there is none.

        Raises:
            SettingsError: If it is no number, or negative.
        """
        if self.max_divergence is None:
            return None
        value = settings.check_value(self.max_divergence, settings.NotNegative, "--max-divergence", from_text=True)
        assert isinstance(value, float)
        return value
