"""AdapterHub's `adapters` + the Trainer of transformers 4, which it needs."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import transformers
from torch import Tensor

from benchmarks import measure
from benchmarks.contestants import trainer
from benchmarks.job import Job
from benchmarks.starts import adapters as starts
from benchmarks.workload import Row


class Adapters(measure.Contestant):
    """Adapters and LoRA by AdapterHub."""

    packages = ("torch", "transformers", "adapters", "safetensors", "numpy")

    def load(self, job: Job) -> None:
        self.model = starts.load(job.folder / job.weights, getattr(torch, job.weights), job.task, job.method)
        starts.begin(self.model, job)

    def train(self, rows: list[Row], job: Job, log: measure.StepLog) -> None:
        trainer.train(self.model, rows, job, log)

    def adapter(self) -> Mapping[str, Tensor]:
        return starts.trained(self.model)


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    measure.run(Adapters())
