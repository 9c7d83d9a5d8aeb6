"""The story of a training run: step after step, evaluate now and then, keep the best, stop when it is time.

Everything that happens at a step depends on the seed and the step alone, so a run that is resumed at any step goes on
exactly as if nothing had happened.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import nn

from tunesmith.data.order import Order, noise_seed
from tunesmith.data.pack import num_shared, pack, passes
from tunesmith.data.table import TokenTable
from tunesmith.errors import TrainingDiverged
from tunesmith.model import anatomy, surgery
from tunesmith.model.batch import Batch
from tunesmith.model.forward import Forward
from tunesmith.strategy import Strategy
from tunesmith.training import memory, workers
from tunesmith.training.gradients import Learner
from tunesmith.training.laps import Measuring, unmeasured
from tunesmith.training.log import MetricsLog
from tunesmith.training.optimizer import FlatAdamW
from tunesmith.training.schedule import Schedule
from tunesmith.training.step import StepResult, Update, take_step
from tunesmith.watch import Progress, Watch

MAX_BAD_STEPS = 3  # in a row, whose loss or gradient is not finite
STEPS_BETWEEN_TRIMS = 8  # rows of ever other lengths fragment the heap; measured: 3 % of the time for 10 % less memory
SPEED_WINDOW = 20  # steps over which the speed shown is averaged


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Every number that decides how training goes."""

    num_steps: int
    rows_per_step: int
    tokens_per_pass: int
    schedule: Schedule
    clip_norm: float
    evaluate_every: int
    """Steps between evaluations; the last step is always evaluated."""
    patience: int
    """Evaluations without improvement before an early stop; 0 never stops early."""
    checkpoint_every_seconds: float
    checkpoint_every_steps: int | None
    max_seconds: float | None
    seed: int
    model_dropout: bool = False
    """Whether the base model's own dropout is on."""
    num_processes: int = 1
    """How many compute passes of a step at the same time."""


@dataclass
class State:
    """Where training is; with the optimizer's tensors, all that a checkpoint holds."""

    step: int = 0
    """Steps done."""
    tokens: int = 0
    """Real tokens learned from."""
    seconds: float = 0.0
    """Time spent in steps, evaluations not counted."""
    best_rank: list[float] | None = None
    """Of the best evaluation so far."""
    best_step: int = 0
    evaluations_since_best: int = 0
    evaluated_step: int = 0
    """Of the last evaluation."""
    bad_steps: int = 0
    stop_reason: str = ""
    """Empty while training goes on."""

    def to_mapping(self) -> dict[str, object]:
        """The state as plain JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Evaluation:
    """What the validation rows say of the model at one step."""

    rank: tuple[float, ...]
    """Decides which step is best: less is better, compared from the first number on."""
    metrics: dict[str, float]


class Keeper(Protocol):
    """Who evaluates and saves for the loop."""

    def evaluate(self) -> Evaluation | None:
        """Measure on the validation rows; None if it was stopped on the way."""
        ...

    def save(self, state: State, *, is_best: bool) -> None:
        """Write a checkpoint of the state, the weights and the optimizer."""
        ...


@dataclass
class Loop:
    """Trains one model on one table of rows."""

    forward: Forward
    table: TokenTable
    optimizer: FlatAdamW
    plan: Plan
    keeper: Keeper
    log: MetricsLog
    watch: Watch
    state: State = field(default_factory=State)
    strategies: Sequence[Strategy] = ()
    should_stop: Callable[[], str | None] = lambda: None
    """Asked before and after every step; a reason means: save and stop now, to be resumed later."""
    measuring: Measuring = unmeasured
    """Told of every step where its parts end."""
    learner: Learner = field(init=False)
    """Who finds the gradients: this process, or several."""

    def __post_init__(self) -> None:
        self.learner = Learner(self.forward, self.optimizer)

    def run(self) -> State:
        """Train until the plan is done, the result no longer improves, time is up, or `should_stop` says so.

        Raises:
            TrainingDiverged: If loss or gradient stay infinite; the weights are those of the last good step.
        """
        self.begin()
        enter_training_mode(self.forward.model, self.plan)  # before there are workers, which keep the model as it is
        with workers.hired(self.plan.num_processes, self.learner):
            while self.goes_on():
                self._take_one()
        memory.give_back()
        return self.state

    def begin(self) -> None:
        """Make ready for the first step, or the first after a checkpoint."""
        self._order = Order(len(self.table), self.plan.rows_per_step, self.plan.seed)
        self._recent: list[tuple[int, float]] = []
        self._saved_at, self._saved_step = time.monotonic(), self.state.step

    def goes_on(self) -> bool:
        """Whether another step is to follow, after evaluating and saving what is due; never asked again after a no."""
        if self._evaluation_is_due():
            self._evaluate()
        elif self._save_is_due():
            self._save(is_best=False)
        if self.should_stop():
            return False
        if self._is_over():
            self.log.event(self.state.step, f"stopped: {self.state.stop_reason}")
            return False
        return True

    @property
    def next_rows(self) -> NDArray[np.int64]:
        """Indices of the rows that the next step learns from."""
        return self._order.rows(self.state.step)

    def next_update(self, num_passes: int) -> Update:
        """How the next step moves the weights."""
        step, plan = self.state.step, self.plan
        seeds = [noise_seed(plan.seed, step, part) for part in range(num_passes)]
        return Update(plan.schedule.learning_rate(step), plan.clip_norm, seeds)

    def _is_over(self) -> bool:
        """Whether no step is to follow; the state says why."""
        if not self.state.stop_reason and self.state.step >= self.plan.num_steps:
            self.state.stop_reason = "all steps done"
        return bool(self.state.stop_reason)

    def _take_one(self) -> None:
        start = time.perf_counter()
        enter_training_mode(self.forward.model, self.plan)
        with self.measuring(self.state.step, self.forward.model) as laps:
            batches = batches_of(self.table, self.next_rows, self.plan, self.forward)
            laps.end("data")
            result = take_step(self.learner, batches, self.next_update(len(batches)), self.strategies, laps)
        self.record(result, time.perf_counter() - start)

    def record(self, result: StepResult, seconds: float) -> None:
        """Count a step that was taken, and tell of it.

        Raises:
            TrainingDiverged: If it is one too many without a finite loss and gradient.
        """
        plan, state = self.plan, self.state
        rate = plan.schedule.learning_rate(state.step)
        state.step, state.tokens, state.seconds = state.step + 1, state.tokens + result.num_tokens, state.seconds + seconds
        if state.step % STEPS_BETWEEN_TRIMS == 0:
            memory.trim()
        self._mind_bad_numbers(result)
        self._report(result, rate, seconds)
        if plan.max_seconds is not None and state.seconds >= plan.max_seconds and not state.stop_reason:
            state.stop_reason = f"time limit of {plan.max_seconds:.0f} s"

    def _mind_bad_numbers(self, result: StepResult) -> None:
        state = self.state
        state.bad_steps = 0 if result.is_finite else state.bad_steps + 1
        if result.is_finite:
            return
        message = f"step {state.step}: loss {result.loss}, gradient norm {result.gradient_norm}; the step was left out"
        self.log.event(state.step, message)
        self.watch.warn(message)
        if state.bad_steps >= MAX_BAD_STEPS:
            good = state.step - MAX_BAD_STEPS
            raise TrainingDiverged(
                f"Loss or gradient were not finite in steps {good + 1} to {state.step}. The weights are those of step {good}. "
                "Use a lower --learning-rate, or --precision float32."
            )

    def _report(self, result: StepResult, rate: float, seconds: float) -> None:
        self._recent = [*self._recent, (result.num_tokens, seconds)][-SPEED_WINDOW:]
        speed = sum(n for n, _ in self._recent) / sum(s for _, s in self._recent)
        held = memory.resident_bytes() + self.learner.worker_bytes  # a worker keeps the most that it held for the next step
        numbers = {
            "loss": result.loss,
            "learning_rate": rate,
            "gradient_norm": result.gradient_norm,
            "tokens": self.state.tokens,
        }
        numbers |= {"labelled": result.num_targets, "seconds": round(self.state.seconds, 4), "memory_bytes": held}
        self.log.step(self.state.step, numbers)
        self.watch.progress(
            Progress(
                phase="training",
                done=self.state.step,
                total=self.plan.num_steps,
                loss=result.loss,
                learning_rate=rate,
                tokens_per_second=speed,
                memory_bytes=held,
            )
        )

    def _evaluation_is_due(self) -> bool:
        """Whether this step is to be evaluated and was not: also on going on, if the evaluation was interrupted."""
        state = self.state
        if state.step == state.evaluated_step:
            return False
        return bool(state.stop_reason) or state.step % self.plan.evaluate_every == 0 or state.step >= self.plan.num_steps

    def _save_is_due(self) -> bool:
        num_steps = self.state.step - self._saved_step
        if not num_steps or self.should_stop():
            return bool(num_steps)
        if self.plan.checkpoint_every_steps:
            return num_steps >= self.plan.checkpoint_every_steps
        return time.monotonic() - self._saved_at >= self.plan.checkpoint_every_seconds

    def _save(self, *, is_best: bool) -> None:
        self.keeper.save(self.state, is_best=is_best)
        self._saved_at, self._saved_step = time.monotonic(), self.state.step

    def _evaluate(self) -> None:
        """Measure on the validation rows, keep the state if it is the best, and mind the patience."""
        state = self.state
        evaluation = self.keeper.evaluate()
        if evaluation is None:
            self._save(is_best=False)
            return
        state.evaluated_step = state.step
        self.log.evaluation(state.step, evaluation.metrics)
        rank = [number if math.isfinite(number) else math.inf for number in evaluation.rank]  # nothing compares with NaN
        improved = state.best_rank is None or rank < state.best_rank
        if improved:
            state.best_rank, state.best_step = rank, state.step
        state.evaluations_since_best = 0 if improved else state.evaluations_since_best + 1
        if self.plan.patience and state.evaluations_since_best >= self.plan.patience and not state.stop_reason:
            state.stop_reason = f"early stop: no improvement in {self.plan.patience} evaluations"
        self._save(is_best=improved)


def batches_of(table: TokenTable, rows: NDArray[np.int64], plan: Plan, forward: Forward) -> list[Batch]:
    """The rows of a step as packed batches, one a pass, where the model is."""
    device = anatomy.device_of(forward.model)
    shared = num_shared(table) if forward.shares else 0
    groups = passes(table, rows, plan.tokens_per_pass, plan.num_processes, num_shared=shared)
    return [pack(table, group, num_shared=shared).to(device) for group in groups]


def enter_training_mode(model: nn.Module, plan: Plan) -> None:
    """Switch dropout on in what the method added, and in the base model if the plan says so."""
    if plan.model_dropout:
        model.train()
    else:
        surgery.train_added(model)
