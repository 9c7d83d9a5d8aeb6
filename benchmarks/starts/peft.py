"""How what learns begins with PEFT: written in its format, loaded by its own functions.

python -m benchmarks.starts.peft SUITE FOLDER      writes FOLDER/adapter
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import transformers
from peft import (
    IA3Config,
    LoraConfig,
    PeftConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from benchmarks.job import Job
from benchmarks.suites import SUITES, Suite

SEED = 20
KINDS: dict[str, Callable[[str], PeftConfig]] = {
    "lora": lambda task: LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type=task),
    "prefix": lambda task: PrefixTuningConfig(num_virtual_tokens=20, task_type=task),
    "prompt": lambda task: PromptTuningConfig(num_virtual_tokens=100, task_type=task),
    "ptuning": lambda task: PromptEncoderConfig(num_virtual_tokens=20, encoder_hidden_size=576, task_type=task),
    "ia3": lambda task: IA3Config(task_type=task),
}
"""How PEFT is asked for a method; what is not said is its default."""
SCALED = {"ptuning": "mlp_head.4."}
"""Which tensors a suite's scale is for, where a network makes the prompt: those of its last layer."""
MODELS = {
    "causal": ("CAUSAL_LM", transformers.AutoModelForCausalLM),
    "classification": ("SEQ_CLS", transformers.AutoModelForSequenceClassification),
}
"""By task: PEFT's word for it, and the class that loads a model."""


def write(suite: Suite, folder: Path) -> None:
    """Write `adapter/`, its numbers exact in bfloat16; of a model that learns as a whole, its weights."""
    place = folder / "adapter"
    start_file = place / "adapter_model.safetensors"
    if suite.method == "full":
        place.mkdir()
        os.link(folder / "float32" / "model.safetensors", start_file)
        return
    torch.manual_seed(SEED)
    task, kind = MODELS[suite.work.task]
    adapted = get_peft_model(kind.from_pretrained(folder / "float32", dtype=torch.float32), KINDS[suite.method](task))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if parameter.requires_grad:
                scale = suite.start_scale if SCALED.get(suite.method, "") in name else 1.0
                parameter.copy_((scale * parameter).bfloat16().float())
    adapted.save_pretrained(str(place), save_embedding_layers=False)
    if suite.method == "ptuning":
        # PEFT keeps the finished prompt only, and none of the network that makes it while training.
        save_file(dict(encoder(adapted).state_dict()), start_file)


def attached(model: transformers.PreTrainedModel, job: Job) -> nn.Module:
    """The model with what learns at its start."""
    if job.method == "full":
        return model
    folder, in_float32 = str(job.folder / "adapter"), job.weights == "float32"
    config = PeftConfig.from_pretrained(folder)
    if not config.is_prompt_learning:
        return PeftModel.from_pretrained(model, folder, is_trainable=True, autocast_adapter_dtype=in_float32)
    # PEFT loads no prompt to train it further.
    config.inference_mode = False
    adapted, start = get_peft_model(model, config, autocast_adapter_dtype=in_float32), load_file(job.start_file)
    if job.method == "ptuning":
        encoder(adapted).load_state_dict(start)
    else:
        set_peft_model_state_dict(adapted, start)
    return adapted


def trained(model: nn.Module, job: Job) -> Mapping[str, Tensor]:
    """What learns as it is now, by the names of its start."""
    if job.method == "full":
        return dict(model.named_parameters())
    assert isinstance(model, PeftModel)
    if job.method == "ptuning":
        return encoder(model).state_dict()
    return get_peft_model_state_dict(model, save_embedding_layers=False)


def encoder(model: PeftModel) -> nn.Module:
    """The network that makes a prompt, and its vectors."""
    return model.get_submodule("prompt_encoder.default")


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    write(SUITES[sys.argv[1]], Path(sys.argv[2]))
