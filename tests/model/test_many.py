"""Several adapters over one model: the gradients of each are those of its own pass, the base weights are held once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import tiny_models
import tiny_runs
from tunesmith.data.pack import pack
from tunesmith.errors import SettingsError
from tunesmith.method import Method
from tunesmith.methods.bitfit import BitFit
from tunesmith.methods.dora import DoRA
from tunesmith.methods.lora import LoRA
from tunesmith.model import fast_paths, many
from tunesmith.model.batch import Batch, join
from tunesmith.model.forward import PackedForward, PaddedForward

CASES = [("llama", "causal"), ("gpt2", "causal"), ("gemma3", "causal"), ("bert", "classification"), ("llama", "classification")]


def _targets(name: str) -> tuple[str, ...]:
    return {"gpt2": ("c_attn", "*mlp.c_fc"), "bert": ("query", "value")}.get(name, ("q_proj", "v_proj", "down_proj"))


def _methods(name: str) -> tuple[LoRA, ...]:
    """Of other ranks and scales, and one that leaves most layers as they are."""
    return LoRA(rank=2), LoRA(rank=5, alpha=8.0, scaling="rank-stabilized"), LoRA(rank=3, targets=_targets(name))


def _base(name: str, task: tiny_models.Task, *, fast: bool = False) -> PackedForward:
    model = tiny_models.build(name, task)
    if fast:
        fast_paths.install(model)
    return PackedForward(model, fast=fast)


def _attach(forward: PackedForward, method: Method, seed: int) -> PackedForward:
    """An adapter on the model, away from its start, where B is zero and A has no gradient."""
    torch.manual_seed(seed)
    method.attach(forward.model)
    for parameter in _learnt(forward).values():
        torch.nn.init.normal_(parameter, std=0.1)
    return forward


def _learnt(forward: PackedForward) -> dict[str, Tensor]:
    return {name: p for name, p in forward.model.named_parameters() if p.requires_grad}


def _batches(task: str) -> list[Batch]:
    """Of three, one and four rows."""
    table = tiny_runs.language_table() if task == "causal" else tiny_runs.class_table()
    return [pack(table, np.array(rows)) for rows in ([0, 3, 5], [3], [1, 2, 3, 7])]


def _taken_gradients(forward: PackedForward) -> list[Tensor]:
    """What a backward pass has left, which is forgotten."""
    gradients = [parameter.grad for parameter in _learnt(forward).values() if parameter.grad is not None]
    forward.model.zero_grad()
    return gradients


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize(("name", "task"), CASES)
def test_losses_and_gradients_are_those_of_separate_passes(name: str, task: tiny_models.Task, fast: bool):
    base, batches = _base(name, task, fast=fast), dict(enumerate(_batches(task)))
    adapters = [_attach(many.twin(base), method, seed) for seed, method in enumerate(_methods(name))]
    expected = []
    for adapter, batch in zip(adapters, batches.values(), strict=True):
        with adapter.scope(batch):
            loss = adapter.loss(batch)
            loss.backward()
        expected.append((loss.item(), _taken_gradients(adapter)))
    together = many.together(base, adapters)
    with together.scope(batches):
        losses = together.losses(batches)
        torch.stack(list(losses.values())).sum().backward()
    for number, (loss, gradients) in enumerate(expected):
        assert losses[number].item() == pytest.approx(loss, rel=1e-6)
        for one, other in zip(_taken_gradients(adapters[number]), gradients, strict=True):
            assert other.abs().max() > 0
            assert (one - other).norm() <= 2e-6 * other.norm()  # sums of float32 in another order


def test_adapters_without_rows_in_a_pass_have_no_part_in_it():
    base, batches = _base("llama", "causal"), _batches("causal")
    adapters = [_attach(many.twin(base), method, seed) for seed, method in enumerate(_methods("llama"))]
    some = {2: batches[0], 0: batches[1]}
    together = many.together(base, adapters)
    with together.scope(some):
        losses = together.losses(some)
        assert list(losses) == [2, 0]
        torch.stack(list(losses.values())).sum().backward()
    assert [any(p.grad is not None for p in _learnt(adapter).values()) for adapter in adapters] == [True, False, True]
    for number, batch in some.items():
        with adapters[number].scope(batch):
            assert adapters[number].loss(batch).item() == pytest.approx(losses[number].item(), rel=1e-6)


@pytest.mark.parametrize(("name", "task", "num_copied"), [("llama", "causal", 0), ("bert", "classification", 2)])
def test_the_base_is_held_once(name: str, task: tiny_models.Task, num_copied: int):
    base = _base(name, task)
    before = {p.data_ptr() for p in base.model.parameters()}
    adapters = [_attach(many.twin(base), LoRA(rank=2), seed) for seed in range(3)]
    many.together(base, adapters)
    for adapter in adapters:
        frozen = {p.data_ptr() for name, p in adapter.model.named_parameters() if not name.endswith((".a", ".b"))}
        assert len(frozen - before) == num_copied, "a new head learns, so everyone has one"
    assert {p.data_ptr() for p in base.model.parameters()} == before


@pytest.mark.parametrize(
    ("method", "reason"),
    [(BitFit(), "number 2 learns"), (DoRA(rank=2), "learns .*magnitude"), (LoRA(rank=2, dropout=0.1), "dropout=0, or use fit")],
)
def test_what_cannot_go_together(method: Method, reason: str):
    model = tiny_models.build("qwen2")
    method.attach(model)
    with pytest.raises(SettingsError, match=reason):
        many.require_low_rank(model, "number 2")


def test_padded_rows_are_no_common_stream():
    with pytest.raises(SettingsError, match="takes its rows padded"):
        many.require_packed(PaddedForward(tiny_models.build("t5", "seq2seq")))


@pytest.mark.parametrize("task", ["causal", "classification"])
def test_joined_batches_ask_the_same_of_the_same_rows(task: tiny_models.Task):
    forward, batches = _base("llama", task), _batches(task)
    apart = torch.cat([forward.target_losses(batch) for batch in batches])
    torch.testing.assert_close(forward.target_losses(join(batches)), apart)
    assert join(batches).num_real_tokens == sum(batch.num_real_tokens for batch in batches)
