"""`fit --profile`: where the time and memory of a training step go, measured without slowing the others."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor, nn

from tunesmith.data.order import Order
from tunesmith.reports.result import StepPart, StepProfile
from tunesmith.training.gradients import Learner
from tunesmith.training.laps import unmeasured
from tunesmith.training.loop import Plan, batches_of, enter_training_mode
from tunesmith.training.optimizer import FlatAdamW
from tunesmith.training.profile import PARTS, StepCounter, StepTimer

if TYPE_CHECKING:
    from tunesmith.runs.session import Session


class Unprofiled:
    """Measures nothing."""

    measuring = staticmethod(unmeasured)

    def result(self, session: Session, optimizer: FlatAdamW, plan: Plan) -> StepProfile | None:
        """Nothing."""


class Profiler:
    """Times the parts of the first steps of a run; when it is over, counts the work of one of them."""

    def __init__(self) -> None:
        self._timer = StepTimer()
        self.measuring = self._timer.measuring

    def result(self, session: Session, optimizer: FlatAdamW, plan: Plan) -> StepProfile | None:
        """The step of median speed, its passes run once more to be counted; None if no step was taken.

        The weights do not move.
        """
        steps, table = self._timer.steps, session.data.train.tokens
        if not steps:
            return None
        order = Order(len(table), plan.rows_per_step, plan.seed)
        num_tokens = {step: int(table.lengths[order.rows(step)].sum()) for step in steps}
        speeds = {num_tokens[step] / sum(parts.values()): step for step, parts in steps.items()}
        typical = speeds[statistics.median_low(speeds)]
        enter_training_mode(session.model, plan)
        counter = StepCounter()
        batches = batches_of(table, order.rows(typical), plan, session.forward)
        counter.count(Learner(session.forward, optimizer), batches)
        return StepProfile(
            step=typical + 1,
            num_timed=len(steps),
            num_tokens=num_tokens[typical],
            parts=[StepPart(name=part, seconds=steps[typical][part], flop=counter.flop[part]) for part in PARTS],
            limit_flop_per_second=counter.limit(session.dtype, session.device),
            weights_bytes=_weights_bytes(session.model, optimizer),
            learned_bytes=sum(_storages(optimizer.tensors()).values()),
            kept_bytes=counter.kept_bytes,
            has_rounded_products=session.rounds_inputs,
            leaves_out_words=session.leaves_out_words,
        )


def _weights_bytes(model: nn.Module, optimizer: FlatAdamW) -> int:
    """Of the model as it is stored; what it shares with the optimizer is not counted."""
    stored, learned = _storages([*model.parameters(), *model.buffers()]), _storages(optimizer.tensors())
    return sum(num_bytes for place, num_bytes in stored.items() if place not in learned)


def _storages(tensors: Sequence[Tensor]) -> dict[int, int]:
    """Bytes of each storage by its address; tensors that share one count once."""
    return {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
