"""Every change of a model can be undone, and a copy of the model stands on its own."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tiny_models
from tunesmith.model import anatomy, surgery


class Doubled(nn.Module):
    """Answers twice what the module inside it does."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base

    def forward(self, x: Tensor) -> Tensor:
        return 2 * self.base(x)


PATH = "model.layers.0.mlp.up_proj"
IDS = torch.arange(10, 18)[None]


@pytest.fixture
def model() -> nn.Module:
    return tiny_models.build("llama")


def _logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


def _states(model: nn.Module) -> dict[str, bool]:
    return {name: p.requires_grad for name, p in model.named_parameters()}


def _double(model: nn.Module) -> None:
    surgery.replace(model, PATH, Doubled(model.get_submodule(PATH)))


def _shift(module: nn.Module, arguments: Any, settings: Any, output: Any) -> Tensor:
    return output + module.get_parameter("weight")[0, 0]


def _triple(module: nn.Module, arguments: tuple[Tensor, ...], settings: dict[str, Any]) -> tuple[Any, Any]:
    return tuple(3 * t for t in arguments), settings


CHANGES = {
    "replace": _double,
    "replace twice": lambda model: (_double(model), _double(model)),
    "hook after": lambda model: surgery.hook(model, PATH, after=_shift),
    "hook before": lambda model: surgery.hook(model, PATH, before=_triple),
    "all": lambda model: (surgery.freeze(model), _double(model), surgery.hook(model, f"{PATH}.base", before=_triple)),
}
changes = pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())


@changes
def test_detach_undoes(model: nn.Module, change: Any):
    before, names, learns = _logits(model), list(model.state_dict()), _states(model)
    change(model)
    assert not torch.equal(_logits(model), before)
    surgery.detach(model)
    assert torch.equal(_logits(model), before)
    assert list(model.state_dict()) == names
    assert _states(model) == learns
    surgery.detach(model)
    assert torch.equal(_logits(model), before)


@changes
def test_a_copy_is_independent(model: nn.Module, change: Any):
    before = _logits(model)
    change(model)
    changed, copied = _logits(model), copy.deepcopy(model)
    assert torch.equal(_logits(copied), changed)
    surgery.detach(copied)
    assert torch.equal(_logits(copied), before)
    assert torch.equal(_logits(model), changed)
    surgery.detach(model)
    assert torch.equal(_logits(model), before)


def test_a_copys_hook_reads_the_copys_tensors(model: nn.Module):
    surgery.hook(model, PATH, after=_shift)
    copied = copy.deepcopy(model)
    with torch.no_grad():
        copied.get_parameter(f"{PATH}.weight").add_(1.0)
    assert not torch.equal(_logits(copied), _logits(model))


def test_add(model: nn.Module):
    names = list(model.state_dict())
    surgery.add(model, "extra", nn.Linear(2, 2))
    assert "extra.weight" in model.state_dict()
    surgery.detach(model)
    assert list(model.state_dict()) == names


def test_freezing_gives_back_exactly_what_learned(model: nn.Module):
    model.get_submodule("lm_head").requires_grad_(False)
    before = _states(model)
    surgery.freeze(model)
    assert not any(_states(model).values())
    surgery.detach(model)
    assert _states(model) == before


def test_thawing_is_undone_too(model: nn.Module):
    """A head that was frozen before a method came is frozen after it has gone."""
    model.get_submodule("lm_head").requires_grad_(False)
    before = _states(model)
    surgery.freeze(model)
    surgery.thaw(model, ["lm_head.weight"])
    assert [name for name, learns in _states(model).items() if learns] == ["lm_head.weight"]
    surgery.detach(model)
    assert _states(model) == before


@pytest.mark.parametrize("training", [True, False])
def test_a_new_module_takes_over_the_mode(model: nn.Module, training: bool):
    model.train(training)
    _double(model)
    assert model.get_submodule(PATH).training == training
    model.train(not training)
    surgery.detach(model)
    assert model.get_submodule(PATH).training == (not training)


def test_cast_keeps_some_in_full():
    model = tiny_models.build("bert", "classification")
    surgery.cast(model, torch.bfloat16, keep=frozenset({model.get_submodule("classifier")}))
    types = {name: p.dtype for name, p in model.named_parameters()}
    assert {n for n, kind in types.items() if kind == torch.float32} == {"classifier.weight", "classifier.bias"}
    assert set(types.values()) == {torch.float32, torch.bfloat16}


def test_cast_keeps_tied_weights_tied():
    model = tiny_models.build("llama", tie_word_embeddings=True)
    surgery.cast(model, torch.bfloat16)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_stand_in_is_gone_after_an_error(model: nn.Module):
    module, before = model.get_submodule(PATH), _logits(model)
    with pytest.raises(ValueError, match="no"), surgery.stand_in(module, lambda x: 0 * x):
        raise ValueError("no")
    assert torch.equal(_logits(model), before)
    with surgery.stand_in(module, lambda x: x.new_zeros(*x.shape[:-1], 48)):
        assert not torch.equal(_logits(model), before)


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert"])
def test_without_pooler(name: str):
    model = tiny_models.build(name, "classification")
    pooler = anatomy.pooler(model)
    assert (pooler is not None) == (name == "bert")
    with torch.no_grad(), surgery.without_pooler(model):
        states = model.base_model(input_ids=IDS)
        if pooler is not None:
            assert pooler(states.last_hidden_state) is states.last_hidden_state
    if pooler is not None:
        assert pooler(states.last_hidden_state).shape == (1, 32)


def test_detached_is_the_base_model_for_a_while(model: nn.Module):
    before = _logits(model)
    surgery.freeze(model)
    _double(model)
    _double(model)
    changed, names = _logits(model), list(model.state_dict())
    with surgery.detached(model):
        assert torch.equal(_logits(model), before)
    assert torch.equal(_logits(model), changed)
    assert list(model.state_dict()) == names
    with pytest.raises(ValueError, match="no"), surgery.detached(model):
        raise ValueError("no")
    assert torch.equal(_logits(model), changed)
    surgery.detach(model)
    assert torch.equal(_logits(model), before)
