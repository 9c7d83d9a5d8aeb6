"""VeRA's random pair comes from PEFT's file, else from the seed; PiSSA comes as the LoRA that PEFT makes of it."""

from __future__ import annotations

import json
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import tiny_models
from tunesmith.checkpoint import adapter, peft_format
from tunesmith.errors import InputError
from tunesmith.methods.lora import LoRA
from tunesmith.methods.vera import VeRA

PAIR = ("base_model.vera_A", "base_model.vera_B")


def _logits(model: nn.Module) -> Tensor:
    ids = torch.arange(8, 40).view(2, 16)
    with torch.no_grad():
        return model.eval().double()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits


def _shake(model: nn.Module) -> None:
    """Stand in for training: move everything that learns."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in (p for p in model.parameters() if p.requires_grad):
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)


def _saved_by_peft(folder: Path, base: nn.Module | None = None, **chosen: object) -> None:
    config = peft.VeraConfig(**{"r": 16, "target_modules": "all-linear", "task_type": "CAUSAL_LM", **chosen})  # pyright: ignore
    theirs = peft.get_peft_model(base or tiny_models.build("llama"), config)  # pyright: ignore
    _shake(theirs)
    theirs.save_pretrained(folder)


def _in_peft(folder: Path) -> nn.Module:
    return peft.PeftModel.from_pretrained(tiny_models.build("llama"), folder)  # pyright: ignore


def _here(folder: Path) -> tuple[nn.Module, VeRA]:
    model = tiny_models.build("llama")
    method = adapter.load(model, folder)
    assert isinstance(method, VeRA)
    return model, method


def _edit(folder: Path, **changes: object) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _same(mine: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(mine, theirs, rtol=1e-11, atol=1e-11)


@pytest.mark.filterwarnings("ignore:Specified to not (save|load) vera_A:UserWarning")
def test_a_pair_that_is_not_saved_is_drawn_from_the_key(tmp_path: Path) -> None:
    _saved_by_peft(tmp_path, save_projection=False, projection_prng_key=11, d_initial=0.3)
    assert not load_file(tmp_path / "adapter_model.safetensors").keys() & set(PAIR)
    model, method = _here(tmp_path)
    assert method == VeRA(rank=16, seed=11, start=0.3)
    _same(_logits(model), _logits(_in_peft(tmp_path)))


def test_a_pair_that_no_seed_gives_is_kept(tmp_path: Path) -> None:
    """Over a base in bfloat16 PEFT rounds the pair. It is honoured here, and saved again."""
    _saved_by_peft(tmp_path / "theirs", tiny_models.build("llama").to(torch.bfloat16))
    pair = load_file(tmp_path / "theirs" / "adapter_model.safetensors")
    assert all(torch.equal(pair[name], pair[name].bfloat16().to(pair[name].dtype)) for name in PAIR), "it is not rounded"
    model, method = _here(tmp_path / "theirs")
    adapter.save(model, method, tmp_path / "ours", base_model="b")
    again = load_file(tmp_path / "ours" / "adapter_model.safetensors")

    assert all(torch.equal(again[name], pair[name].float()) for name in PAIR)
    expected = _logits(_in_peft(tmp_path / "theirs"))
    _same(_logits(model), expected)
    _same(_logits(_here(tmp_path / "ours")[0]), expected)
    fresh = tiny_models.build("llama")
    method.attach(fresh)
    assert not torch.equal(fresh.model.layers[0].mlp.up_proj.shared_a, pair[PAIR[0]][:, : fresh.config.hidden_size].float())


@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], ["down_proj"], r"model\.layers\.1\.mlp\.(up|down)_proj"], ids=str)
def test_some_layers_only(targets: object, tmp_path: Path) -> None:
    """The pair is as large as the largest of the layers that are adapted."""
    _saved_by_peft(tmp_path / "theirs", target_modules=targets)
    model, method = _here(tmp_path / "theirs")
    expected = _logits(_in_peft(tmp_path / "theirs"))
    _same(_logits(model), expected)
    adapter.save(model, method, tmp_path / "ours", base_model="b")
    _same(_logits(_in_peft(tmp_path / "ours")), expected)


HOSTILE: list[tuple[dict[str, object], str]] = [
    ({"r": 8}, "rank 8"),
    ({"r": 10**6}, "16384"),
    ({"r": "16"}, "whole number"),
    ({"projection_prng_key": 10**30}, "64 bits"),
    ({"projection_prng_key": "0"}, "whole number"),
    ({"d_initial": float("nan")}, "start"),
    ({"bias": "vera_only"}, "bias"),
    ({"a_key_of_the_future": 1}, "a_key_of_the_future"),
]


@pytest.mark.parametrize(("changes", "named"), HOSTILE, ids=lambda value: str(value)[:40])
def test_hostile_configurations_are_refused_by_name(changes: dict[str, object], named: str, tmp_path: Path) -> None:
    _saved_by_peft(tmp_path)
    _edit(tmp_path, **changes)
    with pytest.raises(InputError) as caught:
        _here(tmp_path)
    assert named in str(caught.value)


@pytest.mark.parametrize("damage", ["missing", "narrow", "short", "flat", "nan"])
def test_a_pair_that_does_not_fit_is_refused(damage: str, tmp_path: Path) -> None:
    _saved_by_peft(tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    tensors = load_file(path)
    a, b = (tensors.pop(name) for name in PAIR)
    changed = {
        "missing": {PAIR[0]: a},
        "narrow": {PAIR[0]: a[:, :-1].contiguous(), PAIR[1]: b},
        "short": {PAIR[0]: a, PAIR[1]: b[:-1].contiguous()},
        "flat": {PAIR[0]: a.flatten(), PAIR[1]: b},
        "nan": {PAIR[0]: a * float("nan"), PAIR[1]: b},
    }[damage]
    save_file({**tensors, **changed}, path)
    with pytest.raises(InputError):
        _here(tmp_path)


@pytest.mark.filterwarnings("ignore::UserWarning:peft")
def test_pissa_of_peft_is_read_once_peft_has_converted_it(tmp_path: Path) -> None:
    config = peft.LoraConfig(r=4, lora_alpha=4, target_modules="all-linear", init_lora_weights="pissa", task_type="CAUSAL_LM")
    theirs = peft.get_peft_model(tiny_models.build("llama"), config)  # pyright: ignore
    # As it starts the adapter is to be saved with a start that leaves the base weights alone when it is loaded.
    theirs.peft_config["default"].init_lora_weights = True
    theirs.save_pretrained(tmp_path / "first")
    theirs.peft_config["default"].init_lora_weights = "pissa"
    _shake(theirs)
    theirs.save_pretrained(tmp_path / "last")
    with pytest.raises(InputError, match="path_initial_model_for_weight_conversion"):
        peft_format.load(tiny_models.build("llama"), tmp_path / "last")

    theirs.save_pretrained(tmp_path / "converted", path_initial_model_for_weight_conversion=str(tmp_path / "first"))
    model = tiny_models.build("llama")
    assert peft_format.load(model, tmp_path / "converted") == LoRA(rank=8, alpha=8.0)
    # PEFT rounds the base weights, of which it takes the start, to float32.
    torch.testing.assert_close(_logits(model), _logits(theirs), rtol=1e-4, atol=1e-4)
