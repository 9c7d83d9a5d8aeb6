"""Evaluates and saves for the training loop."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from tunesmith import durable
from tunesmith.checkpoint import adapter
from tunesmith.checkpoint import folder as checkpoints
from tunesmith.errors import RunError
from tunesmith.runs.measure import score
from tunesmith.runs.place import Place
from tunesmith.runs.session import Session
from tunesmith.runs.signals import Signals, Stopped
from tunesmith.training.loop import Evaluation, Plan, State
from tunesmith.training.optimizer import FlatAdamW


@dataclass(frozen=True)
class RunKeeper:
    """Validation rows decide; every checkpoint holds all that is needed to go on."""

    session: Session
    optimizer: FlatAdamW
    place: Place
    signals: Signals

    def evaluate(self) -> Evaluation | None:
        """Measure on the validation rows: macro-F1 decides for classes (the loss among equals), the loss for text."""
        session = self.session
        try:
            with self.signals.at_once():
                scores = score(session.forward, session.data.validation, session.watch, "evaluating")
        except Stopped:
            return None
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


def restored(session: Session, keeper: RunKeeper, place: Place) -> State:
    """The state of the newest checkpoint from which the run can be finished, or a fresh one."""
    while found := checkpoints.latest(place.checkpoints):
        for note in found.notes:
            session.watch.warn(note)
        state = State(**found.state)  # pyright: ignore[reportArgumentType]
        try:
            if state.best_step not in (0, state.step):
                checkpoints.load(place.checkpoints, state.best_step)
        except RunError as error:
            # Without the best weights so far the end could not be what it would have been; earlier steps lead to them again.
            session.watch.warn(f"{error} Steps after it are taken again.")
            durable.retire(found.path)
            continue
        keeper.optimizer.load_state(found.tensors["optimizer"])
        session.watch.say(f"going on after step {found.step}")
        return state
    return State()


def require_room(session: Session, place: Place, plan: Plan) -> None:
    """Check before any time is spent that the disk has room for what the run keeps at once.

    Raises:
        DiskFull: If it has not.
    """
    if place.checkpoints.exists():
        return  # a resumed run has taken its room already
    durable.require_room(place.folder, bytes_kept(session, plan))


def bytes_kept(session: Session, plan: Plan) -> int:
    """The most that a run has on disk at once."""
    kept_at_once = min(checkpoints.NUM_KEPT + 2, plan.num_steps)  # the best one and the one being written
    values_and_moments = 3
    trained_bytes = session.trained_bytes()
    return values_and_moments * kept_at_once * trained_bytes + adapter.most_bytes(session.method, trained_bytes)
