"""How much an encoder forgot: whether general texts still lie where they lay, and beside the same neighbours.

Similarity is the cosine between base and tuned state of the same text, after the mean over texts is taken off each (the
states of an encoder share a large common part that would make any two look alike). Kept neighbours is the share of each
text's ten nearest texts, by the same cosine, that are still among its ten nearest; a rotation of all states does not
change it, so it tells a lost geometry from a turned one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tunesmith.errors import DataError
from tunesmith.evaluation.retention import Level, Pass, Reader, Record, Retention, Row, passes, require_rows, with_rows
from tunesmith.evaluation.statistics import mean
from tunesmith.measure import Measure

NUM_NEIGHBOURS = 10
LITTLE_KEPT, MUCH_KEPT = 0.8, 0.5
"""Share of kept neighbours below which an encoder forgot a little, or much: a convention, not calibrated. Chance is 0.17."""
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class EncoderGauge:
    """Measures pooled states on fixed rows. The model's outputs are one state (rows, hidden) per row."""

    rows: Sequence[Row]
    tokens_per_pass: int = 2048

    def before(self, reader: Reader) -> Record:
        """What to keep of the base model: the state of every row.

        Raises:
            DataError: If there are too few rows to have neighbours.
        """
        if len(self.rows) < 3:
            raise DataError(f"Neighbours need at least 3 texts, got {len(self.rows)}.")
        return with_rows(self.rows, {"states": self._states(reader)})

    def after(self, reader: Reader, record: Record) -> Retention:
        """Compare the tuned model with what `before` kept.

        Raises:
            RunError: If the record was made on other rows.
        """
        require_rows(self.rows, record)
        base = _centred(record["states"].astype(np.float64))
        tuned = _centred(self._states(reader).astype(np.float64))
        num_neighbours = min(NUM_NEIGHBOURS, (len(self.rows) - 1) // 2)
        measures = {
            "representation_similarity": mean(_cosines(base, tuned)),
            "kept_neighbours": mean(_kept_neighbours(base, tuned, num_neighbours)),
        }
        level = _level(measures["kept_neighbours"])
        return Retention(measures=measures, level=level, sentence=_sentence(level, measures, num_neighbours, len(self.rows)))

    def _states(self, reader: Reader) -> NDArray[np.float32]:
        """One state per row (rows, hidden)."""
        states = np.concatenate(list(reader(passes(self.rows, self.tokens_per_pass), _as_array)))
        if len(states) != len(self.rows):
            raise ValueError(f"the model gave {len(states)} states for {len(self.rows)} rows.")
        return states


def _as_array(_: Pass, blocks: Iterable[Tensor]) -> NDArray[np.float32]:
    """The states of a pass (rows, hidden)."""
    return torch.cat([block.detach().to("cpu", torch.float32) for block in blocks]).numpy()


def _centred(states: Floats) -> Floats:
    """States (rows, hidden) less their mean over rows."""
    return states - states.mean(axis=0)


def _cosines(first: Floats, second: Floats) -> Floats:
    """The cosine (rows,) between the two states of each row; 0 where one has no length."""
    # One root of the product, not a product of roots: so equal states give exactly 1.
    lengths = np.sqrt((first * first).sum(axis=1) * (second * second).sum(axis=1))
    return np.divide((first * second).sum(axis=1), lengths, out=np.zeros(len(first)), where=lengths > 0)


def _kept_neighbours(first: Floats, second: Floats, num_neighbours: int) -> Floats:
    """The share (rows,) of each row's nearest other rows that are the same in both."""
    near = [_nearest(states, num_neighbours) for states in (first, second)]
    return (near[0][:, :, None] == near[1][:, None, :]).any(axis=2).mean(axis=1)


def _nearest(states: Floats, num_neighbours: int) -> NDArray[np.int64]:
    """The numbers (rows, neighbours) of the rows with the largest cosine to each row, itself left out."""
    lengths = np.linalg.norm(states, axis=1, keepdims=True)
    directions = np.divide(states, lengths, out=np.zeros_like(states), where=lengths > 0)
    similarity = directions @ directions.T
    np.fill_diagonal(similarity, -np.inf)
    return np.argsort(-similarity, axis=1, kind="stable")[:, :num_neighbours]


def _level(kept: Measure) -> Level:
    """How much was forgotten, by the share of kept neighbours."""
    if not kept.value >= MUCH_KEPT:
        return "forgot much"
    return "remembers" if kept.value >= LITTLE_KEPT else "forgot a little"


def _sentence(level: Level, measures: dict[str, Measure], num_neighbours: int, num_rows: int) -> str:
    """The finding in one line."""
    similarity, kept = measures["representation_similarity"].value, measures["kept_neighbours"].value
    if similarity == 1.0 and kept == 1.0:
        return f"{level}: general texts are represented exactly as by the base model."
    chance = num_neighbours / (num_rows - 1)
    return (
        f"{level}: {100 * kept:.0f} % of the {num_neighbours} texts nearest to a general text are the same "
        f"(by chance {100 * chance:.0f} %); "
        f"similarity to the base model's representations {similarity:.2f} (1 is unchanged)."
    )
