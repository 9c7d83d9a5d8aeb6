"""tunesmith, by the parts that `tunesmith fit` is made of: its loading, its precision, its loop with its defaults."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks import measure
from benchmarks.job import Job
from benchmarks.starts import tunesmith as starts
from benchmarks.workload import Row, Task
from tunesmith.data.order import permutation
from tunesmith.data.pack import num_shared
from tunesmith.data.table import TokenTable, offsets_of
from tunesmith.model import load, trial
from tunesmith.runs import defaults
from tunesmith.settings import TrainingSettings
from tunesmith.training import memory, precision
from tunesmith.training.log import FILE_NAME, MetricsLog
from tunesmith.training.loop import Evaluation, Loop, State
from tunesmith.training.optimizer import FlatAdamW
from tunesmith.watch import Progress

SEED = 0
NO_CLIPPING = 1e9
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
TASKS = {"causal": "chat", "classification": "classification"}
"""Our word for each task."""


class Reporter:
    """A watch that hands the end of every step to the log."""

    def __init__(self, log: measure.StepLog) -> None:
        self.log = log

    def say(self, text: str) -> None:
        """Nobody listens."""

    def warn(self, text: str) -> None:
        """A step that was left out shows in the checks."""

    def progress(self, progress: Progress) -> None:
        """An optimizer step is complete."""
        if progress.phase == "training":
            self.log.step_ended()


class NoKeeper:
    """Neither evaluates nor saves: the peer does not either."""

    def evaluate(self) -> Evaluation:
        """An evaluation of nothing."""
        return Evaluation((0.0,), {})

    def save(self, state: State, *, is_best: bool) -> None:
        """Nothing is kept."""


class Tunesmith(measure.Contestant):
    """Any method of tunesmith."""

    packages = ("tunesmith", "torch", "transformers", "safetensors", "numpy")

    def load(self, job: Job) -> None:
        load.quiet()
        memory.keep_few_kernels()
        memory.return_freed_memory()
        self.job = job
        dtype, _ = precision.choose(job.weights, DEVICE)
        trains_base = starts.method_of(job.method).trains_base_weights
        stays = not trains_base and job.task == "causal" and job.base_bits == 16
        source, read = load.find(str(job.folder / job.weights)), dtype if stays else torch.float32
        self.model = load.load(source, TASKS[job.task], base_bits=job.base_bits, dtype=read)
        nn.Module.to(self.model, DEVICE)
        self.forward, reason = trial.choose(self.model, classification=job.task == "classification")
        if reason:
            raise SystemExit(f"the model is not packed: {reason}")
        if dtype != torch.float32 and not trains_base:
            precision.store_frozen(self.model, dtype)
        memory.keep_freed_memory()
        self.method = starts.attached(self.model, job)
        stored = precision.stored_as(self.model, dtype) if trains_base else {}
        self.optimizer = FlatAdamW(self.model.named_parameters(), 0.0, stored, self.method.rate_of)

    def train(self, rows: list[Row], job: Job, log: measure.StepLog) -> None:
        table = table_in_training_order(rows, SEED, job.task)
        settings = defaults.resolve(self._settings(job), self.method, self._facts(table))
        plan = defaults.plan(settings, len(table))
        if num_shared(table):
            self.forward = trial.sharing(self.forward)
        with tempfile.TemporaryDirectory() as scratch:
            with MetricsLog(Path(scratch)) as metrics:
                loop = Loop(self.forward, table, self.optimizer, plan, NoKeeper(), metrics, Reporter(log))
                log.start()
                loop.run()
                self.worker_bytes = loop.learner.worker_bytes
            for line in Path(scratch, FILE_NAME).read_text().splitlines():
                record = json.loads(line)
                if record["kind"] == "step":
                    log.report(record["loss"], record["gradient_norm"])

    def adapter(self) -> Mapping[str, Tensor]:
        return starts.trained(self.model, self.method, self.optimizer.trained(), self.job)

    def _settings(self, job: Job) -> TrainingSettings:
        return TrainingSettings(
            epochs=1.0,
            rows_per_step=job.rows_per_step,
            learning_rate=job.learning_rate,
            schedule="constant",
            warmup_share=0.0,
            weight_decay=0.0,
            clip_norm=NO_CLIPPING,
            patience=0,
            checkpoint_every_seconds=math.inf,
            precision=job.weights,
            base_bits=job.base_bits,
            seed=SEED,
        )

    def _facts(self, table: TokenTable) -> defaults.Facts:
        return defaults.Facts(
            task=TASKS[self.job.task],
            num_rows=len(table),
            longest_row_tokens=int(table.lengths.max()),
            num_parameters=self.model.num_parameters(),
            device=DEVICE.type,
            num_validation_rows=0,
            num_processors=torch.get_num_threads() if DEVICE.type == "cpu" else 1,
        )


def table_in_training_order(rows: list[Row], seed: int, task: Task) -> TokenTable:
    """A table whose first epoch, as tunesmith shuffles it, is the rows in the order given."""
    place = np.empty(len(rows), dtype=np.int64)
    place[permutation(len(rows), seed, epoch=0)] = np.arange(len(rows))
    table = TokenTable(
        input_ids=np.concatenate([np.array(row["input_ids"], dtype=np.int32) for row in rows]),
        labels=np.concatenate([np.array(row["labels"], dtype=np.int32) for row in rows]),
        offsets=offsets_of([len(row["input_ids"]) for row in rows]),
        labels_per_row=task == "classification",
    )
    return table.select(place)


if __name__ == "__main__":
    measure.run(Tunesmith())
