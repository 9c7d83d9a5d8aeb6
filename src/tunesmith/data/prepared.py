"""What data preparation gives: token rows for training, validation and test, and what is known of them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tunesmith.data.columns import ChosenExamples
from tunesmith.data.examples import Task
from tunesmith.data.raw import Skipped
from tunesmith.data.table import TokenTable


@dataclass(frozen=True, kw_only=True)
class Part:
    """Rows for one purpose; `examples`, rows of `tokens` and `origins` go together one by one."""

    examples: ChosenExamples
    """What each token row was made of; windows of one long text share one."""
    tokens: TokenTable
    origins: NDArray[np.int64]
    """(rows,) row numbers in the data, counted from 1."""

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def num_origins(self) -> int:
        """Rows of the data; windows of one text count once."""
        return len(np.unique(self.origins))


@dataclass(frozen=True, kw_only=True)
class OtherRows:
    """Rows of other files, to measure a finished run on."""

    part: Part
    description: list[str]
    """Sentences to be said aloud."""
    warnings: list[str]


@dataclass(frozen=True, kw_only=True)
class PreparedData:
    """Everything that training needs to know about the data."""

    task: Task
    shape: str
    description: list[str]
    """Sentences to be said aloud."""
    warnings: list[str]
    train: Part
    validation: Part
    test: Part
    labels: tuple[str, ...]
    """Class names in the order of their ids, none if the task has none."""
    fingerprint: str
    """SHA-256 over the bytes of all files."""
    fingerprints: tuple[str, ...]
    """The same of DATA, and of --eval if it was given."""
    name: str
    max_length: int
    """Longest row in tokens."""
    skipped: list[Skipped] = field(default_factory=list)
    template: str | None = None
    """Source of the chat template that the rows were written with."""
    notes: list[str] = field(default_factory=list)
    """What is worth saying of the cache."""
