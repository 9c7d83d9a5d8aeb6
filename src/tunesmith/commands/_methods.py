"""Shows methods and presets: as a table, or one of them as a page."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tunesmith import registry
from tunesmith.commands import _flags, _output
from tunesmith.errors import InputError
from tunesmith.method import Method
from tunesmith.planning.catalogue import Entry
from tunesmith.quantity import format_bytes

if TYPE_CHECKING:
    from rich.table import Table

    from tunesmith.planning.parameters import Count

_BASE_BYTES = 2  # of a weight in bfloat16


@dataclass(frozen=True)
class Choice:
    """A method or preset, and what it comes to in a model if there is one."""

    entry: Entry
    count: Count | InputError | None

    @property
    def sizes(self) -> tuple[str, str, str]:
        """How many numbers learn, their share of all, and the memory that they take in training."""
        if self.count is None or isinstance(self.count, InputError):
            return "does not fit", "", ""
        share = self.count.num_trainable / (self.count.num_base + self.count.num_added)
        return f"{self.count.num_trainable:,}", f"{100 * share:.3g} %", format_bytes(self.count.training_bytes)

    @property
    def cost_of_an_answer(self) -> str:
        """What the tuned model computes more than its base."""
        if self.entry.mergeable:
            return "none"
        counted = None if isinstance(self.count, InputError) else self.count
        if self.entry.takes_positions:
            return f"{counted.num_positions} positions" if counted else "positions"
        return f"+{100 * counted.num_added / counted.num_base:.3g} % weights" if counted else "added layers"

    def facts(self) -> dict[str, object]:
        """Everything, for machines."""
        told = dataclasses.asdict(self.entry)
        told |= {"preset_of": self.entry.preset_of, "memory": self.entry.memory, "cost_of_an_answer": self.cost_of_an_answer}
        if isinstance(self.count, InputError):
            return {**told, "does_not_fit": str(self.count)}
        counted = {} if self.count is None else {**dataclasses.asdict(self.count), "training_bytes": self.count.training_bytes}
        return {**told, **counted}


def size_of_model(name: str, choices: Sequence[Choice]) -> str:
    """How large the model is, or why none of the methods fits it.

    Raises:
        InputError: If not one fits.
    """
    for count in (choice.count for choice in choices):
        if count is not None and not isinstance(count, InputError):
            return f"{name}: {count.num_base:,} numbers, {format_bytes(_BASE_BYTES * count.num_base)} in bfloat16\n"
    raise InputError(f"None of the methods fits {name}: {choices[0].count}")


def table(choices: Sequence[Choice]) -> Table:
    """One line for each; where there is a model, with what they come to in it."""
    from rich.table import Table

    counted = any(choice.count is not None for choice in choices)
    sizes = ("trains", "share", "held to train") if counted else ("held to train",)
    found = Table("method", *sizes, "merges", "costs", box=None, pad_edge=False)
    for column in found.columns:
        column.no_wrap = True
    for choice in choices:
        entry = choice.entry
        middle = choice.sizes if counted else (entry.memory,)
        cells = (entry.name, *middle, _yes(entry.mergeable), choice.cost_of_an_answer)
        found.add_row(*map(_output.clean, cells))
    return found


def equations(choices: Sequence[Choice]) -> Iterator[str]:
    """What each computes and where it is from, a line for each equation."""
    for choice in choices:
        entry = choice.entry
        told = [f"as {entry.preset_of}"] if entry.preset_of else entry.equations or ["every weight learns"]
        sources = [(entry.name, _short(entry.paper)), *[("", "")] * len(told)]
        yield from (f"{name:<18}{paper:<12}{text}" for (name, paper), text in zip(sources, told, strict=False))


def page(choice: Choice) -> Iterator[str]:
    """Everything there is to know of one."""
    entry = choice.entry
    yield f"{entry.name}, a preset of {entry.preset_of}" if entry.preset_of else entry.name
    yield f"{entry.sentence}\n"
    if entry.explanation:
        yield f"{entry.explanation}\n"
    facts = {
        "paper": entry.paper,
        "starts as the base model": _yes(entry.starts_as_identity),
        "moves base weights": _yes(entry.trains_base_weights),
        "held to train": entry.memory,
        "can be merged": _yes(entry.mergeable),
        "cost of an answer": choice.cost_of_an_answer,
        "saved in PEFT's format": _yes(entry.in_peft_format),
        "learning rate": f"{entry.learning_rate:g}; below 200 million numbers {entry.learning_rate_small:g}",
    }
    if choice.count is not None:
        facts["trains here"] = str(choice.count) if isinstance(choice.count, InputError) else ", ".join(choice.sizes)
    yield from (f"{name:<24}  {fact}" for name, fact in facts.items())
    yield from _settings(entry)


def _settings(entry: Entry) -> Iterator[str]:
    """The settings with their defaults, or what a preset makes of them."""
    kind = registry.find(registry.METHODS, str(entry.method["name"]), Method)
    fields, texts = dataclasses.fields(kind), _flags.field_docs(kind)
    if fields:
        yield "\nsettings: --method.NAME VALUE"
    for field in fields:
        value = entry.method.get(field.name, field.default)
        shown = " ".join(map(str, value)) if isinstance(value, (list, tuple)) else value
        yield f"  {field.name} = {shown}\n      {texts[field.name]}"


def _short(paper: str) -> str:
    """The number of a paper on arXiv, or what stands there instead."""
    return paper.rpartition("/")[2] if paper.startswith("http") else paper.partition(":")[0]


def _yes(claim: bool) -> str:
    return "yes" if claim else "no"
