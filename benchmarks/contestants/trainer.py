"""Training by the Trainer of transformers, as all peers do that use it."""

from __future__ import annotations

import torch
import transformers
from torch import Tensor, nn
from torch.utils.data import Dataset, SequentialSampler

from benchmarks import measure
from benchmarks.job import Job
from benchmarks.workload import IGNORED, Row, Task


class Rows(Dataset[Row]):
    """The rows as the Trainer wants them."""

    def __init__(self, rows: list[Row]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Row:
        return self.rows[index]


class InOrder(transformers.Trainer):
    """Takes the rows in the order given, in every version of transformers."""

    def _get_train_sampler(self, train_dataset: Rows | None = None) -> SequentialSampler:
        return SequentialSampler(train_dataset or self.train_dataset)


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


def train(model: nn.Module, rows: list[Row], job: Job, log: measure.StepLog) -> None:
    """Train what of the model learns, as `measure.Contestant.train` asks for."""
    arguments = transformers.TrainingArguments(
        output_dir=str(job.folder / "trainer"),
        per_device_train_batch_size=job.rows_per_pass,
        gradient_accumulation_steps=job.rows_per_step // job.rows_per_pass,
        num_train_epochs=1,
        learning_rate=job.learning_rate,
        lr_scheduler_type="constant",
        optim="adamw_torch_fused",
        weight_decay=0.0,
        max_grad_norm=NO_CLIPPING,
        bf16=job.precision == "autocast",
        logging_steps=1,
        logging_first_step=True,
        report_to="none",
        save_strategy="no",
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=False,
        disable_tqdm=True,
        # The rows are ours; their fields are those of `Row`, whatever the model's forward is wrapped in.
        remove_unused_columns=False,
    )
    pad_token_id = model.config.pad_token_id
    InOrder(
        model=model,
        args=arguments,
        train_dataset=Rows(rows),
        data_collator=lambda part: pad(part, pad_token_id, job.task),
        callbacks=[Reporter(log)],
    ).train()


NO_CLIPPING = 0.0 if int(transformers.__version__.split(".")[0]) >= 5 else 1e9
"""Version 4 reports no gradient norm where it is not asked to clip."""


def pad(rows: list[Row], pad_token_id: int, task: Task = "causal") -> dict[str, Tensor]:
    """A batch as long as its longest row: ids and mask `(rows, tokens)`, and labels, of the same shape or `(rows,)`."""
    length = max(len(row["input_ids"]) for row in rows)

    def filled(values: list[list[int]], filler: int) -> Tensor:
        return torch.tensor([row + [filler] * (length - len(row)) for row in values])

    labels = [row["labels"] for row in rows]
    return {
        "input_ids": filled([row["input_ids"] for row in rows], pad_token_id),
        "attention_mask": filled([[1] * len(row["input_ids"]) for row in rows], 0),
        "labels": torch.tensor(labels).flatten() if task == "classification" else filled(labels, IGNORED),
    }
