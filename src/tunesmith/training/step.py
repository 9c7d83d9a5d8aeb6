"""One optimizer step: some rows, in as many passes as memory asks for, one update.

The loss is the mean over all targets of the step, however its rows are cut into passes, so that 1 x 8, 2 x 4 and
8 x 1 rows x passes give the same gradients. A GPU works through all passes without being waited for: losses stay where
they are computed, and loss and gradient norm are read together, once a step.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from tunesmith.kernels import rounded
from tunesmith.model import anatomy, virtual_tokens
from tunesmith.model.batch import Batch
from tunesmith.model.forward import Forward
from tunesmith.model.many import Together
from tunesmith.strategy import Strategy
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


class Pass(NamedTuple):
    """What is computed at once."""

    batch: Batch
    seed: int
    """Of its random numbers (dropout)."""


@dataclass
class Learner:
    """A model and the optimizer of what learns in it."""

    forward: Forward
    optimizer: FlatAdamW

    @property
    def num_processes(self) -> int:
        """How many compute passes at the same time."""
        return 1

    @property
    def worker_bytes(self) -> int:
        """The most memory that other processes held for it, besides what they share with this one."""
        return 0

    def accumulate(self, passes: Sequence[Pass], laps: Laps = UNMEASURED) -> Tensor:
        """Add up the gradients of the mean loss over all passes' targets; returns that loss, a float64 scalar.

        `laps` hears where a part ends.
        """
        return self.accumulate_share(passes, sum(batch.num_targets for batch, _ in passes), laps)

    def accumulate_share(self, passes: Sequence[Pass], num_targets: int, laps: Laps = UNMEASURED) -> Tensor:
        """The part of some passes in the mean loss over `num_targets`, a float64 scalar, and in its gradients."""
        device = anatomy.device_of(self.forward.model)
        total = torch.zeros((), dtype=torch.float64, device=device)
        beginning = passes[0].batch.beginning if passes else None
        with rounded.inputs(rounded.pay(device.type)), virtual_tokens.made_once(self.forward.model, beginning):
            for batch, seed in passes:
                if batch.num_targets == 0:
                    continue
                torch.manual_seed(seed)
                with self.forward.scope(batch):
                    loss = self.forward.loss(batch) / num_targets
                    laps.end("head")
                    loss.backward()
                    laps.end("backward")
                self.optimizer.collect()
                total += loss.detach()
                laps.end("optimizer")
        self.optimizer.collect()
        return total


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
            optimizer.collect()
    laps.end("rest")
    result = move(optimizer, _read({0: loss}, {0: optimizer})[0], batches, update)
    laps.end("optimizer")
    if result.is_finite:
        for strategy in strategies:
            strategy.after_step(model)
    return result


def take_common_step(
    together: Together,
    passes: Sequence[Mapping[int, Batch]],
    optimizers: Mapping[int, FlatAdamW],
    updates: Mapping[int, Update],
) -> dict[int, StepResult]:
    """Let several adapters, by their numbers, learn once each, exactly as by `take_step` on their own batches."""
    losses = accumulate_together(together, passes)
    for optimizer in optimizers.values():
        optimizer.collect()
    results = {}
    for number, measured in _read(losses, optimizers).items():
        own = [batches[number] for batches in passes if number in batches]
        results[number] = move(optimizers[number], measured, own, updates[number])
    return results


def accumulate_together(together: Together, passes: Sequence[Mapping[int, Batch]]) -> dict[int, Tensor]:
    """Add up the gradients of each adapter's mean loss over its own targets; returns these losses, float64 scalars."""
    num_targets: Counter[int] = Counter()
    for batches in passes:
        num_targets.update({number: batch.num_targets for number, batch in batches.items()})
    device = anatomy.device_of(together.whole.model)
    totals = {number: torch.zeros((), dtype=torch.float64, device=device) for number in num_targets}
    for batches in passes:
        teaching = {number: batch for number, batch in batches.items() if batch.num_targets}
        if not teaching:
            continue
        with rounded.inputs(rounded.pay(device.type)), together.scope(teaching):
            losses = {number: loss / num_targets[number] for number, loss in together.losses(teaching).items()}
            torch.stack(list(losses.values())).sum().backward()
        for number, loss in losses.items():
            totals[number] += loss.detach()
    return totals


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
