"""What is trainable is what is saved: any method in two files, without knowing it.

trained.safetensors   every parameter that learns, by its name in the model
method.json           the method's name and settings
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from tunesmith import registry, settings
from tunesmith.durable import whole_folder
from tunesmith.errors import ModelError
from tunesmith.method import Method
from tunesmith.model import surgery, token_rows
from tunesmith.model.safe_files import read_json, read_tensors
from tunesmith.tensor_file import json_bytes, num_bytes_of, write_bytes, write_tensors

SCHEMA_VERSION = 1
TENSORS = "trained.safetensors"
METHOD = "method.json"


def trainable(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter that learns, by name; tied ones once."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


@dataclass(frozen=True)
class TwoFiles:
    """What an adapter is kept in: tensors, and what they are."""

    tensors_name: str
    tensors: Mapping[str, Tensor]
    about_name: str
    about: Mapping[str, object]


def write(folder: Path, *adapters: TwoFiles) -> None:
    """Write an adapter to `folder`, in one form or several beside each other, whole or not at all.

    Raises:
        DiskFull: If there is too little room.
        RunError: If the folder cannot be written for another reason.
    """
    with whole_folder(folder, sum(num_bytes_of(adapter.tensors) for adapter in adapters)) as place:
        for adapter in adapters:
            write_tensors(place / adapter.tensors_name, adapter.tensors)
            write_bytes(place / adapter.about_name, [json_bytes(adapter.about)])


def files(model: nn.Module, method: Method) -> TwoFiles:
    """What learns and the method, as they are kept."""
    about = {"schema_version": SCHEMA_VERSION, "method": {"name": method.name, **settings.to_mapping(method)}}
    return TwoFiles(TENSORS, trainable(model), METHOD, about)


def save_trained(model: nn.Module, method: Method, folder: Path) -> None:
    """Write what learns and the method to `folder`, whole or not at all.

    Raises:
        DiskFull: If there is too little room.
        RunError: If the folder cannot be written for another reason.
    """
    write(folder, files(model, method))


def load_trained(model: nn.Module, folder: Path) -> Method:
    """Attach the method saved in `folder` to a bare model and fill in what it learnt.

    Raises:
        InputError: If the files are missing or damaged, or belong to another model.
    """
    about = read_json(folder / METHOD)
    if about.get("schema_version") != SCHEMA_VERSION:
        found = about.get("schema_version")
        raise ModelError(f"{folder} has schema version {found!r}; this tunesmith reads {SCHEMA_VERSION}. Update tunesmith.")
    method = method_from(about.get("method"), str(folder / METHOD))
    tensors = read_tensors(folder / TENSORS)
    method.attach(model)
    fill(model, tensors, str(folder))
    return method


def method_from(mapping: object, where: str) -> Method:
    """The method that a mapping of its `name` and settings describes.

    Raises:
        InputError: If the name is unknown or a setting is wrong.
    """
    tree = settings.check_method(mapping, where)
    name = str(tree.pop("name"))
    return settings.from_mapping(registry.find(registry.METHODS, name, Method), tree, where)


@torch.no_grad()
def fill(model: nn.Module, tensors: Mapping[str, Tensor], where: str, fixed: Mapping[str, Tensor] | None = None) -> None:
    """Copy saved tensors into the parameters of the same names, all that learn, into `fixed`, and into no other.

    Nothing is copied unless everything fits.

    Raises:
        ModelError: If a name is missing or too many, a shape differs, or a number is not finite.
    """
    learning = {**trainable(model), **(fixed or {})}
    missing, surplus = sorted(learning.keys() - tensors.keys()), sorted(tensors.keys() - learning.keys())
    if missing or surplus:
        what = f"lacks {missing[0]!r}" if missing else f"has {surplus[0]!r}, which does not learn here"
        more = f" ({len(missing)} missing, {len(surplus)} too many)"
        raise ModelError(f"{where} does not belong to this model: it {what}{more}. Name the base model that it was trained on.")
    for name, tensor in tensors.items():
        if tensor.shape != learning[name].shape:
            shapes = f"{tuple(tensor.shape)} in the file, {tuple(learning[name].shape)} in the model"
            grown = name.rpartition(".")[0] in token_rows.embeddings(model) and tensor.shape[1:] == learning[name].shape[1:]
            hint = f"If tokens were added, make it as large: model.resize_token_embeddings({len(tensor)})."
            raise ModelError(
                f"{where} does not belong to this model: {name!r} is {shapes}. "
                + (hint if grown else "Name the base model it was trained on.")
            )
        if not torch.isfinite(tensor).all():
            raise ModelError(f"{where}: {name!r} has numbers that are not finite. It was damaged, or training diverged.")
    for name, tensor in tensors.items():
        learning[name].copy_(tensor)


def thaw_saved(model: nn.Module, saved: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Let parameters of the base learn too, because a saved adapter has trained them; of tied ones the first is kept.

    Raises:
        ModelError: If one of them does not exist or is tied to another, which must not change with it.
    """
    shared: dict[int, list[str]] = {}
    for path, module in model.named_modules():
        for name, parameter in module.named_parameters(path, recurse=False):
            shared.setdefault(id(parameter), []).append(name)
    groups = {name: group for group in shared.values() for name in group}
    for name, tensor in saved.items():
        if name not in groups:
            raise ModelError(
                f"{where} holds {name!r}, which this model does not have. Name the base model that it was trained on."
            )
        if any(other not in saved or not torch.equal(saved[other], tensor) for other in groups[name]):
            raise ModelError(
                f"{where} has trained {name!r} on its own, but this model ties it to {(set(groups[name]) - {name}).pop()!r}. "
                "Load a base model whose weights are not tied (tie_word_embeddings=false)."
            )
    kept = {name: tensor for name, tensor in saved.items() if name == groups[name][0]}
    surgery.thaw(model, list(kept))
    return kept
