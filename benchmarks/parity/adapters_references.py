"""What AdapterHub's `adapters` computes with bottleneck adapters in tiny models, written down for the tests to compare with.

python -m benchmarks.parity.adapters_references    makes .venv-adapters if need be, writes tests/parity/references

Every weight is drawn here, by its name, so that no library's random numbers enter. A reference holds in float64 the base
weights, the adapters' weights and gradients, the input, the labels, the logits and the loss.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks import peer_environment

if TYPE_CHECKING:
    from torch import nn

FOLDER = peer_environment.ROOT / "tests" / "parity" / "references"
MODELS = ("bert", "llama")
SETTINGS: dict[str, dict[str, object]] = {
    "houlsby": {"kind": "DoubleSeqBnConfig", "reduction_factor": 2, "non_linearity": "gelu"},
    "pfeiffer": {"kind": "SeqBnConfig", "reduction_factor": 4, "non_linearity": "relu"},
    "parallel-adapter": {"kind": "ParBnConfig", "reduction_factor": 2, "non_linearity": "relu"},
}
"""By preset: the peer's configuration, with a width for tiny models."""
_SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 40}
_NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
_PLACES = {
    "attention": re.compile(r"layers?\.(\d+)\.(?:attention\.output|attention_adapters)\.adapters\.reference\.(.+)"),
    "feed-forward": re.compile(r"layers?\.(\d+)\.(?:output|output_adapters)\.adapters\.reference\.(.+)"),
}
_PARTS = {"adapter_down.0.weight": "down", "adapter_down.0.bias": "down_bias"}
_PARTS |= {"adapter_up.weight": "up", "adapter_up.bias": "up_bias"}


def drawn(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers that depend on the tensor's name alone; what scales (norms) lies about one."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    numbers = np.random.Generator(np.random.Philox(seed)).standard_normal(shape) * 0.3
    return numbers + 1 if re.search(r"norm\.weight$", name, re.IGNORECASE) else numbers


def neutral(name: str) -> str | None:
    """`LAYER.SUBLAYER.PART` of a parameter of the peer's adapters, None for one of the base model."""
    for sublayer, pattern in _PLACES.items():
        if match := pattern.search(name):
            return f"{match[1]}.{sublayer}.{_PARTS[match[2]]}"
    return None


def write(model_name: str, preset: str, path: Path) -> None:
    """Compute one reference and write it; runs in the peer's environment."""
    import torch
    from safetensors.torch import save_file

    model, base = _tuned(model_name, preset)
    ids = torch.from_numpy(np.random.Generator(np.random.Philox(1)).integers(1, _SIZES["vocab_size"], (2, 7)))
    labels = torch.tensor([2, 0]) if model_name == "bert" else ids
    output = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels)
    output.loss.backward()
    tensors = {"input_ids": ids, "labels": labels, "logits": output.logits, "loss": output.loss}
    for name, parameter in model.named_parameters():
        place = neutral(name)
        if place is not None:
            tensors |= {f"adapter.{place}": parameter, f"gradient.{place}": parameter.grad}
        elif name in base:
            tensors[f"base.{name}"] = parameter
    save_file({name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}, path)


def _tuned(model_name: str, preset: str) -> tuple[nn.Module, set[str]]:
    """The peer's model with its adapters, every weight drawn by its name, and the names of the base model's parameters."""
    import adapters
    import torch
    from transformers import BertConfig, BertForSequenceClassification, LlamaConfig, LlamaForCausalLM

    common = {**_SIZES, "max_position_embeddings": 16, "pad_token_id": 0}
    if model_name == "bert":
        model = BertForSequenceClassification(BertConfig(**common, **_NO_DROPOUT, num_labels=3))
    else:
        model = LlamaForCausalLM(LlamaConfig(**common, num_key_value_heads=2))
    base = {name for name, _ in model.named_parameters()}
    adapters.init(model)
    settings = dict(SETTINGS[preset])
    kind = getattr(adapters, str(settings.pop("kind")))
    model.add_adapter("reference", config=kind(**settings))
    model.train_adapter("reference")
    model.double().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(drawn(name, tuple(parameter.shape))))
    return model, base


def main(arguments: list[str]) -> None:
    """Write all references, through the peer's environment; with arguments, write one in this environment."""
    if arguments:
        write(arguments[0], arguments[1], Path(arguments[2]))
        return
    FOLDER.mkdir(exist_ok=True)
    for model_name in MODELS:
        for preset in SETTINGS:
            path = FOLDER / f"{model_name}-{preset}.safetensors"
            command = [str(peer_environment.python("adapters")), "-m", "benchmarks.parity.adapters_references"]
            subprocess.run([*command, model_name, preset, str(path)], check=True, cwd=peer_environment.ROOT)
            print(f"wrote {path.relative_to(peer_environment.ROOT)}")


if __name__ == "__main__":
    main(sys.argv[1:])
