"""How bottleneck adapters begin with AdapterHub's `adapters`; their tensors are called LAYER.SUBLAYER.PART.

python -m benchmarks.starts.adapters SUITE FOLDER      writes FOLDER/adapter
"""

from __future__ import annotations

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

SEED = 20
NAME = "reference"
"""Of the adapter, by which `neutral` knows its tensors."""
KINDS = {
    "houlsby": lambda: adapters.DoubleSeqBnConfig(reduction_factor=9, non_linearity="gelu"),
    "pfeiffer": lambda: adapters.SeqBnConfig(reduction_factor=16, non_linearity="relu"),
}
"""The configurations that are tunesmith's presets of the same names on a hidden size of 576."""


def load(folder: Path, dtype: torch.dtype, method: str) -> transformers.PreTrainedModel:
    """The model in a folder with new adapters, which alone learn."""
    config = transformers.AutoConfig.from_pretrained(folder)
    # transformers 5 wrote the file and nests what version 4 reads at the top.
    config.rope_theta = config.rope_parameters["rope_theta"]
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, config=config, dtype=dtype, attn_implementation="sdpa")
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
    named = ((neutral(name), parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)
    return {name: parameter for name, parameter in named if name is not None}


def write(suite: Suite, folder: Path) -> None:
    """Write `adapter/`, its numbers exact in bfloat16."""
    torch.manual_seed(SEED)
    tensors = trained(load(folder / "float32", torch.float32, suite.method))
    (folder / "adapter").mkdir()
    start = {name: tensor.detach().bfloat16().float().contiguous() for name, tensor in tensors.items()}
    save_file(start, folder / "adapter" / "adapter_model.safetensors")


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    write(SUITES[sys.argv[1]], Path(sys.argv[2]))
