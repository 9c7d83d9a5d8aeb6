"""One optimizer step: some rows, in as many passes as memory asks for, one update.

A GPU works through all passes without being waited for: losses stay where they are computed, and loss and gradient norm are
read together, once a step.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from tunesmith.model.batch import Batch
from tunesmith.strategy import Strategy
from tunesmith.training.gradients import CommonLearner, CommonPass, Learner, Pass
from tunesmith.training.laps import UNMEASURED, Laps
from tunesmith.training.optimizer import FlatAdamW


@dataclass(frozen=True)
class StepResult:
    """What one step measured."""

    loss: float
    """Mean over the step's targets, nats."""
    gradient_norm: float
    """Before clipping."""
    num_tokens: int
    """Real tokens of the step's rows."""
    num_targets: int

    @property
    def is_finite(self) -> bool:
        """Whether loss and gradient are numbers; if not, the weights were left alone."""
        return math.isfinite(self.loss) and math.isfinite(self.gradient_norm)


@dataclass(frozen=True)
class Update:
    """How one step moves the weights."""

    learning_rate: float
    clip_norm: float
    """Longest gradient; a longer one is scaled down."""
    seeds: Sequence[int]
    """Of the random numbers (dropout) of each pass."""


def take_step(
    learner: Learner,
    batches: Sequence[Batch],
    update: Update,
    strategies: Sequence[Strategy] = (),
    laps: Laps = UNMEASURED,
) -> StepResult:
    """Learn from the batches once. A loss or gradient that is not finite never reaches the weights."""
    model, optimizer = learner.forward.model, learner.optimizer
    loss = learner.accumulate([Pass(*one) for one in zip(batches, update.seeds, strict=True)], laps)
    for strategy in strategies:
        penalty = strategy.loss(model)
        if penalty is not None:
            penalty.backward()
    laps.end("rest")
    result = move(optimizer, _read({0: loss}, {0: optimizer})[0], batches, update)
    laps.end("optimizer")
    if result.is_finite:
        for strategy in strategies:
            strategy.after_step(model)
    return result


def take_common_step(
    learner: CommonLearner, passes: Sequence[CommonPass], updates: Mapping[int, Update]
) -> dict[int, StepResult]:
    """Let several adapters, by their numbers, learn once each, exactly as by `take_step` on their own batches."""
    losses = learner.accumulate(passes)
    optimizers = {number: learner.by_number[number] for number in updates}
    results = {}
    for number, measured in _read({number: losses[number] for number in updates}, optimizers).items():
        own = [batches[number] for batches in passes if number in batches]
        results[number] = move(optimizers[number], measured, own, updates[number])
    return results


class Measured(NamedTuple):
    """What decides whether a step is taken."""

    loss: float
    gradient_norm: float


def _read(losses: Mapping[int, Tensor], optimizers: Mapping[int, FlatAdamW]) -> dict[int, Measured]:
    """The losses and the norms of the gradients, each by number, in one wait for the device."""
    pairs = [torch.stack([losses[number], optimizer.gradient_norm()]) for number, optimizer in optimizers.items()]
    return {number: Measured(*pair) for number, pair in zip(optimizers, torch.stack(pairs).tolist(), strict=True)}


def move(optimizer: FlatAdamW, measured: Measured, batches: Sequence[Batch], update: Update) -> StepResult:
    """Move the weights along the gradients of the batches, whose mean loss is given; if all is finite."""
    loss, norm = measured
    tokens, targets = sum(b.num_real_tokens for b in batches), sum(b.num_targets for b in batches)
    result = StepResult(loss, norm, tokens, targets)
    if result.is_finite:
        optimizer.step(update.learning_rate, min(1.0, update.clip_norm / (norm + 1e-6)))
    else:
        optimizer.forget()
    return result
