"""What all rows begin with is taken apart from them, and changes no loss and no gradient."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

import tiny_models
import tiny_runs
from tunesmith import registry, settings
from tunesmith.checkpoint import trained
from tunesmith.data.pack import pack
from tunesmith.method import Method
from tunesmith.methods.lora import LoRA
from tunesmith.methods.prefix import PrefixTuning
from tunesmith.methods.prompt import Prompt
from tunesmith.model import extra_keys
from tunesmith.model import forward as forward_module
from tunesmith.model.batch import Batch
from tunesmith.model.forward import Forward, PackedForward, PaddedForward
from tunesmith.model.trial import choose, sharing
from tunesmith.training.gradients import Learner, Pass
from tunesmith.training.optimizer import FlatAdamW

METHODS = [trained.method_from({"name": name}, name) for name in registry.names("tunesmith.methods")]
TABLE = tiny_runs.table_that_begins_alike()


def _attached(method: Method, name: str = "llama") -> tuple[Forward, FlatAdamW]:
    """With all that learns moved from its start, so that every gradient says something."""
    forward, optimizer = tiny_runs.attached(method, name, "causal")
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in forward.model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return sharing(forward), optimizer


def _passes(num_shared: int, rows_per_pass: int) -> list[Batch]:
    rows = np.arange(len(TABLE)).reshape(-1, rows_per_pass)
    return [pack(TABLE, some, num_shared=num_shared) for some in rows]


def _accumulated(forward: Forward, optimizer: FlatAdamW, batches: list[Batch]) -> tuple[float, Tensor]:
    loss = Learner(forward, optimizer).accumulate([Pass(batch, 0) for batch in batches]).item()
    gradients = torch.cat([group.gradients for group in optimizer._groups]).clone()
    optimizer.forget()
    return loss, gradients


def _assert_nothing_changes(forward: Forward, optimizer: FlatAdamW) -> None:
    written_out = _accumulated(forward, optimizer, _passes(0, 8))
    assert written_out[1].norm() > 1e-3, "no gradient would prove nothing"
    for num_shared, rows_per_pass in ((TABLE.num_common, 8), (TABLE.num_common, 2), (3, 4)):
        loss, gradients = _accumulated(forward, optimizer, _passes(num_shared, rows_per_pass))
        assert loss == pytest.approx(written_out[0], rel=5e-6)
        assert (gradients - written_out[1]).norm() <= 5e-6 * written_out[1].norm()


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_no_method_learns_anything_else(method: Method, name: str):
    forward, optimizer = _attached(method, name)
    assert forward.shares
    _assert_nothing_changes(forward, optimizer)


@pytest.mark.parametrize("method", [LoRA(rank=2), PrefixTuning(num_tokens=3)], ids=lambda method: method.name)
@pytest.mark.parametrize("name", tiny_models.DECODERS)
def test_on_decoders(name: str, method: Method):
    forward, optimizer = _attached(method, name)
    assert forward.shares
    _assert_nothing_changes(forward, optimizer)


@pytest.mark.parametrize("name", ["houlsby", "parallel-adapter", "pfeiffer", *(method.name for method in METHODS)])
def test_a_model_with_layers_to_leave_out_in_the_trial(name: str):
    """What a method hooks to such a layer rests there already when all that it changed steps aside, and is back afterwards."""
    preset = settings.load_preset(name)["method"] if name in settings.preset_names() else {"name": name}
    forward, _ = choose(tiny_models.build("llama", "causal", num_hidden_layers=6), classification=False)
    model, batch = forward.model, _passes(0, 8)[0]
    trained.method_from(preset, name).attach(model)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05)
    before = replace(forward, model=copy.deepcopy(model)).target_losses(batch)  # nothing is known of the model itself yet
    assert sharing(forward).shares
    assert torch.equal(forward.target_losses(batch), before)


def test_where_only_the_last_layer_learns():
    """What its keys are made of needs no gradient."""
    forward, optimizer = _attached(LoRA(rank=2, targets=("*layers.1.mlp*",)))
    assert forward.shares
    _assert_nothing_changes(forward, optimizer)


def test_not_with_dropout():
    assert not _attached(LoRA(rank=2, dropout=0.1))[0].shares


@pytest.mark.parametrize("name", ["gemma3", "mistral"])
def test_not_behind_a_prompt_that_a_window_hides(name: str):
    assert not _attached(Prompt(num_tokens=4), name)[0].shares


def test_not_behind_a_prompt_where_rotary_embedding_depends_on_the_length():
    forward, _ = tiny_runs.attached(Prompt(num_tokens=4))
    forward.model.config.rope_parameters = {**forward.model.config.rope_parameters, "rope_type": "dynamic", "factor": 2.0}
    assert not sharing(forward).shares


@pytest.mark.parametrize(
    ("name", "task", "kind"), [("llama", "causal", PaddedForward), ("bert", "classification", PackedForward)]
)
def test_not_by_padded_rows_nor_in_encoders(name: str, task: tiny_models.Task, kind: type[Forward]):
    assert not sharing(tiny_runs.attached(LoRA(rank=2), name, task, kind=kind)[0]).shares


def test_not_where_it_gives_other_answers(monkeypatch: pytest.MonkeyPatch):
    forward, _ = tiny_runs.attached(LoRA(rank=2))
    usual = forward_module.hidden_states
    monkeypatch.setattr(forward_module, "hidden_states", lambda *args: usual(*args[:4], None))
    assert not sharing(forward).shares


@pytest.mark.parametrize(
    ("method", "times"),
    [(LoRA(rank=2), 4), (PrefixTuning(num_tokens=3), 4), (Prompt(num_tokens=6), 2)],
    ids=["once a pass", "behind a prefix", "once a step, with a prompt"],
)
def test_how_often_it_goes_through_the_layers(method: Method, times: int):
    forward, optimizer = _attached(method)
    tokens, passes = tiny_runs.TokensOfALayer(forward.model), _passes(TABLE.num_common, 2)
    _accumulated(forward, optimizer, passes)
    assert (len(passes), TABLE.num_common) == (4, 6)
    assert tokens.count == sum(len(one.input_ids) for one in passes) + 6 * times


def test_nothing_is_left_of_it_after_a_step():
    forward, optimizer = _attached(LoRA(rank=2))
    before = forward.target_losses(_passes(0, 8)[0])
    _accumulated(forward, optimizer, _passes(TABLE.num_common, 2))
    assert torch.equal(forward.target_losses(_passes(0, 8)[0]), before)
    assert all(extra_keys.of(module) is None for module in forward.model.modules())


def test_words_that_were_left_out_are_never_lost():
    """Where layers recompute in a way that keeps no gradient, each pass computes the prompt, and words have no place."""
    forward, optimizer = _attached(Prompt(num_tokens=4))
    model = forward.model.train()
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": True})
    with pytest.raises(ValueError, match="what its row begins with"):
        _accumulated(forward, optimizer, _passes(TABLE.num_common, 2))
