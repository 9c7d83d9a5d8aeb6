"""How what learns begins with AdapterHub's `adapters`.

Tensors of bottleneck adapters are called LAYER.SUBLAYER.PART; those of LoRA, and of a new head, as in PEFT's format, in which
they are written.

python -m benchmarks.starts.adapters SUITE FOLDER      writes FOLDER/adapter
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path

import adapters
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from benchmarks.job import Job
from benchmarks.parity.adapters_references import neutral
from benchmarks.suites import SUITES, Suite
from benchmarks.workload import Task

SEED = 20
NAME = "reference"
"""Of the adapter, by which `neutral` knows its tensors."""
LORA = {"r": 16, "alpha": 32}
KINDS = {
    "houlsby": lambda: adapters.DoubleSeqBnConfig(reduction_factor=9, non_linearity="gelu"),
    "pfeiffer": lambda: adapters.SeqBnConfig(reduction_factor=16, non_linearity="relu"),
    "lora": lambda: adapters.LoRAConfig(
        **LORA, attn_matrices=["q", "k", "v"], intermediate_lora=True, output_lora=True, init_weights="lora"
    ),
}
"""The configurations that are tunesmith's presets of the same names on a hidden size of 576; LoRA wherever the peer has it,
that is in all linear layers but the one that ends attention."""
_LORA = re.compile(rf"(.+)\.loras\.{NAME}\.(lora_[AB])")


def load(folder: Path, dtype: torch.dtype, task: Task, method: str) -> transformers.PreTrainedModel:
    """The model in a folder with new adapters, which alone learn, and where rows are classified a head."""
    config = transformers.AutoConfig.from_pretrained(folder)
    kind = transformers.AutoModelForSequenceClassification
    if task == "causal":
        kind = transformers.AutoModelForCausalLM
        # transformers 5 wrote the file and nests what version 4 reads at the top.
        config.rope_theta = config.rope_parameters["rope_theta"]
    model = kind.from_pretrained(folder, config=config, dtype=dtype, attn_implementation="sdpa")
    adapters.init(model)
    model.add_adapter(NAME, config=KINDS[method]())
    model.train_adapter(NAME)
    return model.to(dtype)


@torch.no_grad()
def begin(model: nn.Module, job: Job) -> None:
    """Give the adapters their initial tensors."""
    start = load_file(job.start_file)
    for name, parameter in trained(model).items():
        parameter.copy_(start[name])


def trained(model: nn.Module) -> Mapping[str, Tensor]:
    """What learns as it is now, by the names of its start."""
    return {name_in_file(name): parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def name_in_file(name: str) -> str:
    """The name of the start of a parameter that learns."""
    lora = _LORA.fullmatch(name)
    return neutral(name) or f"base_model.model.{f'{lora[1]}.{lora[2]}.weight' if lora else name}"


def write(suite: Suite, folder: Path) -> None:
    """Write `adapter/`, its numbers exact in bfloat16."""
    torch.manual_seed(SEED)
    tensors = trained(load(folder / "float32", torch.float32, suite.work.task, suite.method))
    (folder / "adapter").mkdir()
    start = {name: tensor.detach().bfloat16().float().contiguous() for name, tensor in tensors.items()}
    save_file(start, folder / "adapter" / "adapter_model.safetensors")
    if suite.method == "lora":
        (folder / "adapter" / "adapter_config.json").write_text(json.dumps(_peft_config(list(start)), indent=1))


def _peft_config(names: list[str]) -> dict[str, object]:
    """What PEFT would say of a LoRA whose tensors have these names."""
    layers = {name.removeprefix("base_model.model.").partition(".lora_")[0] for name in names if ".lora_" in name}
    kind = {"peft_type": "LORA", "task_type": "SEQ_CLS", "r": LORA["r"], "lora_alpha": LORA["alpha"]}
    return {**kind, "target_modules": sorted(layers), "modules_to_save": ["classifier"]}


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    write(SUITES[sys.argv[1]], Path(sys.argv[2]))
