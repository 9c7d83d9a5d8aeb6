"""`tunesmith fit`: from a data file to an evaluated, saved, explained fine-tune."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from tunesmith import collector
from tunesmith.command import Command
from tunesmith.commands import _result
from tunesmith.commands._flags import DataFlags, MainFlags, OptionalText, Texts, TrainingFlags, tree
from tunesmith.commands._view import View
from tunesmith.errors import InputError
from tunesmith.runs import layers, naming
from tunesmith.settings import FitSettings


@dataclass(kw_only=True)
class Fit(Command):
    """Fine-tune a model on your data, evaluate, save and report.

    DATA is one or more .jsonl .json .csv .tsv .parquet .txt files (also .gz), a folder, a hub id or starter:NAME.
    Settings come from a preset, then a TOML file (--config), then flags; the later one wins.
    """

    name = "fit"
    example = "tunesmith fit reviews.csv --model starter:minilm --epochs 2"

    files: Annotated[Texts, tyro.conf.Positional, tyro.conf.arg(metavar="DATA...", help_behavior_hint="")] = ()
    """The rows to learn from; several files are one data set."""
    main: Annotated[MainFlags, tyro.conf.OmitArgPrefixes] = field(default_factory=MainFlags)
    """Model, task, method and run folder."""
    data: Annotated[DataFlags, tyro.conf.OmitArgPrefixes] = field(default_factory=DataFlags)
    """Which rows, and how to read and split them."""
    training: Annotated[TrainingFlags, tyro.conf.OmitArgPrefixes] = field(default_factory=TrainingFlags)
    """How long, how fast and how exactly to train."""
    config: Annotated[OptionalText, tyro.conf.arg(metavar="FILE.toml", help_behavior_hint="")] = None
    """Settings from a TOML file with the tables [data], [training] and [method]."""
    preset: Annotated[OptionalText, tyro.conf.arg(metavar="NAME", help_behavior_hint="")] = None
    """Settings that come with tunesmith, by name."""
    dry_run: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = False
    """Show settings, the first rows as trained, and the predicted steps and time; train nothing."""
    profile: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = False
    """Show where the time and memory of a training step go, and how near the machine's limit it computes."""
    json: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = False
    """Print the result as one JSON object on stdout."""
    quiet: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = False
    """Show no progress, only warnings and the result."""
    method_settings: dict[str, object] = field(init=False, default_factory=dict)
    """What was given as --method.NAME VALUE."""

    def run(self) -> int:
        if self.dry_run and self.profile:
            raise InputError("--dry-run trains no step that --profile could measure. Leave one of the two out.")
        chosen = self.settings()
        with collector.paused():
            from tunesmith.runs import fit

        if self.dry_run:
            with View(quiet=self.quiet) as view:
                rehearsal = fit.rehearse(chosen, view)
            _result.show_rehearsal(rehearsal, as_json=self.json, described=not self.quiet)
            return 0
        with View(quiet=self.quiet) as view:
            result = fit.fit(chosen, view, profile=self.profile)
        _result.show_result(result, Path(chosen.out or ""), as_json=self.json)
        return 0

    def settings(self) -> FitSettings:
        """The settings of the run, all layers together, with a run folder.

        Raises:
            InputError: If one is wrong, or there is no data or no model.
        """
        main = tree(self.main)
        named = {"name": main.pop("method")} if "method" in main else {}
        method = {"method": {**named, **self.method_settings}} if named or self.method_settings else {}
        files = {"data": self.files} if self.files else {}
        given = {**main, **method, "data": {**tree(self.data), **files}, "training": tree(self.training)}
        chosen = layers.resolve(given, config=self.config, preset=self.preset)
        if not chosen.data.data:
            raise InputError(f"No data was given. Name one or more files, for example: {self.example}")
        if not chosen.model:
            raise InputError(
                f"No model was given. Add --model with a hub id, folder, .gguf file or starter:NAME: {self.example}"
            )
        return chosen if chosen.out else dataclasses.replace(chosen, out=naming.new_run(chosen))
