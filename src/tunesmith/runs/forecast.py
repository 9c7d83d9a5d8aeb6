"""How long a run will take and how much memory it will hold, from one trial pass of this model on this machine."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import torch

from tunesmith.data.order import Order
from tunesmith.data.pack import pack
from tunesmith.model import anatomy
from tunesmith.runs.session import Session
from tunesmith.training import memory, threads
from tunesmith.training.gradients import Learner, Pass
from tunesmith.training.loop import Plan, batches_of, enter_training_mode
from tunesmith.training.optimizer import FlatAdamW

MAX_TRIALS = 3
TRIAL_SECONDS = 0.5  # no further trial when they have taken as long


@dataclass(frozen=True)
class Forecast:
    """What a run is expected to take."""

    seconds: float
    """Of training and its evaluations."""
    memory_bytes: int
    """Peak of all processes of the run."""


def forecast(session: Session, optimizer: FlatAdamW, plan: Plan) -> Forecast:
    """Time the largest pass of the first step and scale it to all tokens; the weights do not move."""
    table = session.data.train.tokens
    rows = Order(len(table), plan.rows_per_step, plan.seed).rows(0)
    enter_training_mode(session.model, plan)
    batch = max(batches_of(table, rows, plan, session.forward), key=lambda batch: len(batch.input_ids))
    shortest = pack(table, rows[[table.lengths[rows].argmin()]]).to(anatomy.device_of(session.model))
    learner, durations = Learner(session.forward, optimizer), []
    before, loading = memory.resident_bytes(), memory.peak_bytes()
    memory.forget_peak()
    with threads.limited(threads.of_each(plan.num_processes)):
        learner.accumulate([Pass(shortest, 0)]).item()  # warms up; the number waits for a GPU
        while len(durations) < MAX_TRIALS and sum(durations) < TRIAL_SECONDS:
            start = time.perf_counter()
            learner.accumulate([Pass(batch, 0)]).item()
            durations.append(time.perf_counter() - start)
    optimizer.forget()
    per_token = statistics.median(durations) / batch.num_real_tokens / plan.num_processes
    epochs = plan.num_steps * plan.rows_per_step / len(table)
    num_evaluations = plan.num_steps / plan.evaluate_every
    forward_share = 0.4  # of a step's time that its forward pass takes
    validation = session.data.validation.tokens.num_tokens * num_evaluations * forward_share
    memory_bytes = max(loading, _training_bytes(before, optimizer, plan.num_processes))
    return Forecast(per_token * (table.num_tokens * epochs + validation), memory_bytes)


def _training_bytes(before: int, optimizer: FlatAdamW, num_processes: int) -> int:
    """The most that all processes hold in training, from the peak of a trial in this one, which held `before` before it."""
    peak, buffer = memory.peak_bytes(), sum(optimizer.sizes) * torch.float32.itemsize
    moments = 2 * buffer  # made by the first step
    return peak + moments + (num_processes - 1) * (peak - before + buffer)  # each process has gradients of its own
