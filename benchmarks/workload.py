"""The rows that every contestant trains on, and how they fall into steps and passes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypedDict

IGNORED = -100
ROWS_PER_STEP = 8
NUM_WARMUP, NUM_TIMED, NUM_CHECK = 16, 64, 8
MAX_TOKENS = 512
CHECK_TOKENS = 128

Order = Literal["given", "sorted_in_step", "grouped"]


class Row(TypedDict):
    """One tokenised conversation."""

    input_ids: list[int]
    labels: list[int]
    """`(tokens,)`, not shifted: the token id where it is to be predicted, -100 elsewhere."""


class Instruction(TypedDict):
    """One line of the instruction data."""

    instruction: str
    input: str
    output: str


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


def tokenise(example: Instruction, render: Callable[[str, str | None], str], encode: Callable[[str], list[int]]) -> Row:
    """Tokens of a prompt and its answer; only the answer and its end-of-turn token carry loss.

    Args:
        example: The instruction, its optional input and the answer.
        render: (prompt, answer) to text; without an answer, the text up to where the answer begins.
        encode: Text to token ids, without special tokens of its own.

    Raises:
        ValueError: The tokens of the prompt are not the beginning of those of the conversation.
    """
    prompt = "\n\n".join(part for part in (example["instruction"], example["input"]) if part)
    prompt_ids = encode(render(prompt, None))
    # The template ends a turn with a line break that the model never has to produce.
    ids = encode(render(prompt, example["output"]).rstrip("\n"))
    if ids[: len(prompt_ids)] != prompt_ids:
        raise ValueError(f"tokenisation merges the prompt and its answer: {example['instruction'][:60]!r}")
    return {"input_ids": ids, "labels": [IGNORED] * len(prompt_ids) + ids[len(prompt_ids) :]}


def choose(rows: Iterable[Row], pad_token_id: int) -> Workload:
    """The first rows that are short enough, in the order of the file; the check gets short ones.

    Raises:
        ValueError: There are too few rows.
    """
    usable = [row for row in rows if num_labelled([row]) > 1 and len(row["input_ids"]) <= MAX_TOKENS]
    num_main = NUM_WARMUP + NUM_TIMED
    check = [row for row in usable[num_main:] if len(row["input_ids"]) <= CHECK_TOKENS][:NUM_CHECK]
    if len(check) < NUM_CHECK:
        raise ValueError(f"the benchmark needs more than {num_main + NUM_CHECK} rows, found {len(usable)} usable ones.")
    return Workload(usable[:NUM_WARMUP], usable[NUM_WARMUP:num_main], check, pad_token_id)


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
