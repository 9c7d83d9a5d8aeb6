"""LitGPT: its model, its LoRA on all linear layers, its chunked head and loss, and its loop without evaluation and logging.

Its script reads a text data set and averages the means of micro-batches; here the rows are everyone's, and every pass counts
by its labelled tokens, so that a step's loss is the mean over all of them, as it is for all others.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

import lightning
import torch
from litgpt.lora import GPT, Config, mark_only_lora_as_trainable
from litgpt.scripts.convert_hf_checkpoint import copy_weights_hf_llama
from litgpt.utils import chunked_cross_entropy
from safetensors.torch import load_file
from torch import Tensor

from benchmarks import measure, workload
from benchmarks.job import Job
from benchmarks.workload import IGNORED, Row

NAMED_LIKE = "SmolLM2-135M-Instruct"
HEAD_CHUNK = 128
"""As its finetuning scripts ask for."""
SHARED = {"attn.proj": "self_attn.o_proj", "mlp.fc_1": "mlp.gate_proj", "mlp.fc_2": "mlp.up_proj", "mlp.proj": "mlp.down_proj"}
"""LitGPT's layers that are one of PEFT's; `attn.qkv` is three."""
STACKED = ("q_proj", "k_proj", "v_proj")


class LitGpt(measure.Contestant):
    """LoRA by LitGPT."""

    packages = ("torch", "litgpt", "lightning", "safetensors", "numpy")

    def load(self, job: Job) -> None:
        settings = json.loads((job.folder / "adapter" / "adapter_config.json").read_text())
        everywhere = {f"lora_{part}": True for part in ("query", "key", "value", "projection", "mlp")}
        config = Config.from_name(
            NAMED_LIKE, lora_r=settings["r"], lora_alpha=settings["lora_alpha"], lora_dropout=0.0, **everywhere
        )
        precision = {"float32": "32-true", "bfloat16": "bf16-true"}[job.weights]
        self.fabric = lightning.Fabric(accelerator="cpu", devices=1, precision=precision)
        with self.fabric.init_module(empty_init=False):
            model = GPT(config)
        mark_only_lora_as_trainable(model)
        weights = converted(load_file(job.folder / job.weights / "model.safetensors"), config)
        start = merged(load_file(job.start_file), config)
        rest = model.load_state_dict({**weights, **start}, strict=False)
        if missing := [name for name in (*rest.missing_keys, *rest.unexpected_keys) if "cos" not in name and "sin" not in name]:
            raise SystemExit(f"LitGPT's model and the checkpoint differ in {missing[:4]} ({len(missing)} in all).")
        self.config, self.model = config, self.fabric.setup_module(model)

    def train(self, rows: list[Row], job: Job, log: measure.StepLog) -> None:
        self.model.max_seq_length = max(len(row["input_ids"]) for row in rows)
        learning = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        optimizer = self.fabric.setup_optimizers(
            torch.optim.AdamW(learning, lr=job.learning_rate, weight_decay=0.0, fused=True)
        )
        self.model.train()
        log.start()
        for first in range(0, len(rows), job.rows_per_step):
            step = rows[first : first + job.rows_per_step]
            num_labelled, loss_sum = workload.num_labelled(step), 0.0
            for part in (step[at : at + job.rows_per_pass] for at in range(0, len(step), job.rows_per_pass)):
                input_ids, targets = padded(part)
                logits = self.model(input_ids, lm_head_chunk_size=HEAD_CHUNK)
                logits[-1] = logits[-1][..., :-1, :]
                loss = chunked_cross_entropy(logits, targets[..., 1:]) * (workload.num_labelled(part) / num_labelled)
                self.fabric.backward(loss)
                loss_sum += float(loss.detach())
            norm = torch.nn.utils.get_total_norm([parameter.grad for parameter in learning if parameter.grad is not None])
            optimizer.step()
            optimizer.zero_grad()
            log.report(loss_sum, float(norm))
            log.step_ended()

    def adapter(self) -> Mapping[str, Tensor]:
        trained = {name: value for name, value in self.model.module.named_parameters() if value.requires_grad}
        return dict(split(trained, self.config))


def merged(peft: Mapping[str, Tensor], config: Config) -> dict[str, Tensor]:
    """The adapter by LitGPT's names: those of q, k and v one below the other."""
    found = {}
    for layer in range(config.n_layer):
        for which in ("A", "B"):
            stack = [peft[peft_name(layer, f"self_attn.{part}", which)] for part in STACKED]
            found[f"transformer.h.{layer}.attn.qkv.lora_{which}"] = torch.cat(stack)
            for ours, theirs in SHARED.items():
                found[f"transformer.h.{layer}.{ours}.lora_{which}"] = peft[peft_name(layer, theirs, which)]
    return found


def split(trained: Mapping[str, Tensor], config: Config) -> Iterator[tuple[str, Tensor]]:
    """The inverse: the adapter by PEFT's names."""
    of_kv = config.head_size * config.n_query_groups
    sizes = {"A": [config.lora_r] * 3, "B": [config.head_size * config.n_head, of_kv, of_kv]}
    for layer in range(config.n_layer):
        for which in ("A", "B"):
            stack = trained[f"transformer.h.{layer}.attn.qkv.lora_{which}"].split(sizes[which])
            for part, tensor in zip(STACKED, stack, strict=True):
                yield peft_name(layer, f"self_attn.{part}", which), tensor
            for ours, theirs in SHARED.items():
                yield peft_name(layer, theirs, which), trained[f"transformer.h.{layer}.{ours}.lora_{which}"]


def converted(weights: dict[str, Tensor], config: Config) -> dict[str, Tensor]:
    """The model's weights by the names of LitGPT's LoRA model, through LitGPT's own conversion."""
    plain: dict[str, Tensor] = {}
    copy_weights_hf_llama(config, {}, plain, weights)
    adapted = ("attn.qkv", "lm_head", *SHARED)
    return {
        name.replace(".weight", ".linear.weight") if name.removesuffix(".weight").endswith(adapted) else name: value
        for name, value in plain.items()
    }


def peft_name(layer: int, module: str, which: str) -> str:
    """The name of a tensor in PEFT's file."""
    return f"base_model.model.model.layers.{layer}.{module}.lora_{which}.weight"


def padded(rows: list[Row]) -> tuple[Tensor, Tensor]:
    """Ids and targets `(rows, tokens)` as long as the longest row; being causal, no row sees what fills it up."""
    length = max(len(row["input_ids"]) for row in rows)
    ids = [row["input_ids"] + [0] * (length - len(row["input_ids"])) for row in rows]
    targets = [row["labels"] + [IGNORED] * (length - len(row["labels"])) for row in rows]
    return torch.tensor(ids), torch.tensor(targets)


if __name__ == "__main__":
    measure.run(LitGpt())
