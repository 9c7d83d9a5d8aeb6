"""What a model forgot: the same general texts before and after training, and what a gauge made of the two.

A gauge is measured twice. `before` looks at the base model and returns plain arrays, which `save_record` keeps in the run
folder; `after` looks at the tuned model, compares, and returns a `Retention`. Gauges know no method and no model: they
are given a `Reader`. `language_gauge` is for models that write, `encoder_gauge` for models that represent.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from torch import Tensor

from tunesmith import durable
from tunesmith.errors import RunError
from tunesmith.measure import Measure

Row = NDArray[np.int32]
"""Token ids of one text (tokens,)."""
Found = TypeVar("Found")
Record = dict[str, NDArray[np.generic]]
"""What a gauge keeps of the base model."""
Level = Literal["remembers", "unsure", "forgot a little", "forgot much"]

MAX_TOKENS = 128
"""Of one general text; the rest is left out."""
_FORMAT = "tunesmith retention record 1"
_ROWS, _LENGTHS = "row_tokens", "row_lengths"


class Pass(NamedTuple):
    """Rows that a model reads at once."""

    first: int
    """The number of the first of them among all."""
    rows: Sequence[Row]


Work = Callable[[Pass, Iterable[Tensor]], Found]
"""What is made of a pass and of the model's outputs for it: blocks (outputs, size), in the order of the rows."""


class Reader(Protocol):
    """A model as a gauge sees it."""

    def __call__(self, passes: Sequence[Pass], work: Work[Found], /) -> Iterable[Found]:
        """What the work makes of each pass, in order."""
        ...


@dataclass(frozen=True, kw_only=True)
class Retention:
    """What one gauge found."""

    measures: dict[str, Measure]
    level: Level
    sentence: str
    """One plain sentence that begins with the level."""


def general_text() -> list[str]:
    """About sixty short texts written for this gauge: prose, facts, dialogue, arithmetic, code, a few other languages."""
    content = resources.files("tunesmith.evaluation").joinpath("general_text.txt").read_text(encoding="utf-8")
    return content.strip().split("\n\n")


def general_rows(encode: Callable[[str], Sequence[int]], *, max_tokens: int = MAX_TOKENS) -> list[Row]:
    """The general texts as rows of token ids, cut at `max_tokens`."""
    return [np.asarray(encode(text), dtype=np.int32)[:max_tokens] for text in general_text()]


def save_record(path: Path, record: Record) -> None:
    """Keep what a gauge measured on the base model in a safetensors file, whole or not at all."""
    content = save({name: np.ascontiguousarray(array) for name, array in record.items()}, {"format": _FORMAT})
    durable.write_file(path, content)  # by ourselves: safetensors lets nobody but the owner read the file


def load_record(path: Path) -> Record:
    """What `save_record` kept.

    Raises:
        RunError: If the file is missing, damaged, or something else.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            found = (file.metadata() or {}).get("format")
            if found != _FORMAT:
                raise RunError(f"{path} is not a record of the base model: its format is {found!r}, expected {_FORMAT!r}.")
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dictionary)
    except FileNotFoundError:
        raise RunError(f"{path} is missing, so what the model forgot cannot be measured. Start the run anew.") from None
    except (SafetensorError, json.JSONDecodeError) as error:
        raise RunError(f"{path} is damaged ({error}), so what the model forgot cannot be measured.") from None


def passes(rows: Sequence[Row], tokens_per_pass: int) -> list[Pass]:
    """The rows in order, in groups of at most `tokens_per_pass` tokens (a longer row is a group of its own)."""
    groups: list[list[Row]] = []
    for row in rows:
        if groups and sum(map(len, groups[-1])) + len(row) <= tokens_per_pass:
            groups[-1].append(row)
        else:
            groups.append([row])
    firsts = itertools.accumulate(map(len, groups), initial=0)
    return [Pass(first, group) for first, group in zip(firsts, groups, strict=False)]


def with_rows(rows: Sequence[Row], record: Record) -> Record:
    """A record that also holds the rows it was measured on."""
    tokens = np.concatenate([np.zeros(0, np.int32), *rows])
    return record | {_ROWS: tokens, _LENGTHS: np.array([len(row) for row in rows], np.int64)}


def require_rows(rows: Sequence[Row], record: Record) -> None:
    """Refuse a record that was measured on other rows, since a comparison with it would mean nothing.

    Raises:
        RunError: If the rows differ.
    """
    same = with_rows(rows, {})
    if not all(name in record and np.array_equal(record[name], array) for name, array in same.items()):
        raise RunError(
            "The base model was measured on other general texts (or with another tokenizer) than those at hand, "
            "so nothing can be said about forgetting. Start the run anew, or use the version of tunesmith that began it."
        )
