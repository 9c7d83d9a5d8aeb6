"""Evaluates and saves for the training loop."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from tunesmith.checkpoint import folder as checkpoints
from tunesmith.runs.measure import score
from tunesmith.runs.place import Place
from tunesmith.runs.session import Session
from tunesmith.training.loop import Evaluation, State
from tunesmith.training.optimizer import FlatAdamW


@dataclass(frozen=True)
class RunKeeper:
    """Validation rows decide; every checkpoint holds all that is needed to go on."""

    session: Session
    optimizer: FlatAdamW
    place: Place

    def evaluate(self) -> Evaluation:
        """Measure on the validation rows: macro-F1 decides for classes (the loss among equals), the loss for text."""
        session = self.session
        scores = score(session.forward, session.data.validation, session.watch, "evaluating")
        measures = scores.metrics(len(session.data.labels))
        numbers = {name: measure.value for name, measure in measures.items()}
        rank = (-numbers["macro_f1"], numbers["loss"]) if "macro_f1" in numbers else (numbers["loss"],)
        return Evaluation(rank, numbers)

    def save(self, state: State, *, is_best: bool) -> None:
        """Write a checkpoint; the best one so far is kept however old it grows."""
        del is_best  # the state knows the best step
        tensors: dict[str, dict[str, Tensor]] = {"optimizer": self.optimizer.state()}
        checkpoints.write(self.place.checkpoints, state.step, tensors, state.to_mapping(), best_step=state.best_step)

    def restore(self, step: int) -> None:
        """Bring back the weights of the checkpoint of `step`."""
        self.optimizer.load_state(checkpoints.load(self.place.checkpoints, step).tensors["optimizer"])
