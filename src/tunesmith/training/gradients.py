"""Who finds the gradients of a step: of one run, or of several in common passes; alone, or with the help of other processes.

The loss is the mean over all targets of the step, however its rows are cut into passes, so that 1 x 8, 2 x 4 and
8 x 1 rows x passes give the same gradients.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from tunesmith.data.pack import even_groups
from tunesmith.kernels import rounded
from tunesmith.model import anatomy, virtual_tokens
from tunesmith.model.batch import Batch
from tunesmith.model.forward import Forward
from tunesmith.model.many import Together
from tunesmith.training import threads
from tunesmith.training.laps import UNMEASURED, Laps
from tunesmith.training.optimizer import FlatAdamW


class Pass(NamedTuple):
    """What is computed at once."""

    batch: Batch
    seed: int
    """Of its random numbers (dropout)."""


CommonPass = Mapping[int, Batch]
"""The same for several runs: the batch of each, by its number."""
AnyPass = TypeVar("AnyPass")
Count = TypeVar("Count")
"""Of targets: one number, or one for each run."""


class Helper(Protocol):
    """Another process, which finds the gradients of some passes."""

    @property
    def own_bytes(self) -> int:
        """The most memory it held besides what it shares with others."""
        ...

    def ask(self, passes: Sequence[object], num_targets: object) -> None:
        """Give it some passes, perhaps none."""
        ...

    def answer(self) -> Tensor:
        """Wait until it is done, and add its gradients to those of this process; returns its part in the loss."""
        ...


@dataclass(kw_only=True)
class Finder(Generic[AnyPass, Count]):
    """Finds the gradients of everything that learns, in this process and in those that help."""

    helpers: list[Helper] = field(default_factory=list)
    worker_bytes: int = 0
    """The most memory that they held for the last step, besides what they share with this process."""

    @property
    def optimizers(self) -> Sequence[FlatAdamW]:
        """Those that the gradients are for."""
        raise NotImplementedError

    def num_tokens(self, one: AnyPass) -> int:
        """Of the stream of a pass, which say how much work it is."""
        raise NotImplementedError

    def num_targets(self, passes: Sequence[AnyPass]) -> Count:
        """Of all passes together."""
        raise NotImplementedError

    def accumulate_share(self, passes: Sequence[AnyPass], num_targets: Count, laps: Laps = UNMEASURED) -> Tensor:
        """The part of some passes in the mean loss over `num_targets`, as `accumulate` gives it, and in its gradients."""
        raise NotImplementedError

    @property
    def num_processes(self) -> int:
        """How many compute passes at the same time."""
        return 1 + len(self.helpers)

    def accumulate(self, passes: Sequence[AnyPass], laps: Laps = UNMEASURED) -> Tensor:
        """Add up the gradients of the mean loss over all passes' targets; returns that loss, float64: a scalar, or one a run.

        `laps` hears where a part ends.
        """
        num_targets = self.num_targets(passes)
        if not self.helpers:
            return self.accumulate_share(passes, num_targets, laps)
        own, *others = shares(passes, list(map(self.num_tokens, passes)), self.num_processes)
        for helper, share in zip(self.helpers, others, strict=True):
            helper.ask(share, num_targets)
        with threads.limited(threads.of_each(self.num_processes)):
            loss = self.accumulate_share(own, num_targets, laps)
        for helper in self.helpers:
            loss += helper.answer()
        self.worker_bytes = sum(helper.own_bytes for helper in self.helpers)
        laps.end("rest")
        return loss


@dataclass
class Learner(Finder[Pass, int]):
    """A model and the optimizer of what learns in it."""

    forward: Forward
    optimizer: FlatAdamW

    @property
    def optimizers(self) -> Sequence[FlatAdamW]:
        return [self.optimizer]

    def num_tokens(self, one: Pass) -> int:
        return len(one.batch.input_ids)

    def num_targets(self, passes: Sequence[Pass]) -> int:
        return sum(batch.num_targets for batch, _ in passes)

    def accumulate_share(self, passes: Sequence[Pass], num_targets: int, laps: Laps = UNMEASURED) -> Tensor:
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
                total += loss.detach()
                laps.end("optimizer")
        return total


@dataclass
class CommonLearner(Finder[CommonPass, Mapping[int, int]]):
    """Several adapters over one frozen model, and the optimizer of each, by its number."""

    together: Together
    by_number: Sequence[FlatAdamW]

    @property
    def optimizers(self) -> Sequence[FlatAdamW]:
        return self.by_number

    def num_tokens(self, one: CommonPass) -> int:
        return sum(len(batch.input_ids) for batch in one.values())

    def num_targets(self, passes: Sequence[CommonPass]) -> Mapping[int, int]:
        total: Counter[int] = Counter()
        for batches in passes:
            total.update({number: batch.num_targets for number, batch in batches.items()})
        return total

    def accumulate_share(self, passes: Sequence[CommonPass], num_targets: Mapping[int, int], laps: Laps = UNMEASURED) -> Tensor:
        device = anatomy.device_of(self.together.whole.model)
        totals = torch.zeros(len(self.by_number), dtype=torch.float64, device=device)
        for batches in passes:
            teaching = {number: batch for number, batch in batches.items() if batch.num_targets}
            if not teaching:
                continue
            with rounded.inputs(rounded.pay(device.type)), self.together.scope(teaching):
                losses = {number: loss / num_targets[number] for number, loss in self.together.losses(teaching).items()}
                torch.stack(list(losses.values())).sum().backward()
            for number, loss in losses.items():
                totals[number] += loss.detach()
        return totals


def shares(passes: Sequence[AnyPass], lengths: Sequence[int], num_processes: int) -> list[list[AnyPass]]:
    """The passes of each process: longest first, each to whoever has least to do."""
    return [[passes[index] for index in group] for group in even_groups(np.array(lengths), num_processes)]
