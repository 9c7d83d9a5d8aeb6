"""Choosing the next token: the most probable one, or one drawn at random by temperature and top-p.

The only random number of a choice is u = Philox(seed, row, step), so an answer does not depend on which rows it was batched
with, and no global random state is touched. The token is the first whose cumulated probability exceeds u, over the
smallest set of tokens that together reach `top_p` (Holtzman et al., arXiv 1904.09751).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.random import Generator, Philox
from torch import Tensor

from tunesmith.errors import SettingsError


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is chosen."""

    temperature: float = 0.0
    """0 takes the most probable token; 1 draws by the model's own probabilities; above 1 is wilder."""
    top_p: float = 1.0
    """Draws only among the most probable tokens that together have this probability."""
    seed: int = 0
    """The same seed draws the same answers."""

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            SettingsError: If a number is out of its range.
        """
        if not 0 <= self.temperature < float("inf"):
            raise SettingsError(f"temperature must be 0 or a positive number, got {self.temperature}.")
        if not 0 < self.top_p <= 1:
            raise SettingsError(f"top_p must be above 0 and at most 1, got {self.top_p}.")
        if not 0 <= self.seed < 2**64:
            raise SettingsError(f"seed must be at least 0 and below 2^64, got {self.seed}.")


def choose(logits: Tensor, rows: Sequence[int], step: int, sampling: Sampling) -> Tensor:
    """The next token ids (batch,).

    Args:
        logits: Scores of every token (batch, vocab).
        rows: The number of each row among all that are generated, which makes its random numbers its own (batch,).
        step: How many tokens were generated before.
        sampling: How to choose.
    """
    if sampling.temperature == 0:
        return logits.argmax(dim=-1)
    probabilities = (logits.double() / sampling.temperature).softmax(dim=-1)
    ordered, ids = probabilities.sort(dim=-1, descending=True, stable=True)
    cumulated = ordered.cumsum(dim=-1)
    ordered = ordered.masked_fill(cumulated - ordered >= sampling.top_p, 0.0)
    cumulated = ordered.cumsum(dim=-1)
    uniform = [Generator(Philox(key=sampling.seed, counter=[0, 0, step, row])).random() for row in rows]
    threshold = torch.from_numpy(np.array(uniform)).to(logits.device)[:, None] * cumulated[:, -1:]
    place = (cumulated <= threshold).sum(dim=-1, keepdim=True)
    # Rounding may leave nothing above the threshold; then the last token that can be drawn is meant.
    last = (ordered > 0).sum(dim=-1, keepdim=True).clamp(min=1) - 1
    return ids.gather(-1, torch.minimum(place, last))[:, 0]
