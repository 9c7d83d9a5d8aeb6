"""How what learns begins with tunesmith: adapters that PEFT wrote are loaded as such, others are filled in by name."""

from __future__ import annotations

import re
from collections.abc import Mapping

from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel

from benchmarks.job import Job
from tunesmith import registry, settings
from tunesmith.checkpoint import peft_format
from tunesmith.checkpoint.trained import fill, trainable
from tunesmith.interchange import PeftFormat
from tunesmith.method import Method
from tunesmith.model import virtual_tokens

IN_PEFTS_FORMAT = ("lora", "prefix", "prompt", "ia3")


def attached(model: PreTrainedModel, job: Job) -> Method:
    """Attach the method of a job, at its start."""
    if job.method in IN_PEFTS_FORMAT:
        return peft_format.load(model, job.folder / "adapter")
    method, start = method_of(job.method), load_file(job.start_file)
    method.attach(model)
    names = _names(model, job.method)
    fill(model, {ours: start[theirs] for ours, theirs in names.items()}, str(job.start_file))
    return method


def trained(model: PreTrainedModel, method: Method, tensors: Mapping[str, Tensor], job: Job) -> Mapping[str, Tensor]:
    """Trained tensors, by their names in the model, under the names of the start."""
    if job.method not in IN_PEFTS_FORMAT:
        return {theirs: tensors[ours] for ours, theirs in _names(model, job.method).items()}
    assert isinstance(method, PeftFormat)
    parts = method.to_peft(model, tensors)
    return {**parts.tensors, **{f"{method.peft_prefix}{name}": tensor for name, tensor in parts.heads.items()}}


def method_of(name: str) -> Method:
    """The method or preset of a name, with its own settings."""
    presets = settings.preset_names()
    tree = dict(settings.load_preset(name)["method"]) if name in presets else {"name": name}
    kind = registry.find(registry.METHODS, str(tree.pop("name")), Method)
    return settings.from_mapping(kind, tree, name)


def _names(model: PreTrainedModel, method: str) -> dict[str, str]:
    """The names of the start by ours."""
    ours = list(trainable(model))
    if method == "full":
        return {name: name for name in ours}
    if method == "ptuning":
        prefix = f"{virtual_tokens.find(model)[0]}."
        pieces = {name: re.sub("^mlp", "mlp_head", name.removeprefix(prefix)) for name in ours}
        return {name: "embedding.weight" if piece == "vectors" else piece for name, piece in pieces.items()}
    return {name: _place(name) for name in ours}


def _place(name: str) -> str:
    """LAYER.SUBLAYER.PART of a bottleneck's tensor in a decoder."""
    layer, inside, part = re.fullmatch(r"model\.layers\.(\d+)\.(.*)bottleneck\.(\w+)", name).groups()  # pyright: ignore
    return f"{layer}.{'attention' if inside.startswith('self_attn') else 'feed-forward'}.{part}"
