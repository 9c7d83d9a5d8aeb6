"""What the engine tells whoever watches a run: sentences, phases with progress, and training steps."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far the current phase is; `training` phases also fill in what the last step measured."""

    phase: str
    """What is being done, in a few words: 'reading', 'training', 'evaluating'."""
    done: int
    """Units finished so far; equal to `total` when the phase is over."""
    total: int | None = None
    """Units in the phase, None if not known."""
    unit: str = "steps"
    """What is counted: 'steps', 'rows', 'bytes'."""
    loss: float | None = None
    """Mean loss per labelled token (or row) of the last step."""
    learning_rate: float | None = None
    tokens_per_second: float | None = None
    """Real tokens (no padding) per second, over the last seconds."""
    memory_bytes: int | None = None
    """Memory that the process holds now, with the most that its workers held, or memory in use on the device."""


@dataclass(frozen=True, kw_only=True)
class RehearsedRow:
    """One training row exactly as the model will see it."""

    tokens: tuple[str, ...]
    """The text of each token, in order; joined they are the row."""
    learnt: tuple[bool, ...]
    """Whether each token carries loss; all False where the loss is on a label."""
    label: str | None = None
    """What is to be predicted for the whole row, if that is what is learnt."""


@dataclass(frozen=True, kw_only=True)
class Rehearsal:
    """What a run would do: everything that `fit --dry-run` shows."""

    settings: dict[str, object]
    """The resolved settings tree: every default decided."""
    description: tuple[str, ...]
    """What was found in the data, in sentences."""
    rows: tuple[RehearsedRow, ...]
    num_steps: int
    predicted_seconds: float | None = None
    predicted_memory_bytes: int | None = None


class Watch(Protocol):
    """Somebody who follows a run. Calls return at once and never fail."""

    def say(self, text: str) -> None:
        """Take note of a fact worth telling."""

    def warn(self, text: str) -> None:
        """Take note of something that may make the result worse than it could be."""

    def progress(self, progress: Progress) -> None:
        """Take note of how far the current phase is."""


class Quiet:
    """A watch that tells nobody."""

    def say(self, text: str) -> None:
        """Drop the fact."""

    def warn(self, text: str) -> None:
        """Drop the warning; it is in the run's record all the same."""

    def progress(self, progress: Progress) -> None:
        """Drop the progress."""


class Logged:
    """A watch that tells Python's logger 'tunesmith': facts as information, warnings as warnings."""

    _logger = logging.getLogger("tunesmith")

    def say(self, text: str) -> None:
        """Log a fact."""
        self._logger.info("%s", text)

    def warn(self, text: str) -> None:
        """Log a warning."""
        self._logger.warning("%s", text)

    def progress(self, progress: Progress) -> None:
        """Log how far the phase is, for whoever looks closely."""
        self._logger.debug("%s: %s of %s %s", progress.phase, progress.done, progress.total, progress.unit)
