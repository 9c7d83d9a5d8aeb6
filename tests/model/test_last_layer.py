"""The last layer works for those tokens only whose final states are read; losses and gradients stay what they are."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import tiny_models
import tiny_runs
from tunesmith import registry
from tunesmith.checkpoint import trained
from tunesmith.method import Method
from tunesmith.methods.lora import LoRA
from tunesmith.model import last_layer
from tunesmith.model.batch import Batch
from tunesmith.model.forward import PackedForward

METHODS = [trained.method_from({"name": name}, name) for name in registry.names("tunesmith.methods")]
CASES = [("llama", "causal"), ("gpt2", "causal"), ("bert", "classification"), ("llama", "classification")]
BODIES = [(name, "causal") for name in tiny_models.DECODERS] + [(name, "classification") for name in tiny_models.ENCODERS]
LENGTHS = [9, 4, 6]


def _batch(task: tiny_models.Task) -> Batch:
    """Three rows; a class of each is predicted, or some tokens."""
    ids = torch.randint(8, tiny_models.VOCABULARY_SIZE, (sum(LENGTHS),), generator=torch.Generator().manual_seed(2))
    if task == "classification":
        return Batch(input_ids=ids, lengths=LENGTHS, targets=torch.tensor([0, 2, 1]))
    positions = torch.tensor([4, 6, 7, 10, 16, 17])
    return Batch(input_ids=ids, lengths=LENGTHS, positions=positions, targets=ids[positions + 1])


def _tuned(method: Method, name: str, task: tiny_models.Task) -> PackedForward:
    """With all that learns moved from its start, so that every gradient says something."""
    model = tiny_runs.attached(method, name, task)[0].model
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return PackedForward(model, fast=True)


def _results(forward: PackedForward, batch: Batch) -> tuple[Tensor, dict[str, Tensor | None]]:
    losses = forward.target_losses(batch)
    forward.model.zero_grad()
    with forward.scope(batch):
        forward.loss(batch).backward()
    return losses, {name: p.grad for name, p in forward.model.named_parameters() if p.requires_grad}


def _assert_nothing_changes(forward: PackedForward, batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    losses, gradients = _results(forward, batch)
    monkeypatch.setattr(last_layer, "MOST_READ", 0.0)
    expected_losses, expected = _results(forward, batch)
    torch.testing.assert_close(losses, expected_losses, rtol=1e-5, atol=1e-5)
    largest = max(float(gradient.abs().max()) for gradient in expected.values() if gradient is not None)
    for name, gradient in gradients.items():
        other = expected[name]
        assert (gradient is None) == (other is None), name
        if gradient is not None and other is not None:
            torch.testing.assert_close(gradient, other, rtol=1e-4, atol=1e-6 * largest, msg=name)


class _Rows:
    """How many tokens modules were given."""

    def __init__(self, *modules: nn.Module) -> None:
        self.counts: list[int] = []
        for module in modules:
            module.register_forward_hook(lambda _, inputs, __: self.counts.append(inputs[0].shape[-2]))


@pytest.mark.parametrize(("name", "task"), CASES)
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_no_method_learns_anything_else(method: Method, name: str, task: tiny_models.Task, monkeypatch: pytest.MonkeyPatch):
    _assert_nothing_changes(_tuned(method, name, task), _batch(task), monkeypatch)


@pytest.mark.parametrize(("name", "task"), BODIES)
def test_of_every_architecture(name: str, task: tiny_models.Task, monkeypatch: pytest.MonkeyPatch):
    forward, batch = _tuned(LoRA(rank=2), name, task), _batch(task)
    (attention, _), (start, _) = last_layer._stretches(forward.model)
    rows = _Rows(*map(forward.model.get_submodule, (attention, start)))
    forward.target_losses(batch)
    assert rows.counts == [len(batch.targets)] * 2
    _assert_nothing_changes(forward, batch, monkeypatch)


def test_where_all_states_are_read_all_are_made():
    forward, batch = _tuned(LoRA(rank=2), "llama", "causal"), _batch("causal")
    rows = _Rows(forward.model.get_submodule("model.layers.1.mlp"))
    assert [len(logits) for logits in forward.token_logits(batch)] == [sum(LENGTHS)]
    forward.mean_states(batch)
    assert rows.counts == [sum(LENGTHS)] * 2
    for mean_pooling in (False, True):
        classifier = _tuned(LoRA(rank=2), "modernbert", "classification")
        classifier.model.config.classifier_pooling = "mean" if mean_pooling else "cls"
        rows = _Rows(classifier.model.get_submodule("model.layers.2.mlp"))
        classifier.class_logits(_batch("classification"))
        assert rows.counts == [sum(LENGTHS) if mean_pooling else 3]


def test_not_where_most_are_read():
    forward, batch = _tuned(LoRA(rank=2), "llama", "causal"), _batch("causal")
    rows, positions = _Rows(forward.model.get_submodule("model.layers.1.mlp")), torch.arange(15)
    forward.target_losses(replace(batch, positions=positions, targets=batch.input_ids[positions + 1]))
    assert rows.counts == [sum(LENGTHS)]


def test_not_in_a_model_whose_layers_are_one():
    """ALBERT's; what its last layer leaves out, all would."""
    model = tiny_models.build("albert", "classification")
    assert last_layer._stretches(model) == []
