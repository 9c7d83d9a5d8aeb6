"""`tunesmith methods`: what there is to choose from, and what each comes to in a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import tyro

from tunesmith.command import Command
from tunesmith.commands import _methods, _output
from tunesmith.commands._flags import OptionalText
from tunesmith.commands._methods import Choice
from tunesmith.commands._view import View
from tunesmith.planning import catalogue
from tunesmith.planning.catalogue import Entry

if TYPE_CHECKING:
    from tunesmith.errors import InputError
    from tunesmith.planning.parameters import Count


@dataclass(kw_only=True)
class Methods(Command):
    """List the methods and presets, or explain one; with --model count what they train.

    The model needs no weights: a folder with a config.json is enough.
    """

    name = "methods"
    example = "tunesmith methods --model starter:smollm2"

    method: Annotated[OptionalText, tyro.conf.Positional, tyro.conf.arg(metavar="[NAME]", help_behavior_hint="")] = None
    """Explain this method or preset: equation, cost, settings. Default: list all."""
    model: Annotated[OptionalText, tyro.conf.arg(metavar="MODEL", help_behavior_hint="")] = None
    """Hub id, folder, .gguf file or starter:NAME: count what each method trains in it."""
    json: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = False
    """Print the list as one JSON object on stdout."""

    def run(self) -> int:
        entries = catalogue.entries() if self.method is None else [catalogue.find(self.method)]
        counts = {} if self.model is None else _counts(self.model, entries)
        choices = [Choice(entry, counts.get(entry.name)) for entry in entries]
        if self.json:
            _output.emit_json({"model": self.model, "methods": [choice.facts() for choice in choices]})
            return 0
        if self.model is not None:
            _output.say(_methods.size_of_model(self.model, choices))
        if self.method is None:
            _output.show(_methods.table(choices))
            _output.show("", *_methods.equations(choices))
            _output.say("\n`tunesmith methods NAME` explains one.")
        else:
            _output.show(*_methods.page(choices[0]))
        return 0


def _counts(model: str, entries: list[Entry]) -> Mapping[str, Count | InputError]:
    """What each method comes to in the model, or why it does not fit."""
    from tunesmith.model import load
    from tunesmith.planning import parameters

    load.quiet()
    with View() as view:
        config = load.find_config(model, view)
    return parameters.count(config, entries)
