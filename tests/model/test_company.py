"""Changed layers that read the same input compute together, and only those."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

import tiny_models
from tunesmith.methods.dora import DoRA
from tunesmith.methods.lora import LoRA
from tunesmith.model import low_rank, trial


def _company_sizes(name: str, task: tiny_models.Task = "causal") -> list[int]:
    model = tiny_models.build(name, task)
    LoRA(rank=2).attach(model)
    companies = {id(layer.company): layer.company for layer in low_rank.layers(model).values()}
    return sorted(len(company.layers) for company in companies.values())


@pytest.mark.parametrize(
    ("name", "task", "layer"),
    [
        ("llama", "causal", [1, 1, 2, 3]),
        ("gpt2", "causal", [1, 1, 1, 1]),
        ("bert", "classification", [1, 1, 1, 3]),
        ("t5", "seq2seq", None),
    ],
)
def test_who_computes_together(name: str, task: tiny_models.Task, layer: list[int] | None):
    sizes = _company_sizes(name, task)
    assert set(sizes) == {1} if layer is None else sizes == sorted(layer * (len(sizes) // len(layer)))


def _layers(method: type[LoRA] | type[DoRA] = LoRA) -> list[low_rank.LoRALinear]:
    model = tiny_models.build("llama")
    method(rank=2).attach(model)
    found = low_rank.layers(model)
    queries = [path for path in found if path.endswith("q_proj")]
    chosen = [found[queries[0].replace("q_proj", name)] for name in ("q_proj", "k_proj", "v_proj")]
    for layer in chosen:
        torch.nn.init.normal_(layer.b)
    return chosen


@pytest.fixture
def count(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many layers each run of the kernel computed."""
    counts: list[int] = []
    kernel = low_rank.lora_linear

    def counting(x: Tensor, layers: list, parts: Sequence[slice]) -> tuple[Tensor, ...]:
        counts.append(len(layers))
        return kernel(x, layers, parts)

    monkeypatch.setattr(low_rank, "lora_linear", counting)
    return counts


def _alone(layer: low_rank.LoRALinear, x: Tensor) -> Tensor:
    return low_rank.Company([layer]).output(layer, x)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_one_input_is_read_once(order: tuple[int, ...], count: list[int]):
    layers, x = _layers(), torch.randn(4, 32)
    outputs = [layers[number](x) for number in order]
    assert count == [3]
    for number, y in zip(order, outputs, strict=True):
        torch.testing.assert_close(y, _alone(layers[number], x))


def test_other_inputs_are_not_mistaken_for_it(count: list[int]):
    (q, k, _), x = _layers(), torch.randn(4, 32)
    other = x.clone()
    torch.testing.assert_close(q(x), _alone(q, x))
    torch.testing.assert_close(k(other + 1), _alone(k, other + 1))
    torch.testing.assert_close(k(x), _alone(k, x))


def test_a_layer_asked_twice_answers_with_its_present_weights():
    (q, _, _), x = _layers(), torch.randn(4, 32)
    before = q(x)
    with torch.no_grad():
        q.a.add_(1)
    assert not torch.allclose(q(x), before)


def test_nothing_is_held_when_all_have_answered():
    layers, x = _layers(), torch.randn(4, 32)
    for layer in layers:
        layer(x)
    assert layers[0].company._found is None


def test_copies_keep_company_with_each_other():
    model = tiny_models.build("llama")
    LoRA(rank=2).attach(model)
    twin = copy.deepcopy(model)
    for path, layer in low_rank.layers(twin).items():
        original = low_rank.layers(model)[path]
        assert layer in layer.company.layers
        assert len(layer.company.layers) == len(original.company.layers)
        assert layer.company is not original.company
        assert all(member.company is layer.company for member in layer.company.layers)


def test_layers_that_add_to_it_use_the_same_product(count: list[int]):
    layers, x = _layers(DoRA), torch.randn(4, 32)
    for layer in layers:
        layer(x)
    assert count == [3]


@pytest.mark.parametrize("ending", ["q_proj.base.bias", "gate_proj.base.weight", "v_proj.base.weight"])
def test_what_a_user_lets_learn_below_a_change_gets_its_gradient(ending: str, monkeypatch: pytest.MonkeyPatch):
    """As "LoRA and biases" in a loop of somebody's own; the other layers of the company still compute by the kernel."""
    model = tiny_models.build("qwen2")
    trial.choose(model, classification=False)
    LoRA(rank=2).attach(model)
    for layer in low_rank.layers(model).values():
        torch.nn.init.normal_(layer.b, std=0.1)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(parameter.requires_grad or name.endswith(ending))
    ids = torch.arange(8, 14)[None]

    def gradients() -> dict[str, Tensor]:
        model.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}

    found = gradients()
    assert sum(name.endswith(ending) for name in found) == 2
    assert all(layer.company._found is None for layer in low_rank.layers(model).values())
    monkeypatch.setattr(low_rank.LoRALinear, "by_autograd", True)
    expected = gradients()
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)  # float32, added in another order
