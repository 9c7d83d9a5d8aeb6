"""What is trainable is what is saved, for every method, without its name being known here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import tiny_models
from tunesmith import registry, settings
from tunesmith.checkpoint import adapter, trained
from tunesmith.errors import InputError, ModelError
from tunesmith.method import Method
from tunesmith.methods.full import Full
from tunesmith.methods.lora import LoRA

METHODS = registry.names("tunesmith.methods")


def _logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model(input_ids=torch.arange(8, 40).view(2, 16)).logits


def _tuned(method: Method, task: tiny_models.Task = "classification") -> nn.Module:
    model = tiny_models.build("bert" if task == "classification" else "llama", task)
    torch.manual_seed(0)
    method.attach(model)
    with torch.no_grad():
        for parameter in trained.trainable(model).values():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


@pytest.mark.parametrize(
    "save", [trained.save_trained, lambda m, k, f: adapter.save(m, k, f, base_model="b")], ids=["own", "any"]
)
@pytest.mark.parametrize("name", METHODS)
def test_every_method_comes_back_bit_for_bit(name: str, save: object, tmp_path: Path) -> None:
    method = registry.find("tunesmith.methods", name, Method)()
    model = _tuned(method)
    save(model, method, tmp_path / "a")  # pyright: ignore[reportCallIssue]
    again = tiny_models.build("bert", "classification")
    loaded = adapter.load(again, tmp_path / "a")
    assert type(loaded) is type(method)
    assert torch.equal(_logits(again), _logits(model))
    save(again, loaded, tmp_path / "b")  # pyright: ignore[reportCallIssue]
    third = tiny_models.build("bert", "classification")
    # PEFT's files hold the results of some networks and not the networks, so settings may change once, but not twice.
    assert adapter.load(third, tmp_path / "b") == loaded
    assert torch.equal(_logits(third), _logits(model))
    assert trained.trainable(third).keys() == trained.trainable(again).keys()


@pytest.mark.parametrize("name", METHODS)
def test_our_own_format_keeps_every_setting_and_tensor(name: str, tmp_path: Path) -> None:
    method = registry.find("tunesmith.methods", name, Method)()
    model = _tuned(method)
    trained.save_trained(model, method, tmp_path / "a")
    again = tiny_models.build("bert", "classification")
    assert adapter.load(again, tmp_path / "a") == method
    assert trained.trainable(again).keys() == trained.trainable(model).keys()


def test_exactly_what_learns_is_written(tmp_path: Path) -> None:
    model = _tuned(LoRA(rank=2))
    trained.save_trained(model, LoRA(rank=2), tmp_path / "a")
    assert load_file(tmp_path / "a" / trained.TENSORS).keys() == {n for n, p in model.named_parameters() if p.requires_grad}
    about = json.loads((tmp_path / "a" / trained.METHOD).read_text())["method"]
    assert about == {"name": "lora", **settings.to_mapping(LoRA(rank=2))}


@pytest.mark.parametrize("damage", ["missing", "surplus", "shape", "nan"])
def test_nothing_is_filled_in_unless_everything_fits(damage: str, tmp_path: Path) -> None:
    trained.save_trained(_tuned(Full()), Full(), tmp_path / "a")
    path = tmp_path / "a" / trained.TENSORS
    tensors = load_file(path)
    name = "classifier.weight"
    tensors |= {"surplus": torch.ones(2)} if damage == "surplus" else {}
    tensors[name] = (
        tensors[name][:, 1:].contiguous() if damage == "shape" else tensors[name] * (float("nan") if damage == "nan" else 1)
    )
    if damage == "missing":
        del tensors[name]
    save_file(tensors, path)
    model = tiny_models.build("bert", "classification")
    before = _logits(model)
    with pytest.raises(ModelError, match=r"does not belong|not finite"):
        adapter.load(model, tmp_path / "a")
    assert torch.equal(_logits(model), before)


@pytest.mark.parametrize(
    ("about", "said"),
    [
        ({"schema_version": 2}, "schema version 2"),
        ({"schema_version": 1}, "method"),
        ({"schema_version": 1, "method": {"name": "lorra"}}, "Did you mean 'lora'"),
        ({"schema_version": 1, "method": {"name": "lora", "rnk": 2}}, "rank"),
        ({"schema_version": 1, "method": {"name": "lora", "rank": "2"}}, "rank"),
        ({"schema_version": 1, "method": {"name": "os.system"}}, "Unknown method"),
    ],
    ids=str,
)
def test_a_wrong_method_file_is_told(about: dict[str, object], said: str, tmp_path: Path) -> None:
    trained.save_trained(_tuned(Full()), Full(), tmp_path / "a")
    (tmp_path / "a" / trained.METHOD).write_text(json.dumps(about))
    with pytest.raises(InputError, match=said):
        adapter.load(tiny_models.build("bert", "classification"), tmp_path / "a")


def test_no_adapter_is_told(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="holds no adapter"):
        adapter.load(tiny_models.build("llama"), tmp_path)
