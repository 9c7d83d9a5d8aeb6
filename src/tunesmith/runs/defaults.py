"""What a user left open is decided here, from the task, the method and the sizes at hand; every choice is recorded.

Sources: every method names its own learning rates; rows a step, epochs and tokens a pass were measured on the starter tasks
(`docs/log.md`).
"""

import dataclasses
import math
from dataclasses import dataclass

import torch

from tunesmith.method import Method
from tunesmith.settings import TrainingSettings
from tunesmith.training import threads
from tunesmith.training.loop import Plan
from tunesmith.training.schedule import Schedule, warmup_steps

SMALL_MODEL = 200_000_000  # parameters; below it every method takes its higher rate
_ROWS_PER_STEP = {"chat": 8, "text": 8, "classification": 32, "seq2seq": 16}
_TOKENS_PER_PASS = {"cpu": 1024, "cuda": 16384}
_TOKENS_OF_ONE_THREAD = 512  # where several processes have one each: below it products are slower, above it memory is lost
_SHARE_IN_FOUR_BITS = 0.75  # of these tokens: memory is what four bits are for (docs/log.md)
_MAX_WORKER_GRADIENTS = 256 * 2**20  # bytes; every process has gradients of its own
_MIN_STEPS = 100  # of a whole run; small data gets more epochs to reach it, up to _MAX_EPOCHS
_EPOCHS = {"chat": 2.0, "text": 2.0, "classification": 2.0, "seq2seq": 3.0}
_MAX_EPOCHS = 5.0


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the defaults depend on."""

    task: str
    num_rows: int
    longest_row_tokens: int
    num_parameters: int
    device: str
    num_validation_rows: int
    num_processors: int
    """How many threads can compute at the same time."""


def resolve(settings: TrainingSettings, method: Method, facts: Facts) -> TrainingSettings:
    """The settings with nothing left open."""
    small = facts.num_parameters < SMALL_MODEL
    rows_per_step = min(settings.rows_per_step or _ROWS_PER_STEP[facts.task], facts.num_rows)
    steps_per_epoch = -(-facts.num_rows // rows_per_step)
    wanted = max(_EPOCHS[facts.task], min(_MAX_EPOCHS, _MIN_STEPS / steps_per_epoch))
    most = min(rows_per_step, settings.workers or _most_workers(method, facts))  # each has a row of every step
    workers = most if settings.workers else threads.best_processes(rows_per_step, facts.num_processors, most)
    alone = workers > 1 and facts.num_processors // workers <= 1
    at_once = _TOKENS_OF_ONE_THREAD if alone else _TOKENS_PER_PASS[facts.device]
    return dataclasses.replace(
        settings,
        epochs=settings.epochs or (settings.steps / steps_per_epoch if settings.steps else float(round(wanted))),
        rows_per_step=rows_per_step,
        tokens_per_pass=settings.tokens_per_pass
        or (round(at_once * _SHARE_IN_FOUR_BITS) if settings.base_bits == 4 else at_once),
        workers=workers,
        learning_rate=settings.learning_rate or (method.learning_rate_small if small else method.learning_rate),
    )


def _most_workers(method: Method, facts: Facts) -> int:
    """Processes that there are processors for, and memory for the gradients of each."""
    most = threads.most_processes(facts.num_processors)
    if not method.trains_all_weights:
        return most
    gradient_bytes = facts.num_parameters * torch.float32.itemsize
    return min(most, 1 + _MAX_WORKER_GRADIENTS // gradient_bytes)


def plan(settings: TrainingSettings, num_rows: int) -> Plan:
    """The training plan of resolved settings."""
    assert settings.epochs is not None
    assert settings.rows_per_step is not None
    assert settings.tokens_per_pass is not None
    assert settings.learning_rate is not None
    steps_per_epoch = -(-num_rows // settings.rows_per_step)
    num_steps = max(1, round(settings.epochs * steps_per_epoch))
    if settings.steps is not None:
        num_steps = min(num_steps, settings.steps) if settings.epochs else settings.steps
    return Plan(
        num_steps=num_steps,
        rows_per_step=settings.rows_per_step,
        tokens_per_pass=settings.tokens_per_pass,
        schedule=Schedule(
            peak=settings.learning_rate,
            num_steps=num_steps,
            warmup_steps=warmup_steps(num_steps, settings.warmup_share),
            kind=settings.schedule,
        ),
        clip_norm=settings.clip_norm,
        evaluate_every=max(1, math.ceil(steps_per_epoch / settings.evaluations_per_epoch)),
        patience=settings.patience,
        checkpoint_every_seconds=settings.checkpoint_every_seconds,
        checkpoint_every_steps=settings.checkpoint_every_steps,
        max_seconds=settings.max_time,
        seed=settings.seed,
        model_dropout=settings.model_dropout == "on",
        num_processes=settings.workers or 1,
    )
