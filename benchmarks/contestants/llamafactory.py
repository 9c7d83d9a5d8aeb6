"""LLaMA-Factory: its arguments, its loading, its trainer, on rows that are tokens already.

Of its collator only the padding to a multiple of 8 matters for text, and that is the base class used here. Its `pure_bf16` asks
for a GPU, so that what learns is in float32 and a base in bfloat16 is used under autocast, as in all of its examples.
"""

from __future__ import annotations

import importlib.machinery
import sys
import types
from collections.abc import Mapping

import transformers
from peft import get_peft_model_state_dict
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor

from benchmarks import measure
from benchmarks.contestants import trainer
from benchmarks.job import Job
from benchmarks.workload import Row

# It imports torchaudio for rows with sound, whose published build needs CUDA's libraries; text never gets there.
AUDIO = "torchaudio"
sys.modules[AUDIO] = types.ModuleType(AUDIO)
sys.modules[AUDIO].__spec__ = importlib.machinery.ModuleSpec(AUDIO, None)
from llamafactory.hparams import get_train_args  # noqa: E402
from llamafactory.model import load_model  # noqa: E402
from llamafactory.train.sft.trainer import CustomSeq2SeqTrainer  # noqa: E402

del sys.modules[AUDIO]

NO_CLIPPING = 1e9


class LlamaFactory(measure.Contestant):
    """LoRA by LLaMA-Factory."""

    packages = ("torch", "llamafactory", "transformers", "peft", "accelerate", "safetensors", "numpy")

    def load(self, job: Job) -> None:
        model_arguments, _, self.arguments, self.method_arguments, _ = get_train_args(
            {
                "stage": "sft",
                "do_train": True,
                "finetuning_type": "lora",
                "model_name_or_path": str(job.folder / job.weights),
                "adapter_name_or_path": str(job.folder / "adapter"),
                "dataset": "the_rows_of_the_benchmark",
                "flash_attn": "sdpa",
                "disable_gradient_checkpointing": True,
                "disable_shuffling": True,
                "bf16": job.weights == "bfloat16",
                "output_dir": str(job.folder / "trainer"),
                "per_device_train_batch_size": job.rows_per_pass,
                "gradient_accumulation_steps": job.rows_per_step // job.rows_per_pass,
                "num_train_epochs": 1,
                "learning_rate": job.learning_rate,
                "lr_scheduler_type": "constant",
                "optim": "adamw_torch_fused",
                "weight_decay": 0.0,
                "max_grad_norm": NO_CLIPPING,
                "logging_steps": 1,
                "logging_first_step": True,
                "report_to": "none",
                "save_strategy": "no",
                "use_cpu": True,
                "dataloader_pin_memory": False,
                "disable_tqdm": True,
            }
        )
        self.tokenizer = stand_in_tokenizer()
        self.model = load_model(self.tokenizer, model_arguments, self.method_arguments, is_trainable=True)

    def train(self, rows: list[Row], job: Job, log: measure.StepLog) -> None:
        CustomSeq2SeqTrainer(
            model=self.model,
            args=self.arguments,
            finetuning_args=self.method_arguments,
            processor=None,
            tokenizer=self.tokenizer,
            train_dataset=trainer.Rows(rows),
            data_collator=transformers.DataCollatorForSeq2Seq(self.tokenizer, pad_to_multiple_of=8),
            callbacks=[trainer.Reporter(log)],
        ).train()

    def adapter(self) -> Mapping[str, Tensor]:
        return get_peft_model_state_dict(self.model, save_embedding_layers=False)


def stand_in_tokenizer() -> transformers.PreTrainedTokenizerFast:
    """A tokenizer for a trainer that asks for one; the rows are tokens already, and what it pads is masked."""
    words = WordLevel({"<pad>": 0}, unk_token="<pad>")
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(words), pad_token="<pad>", eos_token="<pad>", padding_side="right"
    )


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    measure.run(LlamaFactory())
