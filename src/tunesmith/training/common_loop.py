"""Several training runs over one table, whose gradients are found in common passes over one frozen model.

Each run keeps its own loop: its order of rows, optimizer, schedule, evaluations, checkpoints and end. A run that is over
leaves the others to go on.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from tunesmith.data.pack import common_passes, pack
from tunesmith.errors import TrainingDiverged
from tunesmith.model import anatomy
from tunesmith.model.many import Together
from tunesmith.training import workers
from tunesmith.training.gradients import CommonLearner
from tunesmith.training.loop import Loop
from tunesmith.training.step import take_common_step


@dataclass
class CommonLoop:
    """Trains the adapters of `together`, each by the loop of its number; all loops have the same table."""

    together: Together
    loops: Sequence[Loop]
    tokens_per_pass: int
    """Most tokens computed at once, those of all runs counted."""
    diverged: dict[int, TrainingDiverged] = field(default_factory=dict)
    """Why runs ended whose numbers stayed infinite; the others went on."""

    def run(self) -> None:
        """Train until every run is over or stopped."""
        for loop in self.loops:
            loop.begin()
        learner = CommonLearner(self.together, [loop.optimizer for loop in self.loops])
        learning = list(range(len(self.loops)))
        with workers.hired(self._num_processes, learner):
            while learning := [number for number in learning if self.loops[number].goes_on()]:
                learning = self._take_one(learner, learning)

    @property
    def _num_processes(self) -> int:
        return self.loops[0].plan.num_processes

    def _take_one(self, learner: CommonLearner, learning: list[int]) -> list[int]:
        """One step of every run that learns; returns those that can go on."""
        start = time.perf_counter()
        loops = [self.loops[number] for number in learning]
        table, device = loops[0].table, anatomy.device_of(self.together.whole.model)
        groups = common_passes(table, [loop.next_rows for loop in loops], self.tokens_per_pass, self._num_processes)
        results = take_common_step(
            learner,
            [{learning[own]: pack(table, rows).to(device) for own, rows in group.items()} for group in groups],
            {number: self.loops[number].next_update(0) for number in learning},
        )
        seconds, num_tokens = time.perf_counter() - start, sum(result.num_tokens for result in results.values())
        for number, result in results.items():
            self.loops[number].learner.worker_bytes = learner.worker_bytes  # which all runs share, as they do the base
            try:
                self.loops[number].record(result, seconds * result.num_tokens / num_tokens)  # the time of its own tokens
            except TrainingDiverged as error:
                self.diverged[number] = error
        return [number for number in learning if number not in self.diverged]
