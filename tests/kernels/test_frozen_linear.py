"""Products with a weight in few bits, against the obvious computation with the dequantised weight."""

from __future__ import annotations

import pytest
import torch

from tunesmith.kernels import eight_bit, four_bit, spans
from tunesmith.kernels.frozen_linear import add_input_gradient, add_products, dense, frozen_linear, plain
from tunesmith.kernels.lora_linear import Change, Changed, lora_linear

QUANTIZE = {"4 bits": four_bit.quantize, "8 bits": eight_bit.quantize}


@pytest.fixture(params=QUANTIZE)
def stored(request, monkeypatch):
    """A weight (200, 40) whose rows come in four parts."""
    monkeypatch.setitem(spans._DEQUANTIZED_AT_ONCE, "cpu", 64 * 40)
    return QUANTIZE[request.param](torch.randn(200, 40, generator=torch.Generator().manual_seed(0)))


def inputs(dtype=torch.float32):
    x = torch.randn(2, 5, 40, generator=torch.Generator().manual_seed(1)).to(dtype)
    return x.requires_grad_(True), torch.nn.Parameter(torch.ones(200, dtype=dtype))


def test_forward_and_gradients(stored):
    results = []
    for function in (frozen_linear, plain):
        x, bias = inputs()
        y = function(x, stored, bias)
        y.square().sum().backward()
        results.append((y, x.grad, bias.grad))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)  # sums of 200 products in another order


def test_nothing_is_kept_for_the_backward_pass(stored):
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.shape), lambda _: None):
        frozen_linear(inputs()[0], stored, None)
    assert kept == []


def test_bfloat16(stored):
    x, _ = inputs(torch.bfloat16)
    y = frozen_linear(x, stored, None)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y, plain(x, stored, None), rtol=2e-2, atol=2e-2)  # eight bits of mantissa


def test_the_change_of_lora_over_it(stored):
    results = []
    for weight in (stored, dense(stored)):
        x, _ = inputs()
        a, b = (torch.randn(size, generator=torch.Generator().manual_seed(2)).requires_grad_() for size in ((4, 40), (200, 4)))
        (y,) = lora_linear(x, [Changed(weight, None, [Change(a, b, 0.5)])])
        y.square().sum().backward()
        results.append((y, x.grad, a.grad, b.grad))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-2)  # gradients of some hundreds


def test_products_are_added_to_what_is_there(stored):
    weight, x, dy = dense(stored), torch.randn(7, 40), torch.randn(7, 200)
    for form in (weight, stored):
        y, dx = torch.ones(7, 200), torch.ones(7, 40)
        add_products([y], x, [form])
        add_input_gradient(dx, dy, form)
        torch.testing.assert_close(y, 1 + x @ weight.t(), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(dx, 1 + dy @ weight, rtol=1e-4, atol=1e-4)
