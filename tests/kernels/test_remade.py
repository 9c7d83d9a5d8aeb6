"""What is cheap to make again is not kept for the backward pass, and no gradient changes by it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import numpy as np
import pytest
import torch
from tests import tiny_models
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from tunesmith.kernels import remade
from tunesmith.kernels.gated import swiglu
from tunesmith.kernels.gelu import gelu
from tunesmith.kernels.rms_norm import rms_norm
from tunesmith.method import Method
from tunesmith.methods.full import Full
from tunesmith.methods.ia3 import IA3
from tunesmith.methods.lora import LoRA
from tunesmith.model import trial
from tunesmith.model.batch import Batch


def _norm_and_layer() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Input, norm's weight and layer's weight, and a slope for the result."""
    generator = torch.Generator().manual_seed(0)
    sizes = ((2, 5, 8), (8,), (3, 8), (2, 5, 3))
    x, scale, weight, slope = (torch.randn(size, generator=generator) for size in sizes)
    return x.requires_grad_(), scale.requires_grad_(), weight.requires_grad_(), slope


@pytest.mark.parametrize("sparing", [True, False])
def test_a_norms_output_is_held_only_outside(sparing: bool):
    x, scale, weight, _ = _norm_and_layer()
    with remade.sparing() if sparing else contextlib.nullcontext():
        y = rms_norm(x, scale, 1e-5)
        result = torch.nn.functional.linear(y, weight)
        memory = StorageWeakRef(y.untyped_storage())
        del y
        assert memory.expired() is sparing
    del result


@pytest.mark.parametrize("sparing", [True, False])
@pytest.mark.parametrize("function", [swiglu, lambda x, _: gelu(x)], ids=["gated", "gelu"])
def test_an_inner_activation_is_held_only_outside(function: Callable[[Tensor, Tensor], Tensor], sparing: bool):
    x, _, weight, _ = _norm_and_layer()
    with remade.sparing() if sparing else contextlib.nullcontext():
        y = function(x, x.detach() + 1)
        result = torch.nn.functional.linear(y, weight)
        memory = StorageWeakRef(y.untyped_storage())
        del y
        assert memory.expired() is sparing
    del result


def _gradients(scope: contextlib.AbstractContextManager[None], *, spoiled: bool = False) -> tuple[Tensor, ...]:
    x, scale, weight, slope = _norm_and_layer()
    with scope:
        y = rms_norm(x, scale, 1e-5)
        if spoiled:
            y.mul_(2.0)
        result = torch.nn.functional.linear(y.view(-1, 8), weight).view(2, 5, 3)
    return torch.autograd.grad(result, (x, scale, weight), slope)


@pytest.mark.parametrize("spoiled", [False, True], ids=["as it was", "changed in place"])
def test_gradients_are_bitwise_the_same(spoiled: bool):
    inside, outside = (_gradients(scope, spoiled=spoiled) for scope in (remade.sparing(), contextlib.nullcontext()))
    for found, expected in zip(inside, outside, strict=True):
        assert torch.equal(found, expected)


def test_its_memory_under_another_name_has_numbers_of_its_own():
    x, scale, weight, slope = _norm_and_layer()
    with remade.sparing():
        y = rms_norm(x, scale, 1e-5)
        whole = y.detach()
        whole.mul_(3.0)
        result = torch.nn.functional.linear(whole, weight)
    (found,) = torch.autograd.grad(result, weight, slope)
    assert torch.equal(found, slope.view(-1, 3).t() @ whole.view(-1, 8))


def test_another_tensor_at_the_address_of_one_that_is_gone():
    memory, (*_, weight, slope) = np.full((2, 5, 8), 3.0, dtype=np.float32), _norm_and_layer()
    with remade.sparing():
        gone = torch.from_numpy(memory)
        remade.can_remake(gone, lambda: torch.zeros(2, 5, 8))
        del gone
        other = torch.from_numpy(memory)
        result = torch.nn.functional.linear(other, weight)
    (found,) = torch.autograd.grad(result, weight, slope)
    assert torch.equal(found, slope.view(-1, 3).t() @ other.view(-1, 8))


@pytest.mark.parametrize("method", [LoRA(rank=4), Full(), IA3()], ids=lambda method: method.name)
def test_a_whole_model_learns_the_same(method: Method, monkeypatch: pytest.MonkeyPatch):
    gradients = []
    for scope in (remade.sparing, contextlib.nullcontext):
        monkeypatch.setattr(remade, "sparing", scope)
        model = tiny_models.build("llama")
        torch.manual_seed(0)
        packed, reason = trial.choose(model, classification=False)
        assert reason is None
        method.attach(model)
        for parameter in model.parameters():  # LoRA's B is zero at first, and then no gradient depends on a layer's input
            if parameter.requires_grad:
                parameter.data.add_(torch.randn(parameter.shape), alpha=0.1)
        ids = torch.arange(12) % 7 + 3
        batch = Batch(input_ids=ids, lengths=[7, 5], positions=torch.tensor([2, 3, 8]), targets=ids[[3, 4, 9]])
        with packed.scope(batch):
            packed.loss(batch).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    assert gradients[0].keys() == gradients[1].keys()
    for name, found in gradients[0].items():
        assert torch.equal(found, gradients[1][name]), name
