"""TRL's SFTTrainer over PEFT's LoRA, with its own collator and its own loss, on rows that are tokens already.

A pass of more than one row is TRL's stream without padding (`padding_free`), which is what `packing` computes, too; but here
a step holds the same rows as everyone's, so that losses can be compared at every step.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import transformers
from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from trl import SFTConfig, SFTTrainer

from benchmarks import measure
from benchmarks.contestants import trainer
from benchmarks.job import Job
from benchmarks.starts import peft as starts
from benchmarks.workload import Row


class Trl(measure.Contestant):
    """LoRA by PEFT, trained by TRL."""

    packages = ("torch", "trl", "transformers", "peft", "accelerate", "safetensors", "numpy")

    def load(self, job: Job) -> None:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            job.folder / job.weights, dtype=getattr(torch, job.weights), attn_implementation="sdpa"
        )
        self.job, self.model = job, starts.attached(model, job)

    def train(self, rows: list[Row], job: Job, log: measure.StepLog) -> None:
        arguments = SFTConfig(
            output_dir=str(job.folder / "trainer"),
            per_device_train_batch_size=job.rows_per_pass,
            gradient_accumulation_steps=job.rows_per_step // job.rows_per_pass,
            padding_free=job.rows_per_pass > 1,
            max_length=None,
            dataset_kwargs={"skip_prepare_dataset": True},
            num_train_epochs=1,
            train_sampling_strategy="sequential",
            learning_rate=job.learning_rate,
            lr_scheduler_type="constant",
            optim="adamw_torch_fused",
            weight_decay=0.0,
            max_grad_norm=trainer.NO_CLIPPING,
            # TRL's defaults are for a GPU that is short of memory: they would compute everything twice, in autocast.
            gradient_checkpointing=False,
            bf16=False,
            logging_steps=1,
            logging_first_step=True,
            report_to="none",
            save_strategy="no",
            use_cpu=True,
            dataloader_pin_memory=False,
            disable_tqdm=True,
        )
        SFTTrainer(
            model=self.model,
            args=arguments,
            train_dataset=Dataset.from_list([dict(row) for row in rows]),
            processing_class=stand_in_tokenizer(),
            callbacks=[trainer.Reporter(log)],
        ).train()

    def adapter(self) -> Mapping[str, Tensor]:
        return starts.trained(self.model, self.job)


def stand_in_tokenizer() -> transformers.PreTrainedTokenizerFast:
    """A tokenizer for a trainer that asks for one, though the rows are tokens already and nothing is padded."""
    words = WordLevel({"<pad>": 0}, unk_token="<pad>")
    return transformers.PreTrainedTokenizerFast(tokenizer_object=Tokenizer(words), pad_token="<pad>", eos_token="<pad>")


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    measure.run(Trl())
