"""The learning rate as a function of the step."""

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Rise linearly over the warm-up, then fall to zero (`cosine`, `linear`) or stay (`constant`)."""

    peak: float
    num_steps: int
    warmup_steps: int
    kind: Literal["cosine", "linear", "constant"] = "cosine"

    def learning_rate(self, step: int) -> float:
        """The rate of step `step`, counted from 0.

        >>> Schedule(peak=1.0, num_steps=10, warmup_steps=2, kind="linear").learning_rate(0)
        0.5
        """
        if step < self.warmup_steps:
            return self.peak * (step + 1) / self.warmup_steps
        done = (step - self.warmup_steps) / max(1, self.num_steps - self.warmup_steps)
        shape = {"cosine": 0.5 * (1 + math.cos(math.pi * min(1.0, done))), "linear": max(0.0, 1 - done), "constant": 1.0}
        return self.peak * shape[self.kind]


def warmup_steps(num_steps: int, share: float) -> int:
    """Steps of the warm-up; at least one of several, none of a single one."""
    return min(num_steps - 1, max(1, round(share * num_steps))) if share > 0 else 0
