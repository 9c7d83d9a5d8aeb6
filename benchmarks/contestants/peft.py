"""PEFT + the Trainer of transformers: a newcomer's settings, and the best that were found for two cores."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import transformers
from torch import Tensor

from benchmarks import measure
from benchmarks.contestants import trainer
from benchmarks.job import Job
from benchmarks.starts import peft as starts
from benchmarks.workload import Row


class Peft(measure.Contestant):
    """A method of PEFT, or all weights, trained by the Trainer."""

    packages = ("torch", "transformers", "peft", "accelerate", "safetensors", "numpy")

    def load(self, job: Job) -> None:
        _, kind = starts.MODELS[job.task]
        model = kind.from_pretrained(
            job.folder / job.weights,
            dtype=getattr(torch, job.weights),
            attn_implementation="sdpa",
            quantization_config=quantisation(job),
        )
        self.job, self.model = job, starts.attached(model, job)

    def train(self, rows: list[Row], job: Job, log: measure.StepLog) -> None:
        trainer.train(self.model, rows, job, log)

    def adapter(self) -> Mapping[str, Tensor]:
        return starts.trained(self.model, self.job)


def quantisation(job: Job) -> transformers.BitsAndBytesConfig | None:
    """QLoRA's format by bitsandbytes, None for a base in 16 bits."""
    if job.base_bits == 16:
        return None
    return transformers.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, job.weights),
    )


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    measure.run(Peft())
