"""Runs one contestant inside its own fresh process and measures it. Imports nothing heavy before the contestant does."""

from __future__ import annotations

import importlib.metadata
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import job as jobs
from benchmarks import process_memory, workload

if TYPE_CHECKING:
    from torch import Tensor


class StepLog:
    """Takes the time of every optimizer step and keeps what the contestant reports about it."""

    def __init__(self) -> None:
        self.step_seconds: list[float] = []
        self.losses: list[float] = []
        self.gradient_norms: list[float] = []
        self._last_seconds = 0.0

    def start(self) -> None:
        """Training begins now."""
        self._last_seconds = time.perf_counter()

    def step_ended(self) -> None:
        """An optimizer step is complete now."""
        now_seconds = time.perf_counter()
        self.step_seconds.append(now_seconds - self._last_seconds)
        self._last_seconds = now_seconds

    def report(self, loss: float, gradient_norm: float) -> None:
        """Keep the mean loss per labelled token and the gradient norm of a step."""
        self.losses.append(loss)
        self.gradient_norms.append(gradient_norm)


class Contestant(ABC):
    """A way to train what a job wants trained."""

    packages: tuple[str, ...]
    """Distributions whose versions are recorded."""
    worker_bytes = 0
    """The most memory that processes it started held while it trained, besides what they share with this one."""

    @abstractmethod
    def load(self, job: jobs.Job) -> None:
        """Load the model and let learn what `job.method` says, from the tensors of `job.start_file`."""

    @abstractmethod
    def train(self, rows: list[workload.Row], job: jobs.Job, log: StepLog) -> None:
        """Train on the rows in their order, `job.rows_per_step` to a step, constant learning rate, no clipping, no decay."""

    @abstractmethod
    def adapter(self) -> Mapping[str, Tensor]:
        """What learns as it is now, by the names in `job.start_file`."""


def run(contestant: Contestant) -> None:
    """Do the job named on the command line (`JOB.json ANSWER.json`) and write what was measured."""
    import_bytes = process_memory.status_bytes("VmRSS")
    process_memory.reset_peak()
    job = jobs.read_job(Path(sys.argv[1]))
    measurement = jobs.Measurement(import_bytes=import_bytes)
    measurement.versions = {name: importlib.metadata.version(name) for name in contestant.packages}
    if job.mode == "train":
        _train(contestant, job, measurement)
    jobs.write(measurement, Path(sys.argv[2]))


def _train(contestant: Contestant, job: jobs.Job, measurement: jobs.Measurement) -> None:
    rows = job.rows(workload.read(job.folder / "rows.json"))
    start_seconds = time.perf_counter()
    contestant.load(job)
    measurement.load_seconds = time.perf_counter() - start_seconds
    measurement.load_peak_bytes = process_memory.status_bytes("VmHWM")
    process_memory.reset_peak()
    log = StepLog()
    log.start()
    contestant.train(rows, job, log)
    measurement.train_peak_bytes = process_memory.status_bytes("VmHWM") + contestant.worker_bytes
    if (most_on_gpu := _gpu_peak_bytes()) is not None:
        measurement.train_peak_bytes = most_on_gpu
    measurement.end_anonymous_bytes = process_memory.status_bytes("RssAnon")
    measurement.end_file_bytes = process_memory.status_bytes("RssFile")
    measurement.step_seconds, measurement.losses = log.step_seconds, log.losses
    measurement.gradient_norms = log.gradient_norms
    _compare(contestant.adapter(), job.start_file, measurement)


def _gpu_peak_bytes() -> int | None:
    """The most that tensors held on a GPU, loading included; None where none was used."""
    import torch

    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None


def _compare(final: Mapping[str, Tensor], initial_file: Path, measurement: jobs.Measurement) -> None:
    from safetensors import safe_open

    initial_square = change_square = 0.0
    with safe_open(initial_file, "pt") as initial:
        if final.keys() != set(initial.keys()):
            other = sorted(final.keys() ^ set(initial.keys()))
            raise SystemExit(f"what was trained has other tensors than the start: {other[:4]} ({len(other)} in all).")
        for name, trained in final.items():
            before = initial.get_tensor(name).float()
            change = trained.detach().cpu().float() - before
            measurement.num_trainable += change.numel()
            measurement.num_unmoved += not bool(change.any())
            initial_square += float(before.double().square().sum())
            change_square += float(change.double().square().sum())
    measurement.movement = (change_square / initial_square) ** 0.5
