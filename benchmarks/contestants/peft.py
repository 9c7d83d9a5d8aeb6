"""PEFT + the Trainer of transformers: a newcomer's settings, and the best that were found for two cores."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import transformers
from peft import PeftModel, get_peft_model_state_dict
from torch import Tensor
from torch.utils.data import Dataset

from benchmarks import measure
from benchmarks.job import Job
from benchmarks.workload import IGNORED, Row


class Rows(Dataset[Row]):
    """The rows as the Trainer wants them."""

    def __init__(self, rows: list[Row]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Row:
        return self.rows[index]


class Reporter(transformers.TrainerCallback):
    """Hands time, loss and gradient norm of every step to the log."""

    def __init__(self, log: measure.StepLog) -> None:
        self.log = log

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        """The Trainer has made its preparations; they belong to no step."""
        self.log.start()

    def on_step_end(self, args, state, control, **kwargs) -> None:
        """An optimizer step is complete."""
        self.log.step_ended()

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        """The Trainer reports a step, or its totals at the end."""
        if logs and "loss" in logs:
            self.log.report(float(logs["loss"]), float(logs["grad_norm"]))


class Peft(measure.Contestant):
    """LoRA by PEFT, trained by the Trainer."""

    packages = ("torch", "transformers", "peft", "accelerate", "safetensors", "numpy")

    def load(self, job: Job) -> None:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            job.folder / job.weights,
            dtype=getattr(torch, job.weights),
            attn_implementation="sdpa",
            quantization_config=quantisation(job),
        )
        self.model = PeftModel.from_pretrained(
            model, job.folder / "adapter", is_trainable=True, autocast_adapter_dtype=job.precision == "float32"
        )

    def train(self, rows: list[Row], job: Job, log: measure.StepLog) -> None:
        arguments = transformers.TrainingArguments(
            output_dir=str(job.folder / "trainer"),
            per_device_train_batch_size=job.rows_per_pass,
            gradient_accumulation_steps=job.rows_per_step // job.rows_per_pass,
            num_train_epochs=1,
            train_sampling_strategy="sequential",
            learning_rate=job.learning_rate,
            lr_scheduler_type="constant",
            optim="adamw_torch_fused",
            weight_decay=0.0,
            max_grad_norm=0.0,
            logging_steps=1,
            logging_first_step=True,
            report_to="none",
            save_strategy="no",
            use_cpu=True,
            dataloader_pin_memory=False,
            disable_tqdm=True,
        )
        pad_token_id = self.model.config.pad_token_id
        transformers.Trainer(
            model=self.model,
            args=arguments,
            train_dataset=Rows(rows),
            data_collator=lambda part: pad(part, pad_token_id),
            callbacks=[Reporter(log)],
        ).train()

    def adapter(self) -> Mapping[str, Tensor]:
        return get_peft_model_state_dict(self.model, save_embedding_layers=False)


def quantisation(job: Job) -> transformers.BitsAndBytesConfig | None:
    """QLoRA's format by bitsandbytes, None for a base in 16 bits."""
    if job.base_bits == 16:
        return None
    return transformers.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, job.precision),
    )


def pad(rows: list[Row], pad_token_id: int) -> dict[str, Tensor]:
    """A batch as long as its longest row: ids, mask and labels, `(rows, tokens)` each."""
    length = max(len(row["input_ids"]) for row in rows)

    def filled(values: list[list[int]], filler: int) -> Tensor:
        return torch.tensor([row + [filler] * (length - len(row)) for row in values])

    return {
        "input_ids": filled([row["input_ids"] for row in rows], pad_token_id),
        "attention_mask": filled([[1] * len(row["input_ids"]) for row in rows], 0),
        "labels": filled([row["labels"] for row in rows], IGNORED),
    }


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    measure.run(Peft())
