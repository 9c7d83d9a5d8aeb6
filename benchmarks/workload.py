"""The rows that every contestant trains on, and how they fall into steps and passes."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypedDict

IGNORED = -100

Order = Literal["given", "sorted_in_step", "grouped"]
Task = Literal["causal", "classification"]


@dataclass(frozen=True, kw_only=True)
class Work:
    """A model and the rows that it is trained on."""

    model: Literal["smollm2", "minilm"]
    """The starter model of this name."""
    data: Literal["instructions", "movie-reviews"]
    """The starter data set of this name."""
    task: Task
    rows_per_step: int
    num_warmup: int
    num_timed: int
    num_check: int
    max_tokens: int
    """Longer rows are left out."""
    check_tokens: int
    """The same for the rows of the check."""


class Row(TypedDict):
    """One tokenised conversation, or one text with its class."""

    input_ids: list[int]
    labels: list[int]
    """`(tokens,)`, not shifted: the token id where it is to be predicted, -100 elsewhere. Of a text with a class: `(1,)`."""


@dataclass(frozen=True)
class Workload:
    """Rows by purpose: `warmup` and `timed` follow each other, `check` is trained on repeatedly before timing."""

    warmup: list[Row]
    timed: list[Row]
    check: list[Row]
    pad_token_id: int

    def section(self, name: str) -> list[Row]:
        """The rows of `warmup`, `timed` or `check`."""
        return {"warmup": self.warmup, "timed": self.timed, "check": self.check}[name]


def read(path: Path) -> Workload:
    """The workload in a JSON file."""
    return Workload(**json.loads(path.read_text()))


def write(workload: Workload, path: Path) -> None:
    """Write a workload as JSON."""
    path.write_text(json.dumps(vars(workload)))


def choose(rows: Iterable[Row], pad_token_id: int, work: Work) -> Workload:
    """The first rows that are short enough, in the order of the file; the check gets short ones.

    Raises:
        ValueError: There are too few rows.
    """
    least = 2 if work.task == "causal" else 1  # an answer of nothing but its end teaches nothing
    usable = [row for row in rows if num_labelled([row]) >= least and len(row["input_ids"]) <= work.max_tokens]
    num_main = work.num_warmup + work.num_timed
    check = [row for row in usable[num_main:] if len(row["input_ids"]) <= work.check_tokens][: work.num_check]
    if len(check) < work.num_check:
        raise ValueError(f"the benchmark needs more than {num_main + work.num_check} rows, found {len(usable)} usable ones.")
    return Workload(usable[: work.num_warmup], usable[work.num_warmup : num_main], check, pad_token_id)


def arrange(rows: list[Row], rows_per_step: int, order: Order) -> list[Row]:
    """The rows in the order of training: as given, by length inside each step, or in steps of similar length.

    `sorted_in_step` keeps the rows of every step, so that the gradients stay the same; `grouped` does not.
    """
    if order == "given":
        return list(rows)
    if order == "grouped":
        return sorted(rows, key=_length)
    steps = [rows[i : i + rows_per_step] for i in range(0, len(rows), rows_per_step)]
    return [row for step in steps for row in sorted(step, key=_length)]


def num_tokens(rows: Iterable[Row]) -> int:
    """Real tokens of the rows."""
    return sum(map(_length, rows))


def num_labelled(rows: Iterable[Row]) -> int:
    """Tokens that carry loss."""
    return sum(label != IGNORED for row in rows for label in row["labels"])


def num_padded(rows: list[Row], rows_per_pass: int) -> int:
    """Tokens of the passes including their padding."""
    passes = [rows[i : i + rows_per_pass] for i in range(0, len(rows), rows_per_pass)]
    return sum(len(part) * max(map(_length, part)) for part in passes)


def _length(row: Row) -> int:
    return len(row["input_ids"])
