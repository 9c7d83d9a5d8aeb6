"""The parts of a step, as the step itself tells them: a lap ends wherever one part is over and the next begins."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Literal, Protocol

from torch import nn

Part = Literal["data", "forward", "head", "backward", "optimizer", "rest"]
"""Packing and moving rows; the model's body; its head with the loss; the gradients; the update; all else."""


class Laps(Protocol):
    """Who takes note of where a step's time, or its work, goes."""

    def end(self, part: Part) -> None:
        """What was done since the last call belongs to `part`."""
        ...


class Unmeasured:
    """Laps that nobody counts."""

    def end(self, part: Part) -> None:
        """Drop it."""


UNMEASURED = Unmeasured()


@contextlib.contextmanager
def unmeasured(step: int, model: nn.Module) -> Iterator[Laps]:
    """The laps of a step that is not looked at."""
    yield UNMEASURED


Measuring = Callable[[int, nn.Module], contextlib.AbstractContextManager[Laps]]
"""Gives the laps of a step, by its number (the first is 0) and the model that it trains."""
