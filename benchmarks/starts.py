"""What learns in a suite, as it begins: written once by a peer, loaded by everyone. Runs in the environment of PEFT."""

from __future__ import annotations

from pathlib import Path

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedModel

from benchmarks.suites import Suite

RANK, ALPHA = 16, 32


def lora(task_type: str) -> PeftConfig:
    """LoRA on all linear layers."""
    return LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type=task_type)


CONFIGURATIONS = {"lora": lora}
"""How PEFT is asked for each method."""
TASK_TYPES = {"causal": "CAUSAL_LM", "classification": "SEQ_CLS"}
_CLASSES = {"causal": AutoModelForCausalLM, "classification": AutoModelForSequenceClassification}


def write(suite: Suite, folder: Path) -> None:
    """Write `adapter/` in PEFT's format, its numbers exact in bfloat16."""
    model = _CLASSES[suite.work.task].from_pretrained(folder / "float32", dtype=torch.float32)
    adapted = attached(suite, model)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.copy_(parameter.bfloat16().float())
    adapted.save_pretrained(str(folder / "adapter"), save_embedding_layers=False)


def attached(suite: Suite, model: PreTrainedModel) -> PeftModel:
    """The model with a new adapter."""
    return get_peft_model(model, CONFIGURATIONS[suite.method](TASK_TYPES[suite.work.task]))
