"""Layers with a low-rank change, alone and together, equal their obvious twins."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tunesmith.kernels.gated import lora_swiglu
from tunesmith.kernels.lora_linear import Changed, lora_linear, plain

D_IN, D_OUT, RANK = 7, 5, 3


def _alone(x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float) -> Tensor:
    """One layer by the kernel, called as its twin is."""
    return lora_linear(x, [Changed(weight, bias, a, b)], scale)[0]


def _tensors(dtype: torch.dtype, shape: tuple[int, ...] = (4, D_IN)) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)

    def draw(*size: int, kind: torch.dtype = dtype) -> Tensor:
        return torch.randn(*size, generator=generator, dtype=torch.float64).to(kind)

    factor = torch.float32 if dtype == torch.bfloat16 else dtype
    return {
        "x": draw(*shape),
        "weight": draw(D_OUT, D_IN),
        "bias": draw(D_OUT),
        "a": draw(RANK, D_IN, kind=factor),
        "b": draw(D_OUT, RANK, kind=factor),
    }


def _with_gradients(compute, tensors: dict[str, Tensor], *, bias: bool, scale: float = 1.7) -> list[Tensor]:
    x, a, b = (tensors[n].detach().requires_grad_() for n in "xab")
    out = compute(x, tensors["weight"], tensors["bias"] if bias else None, a, b, scale)
    slope = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).to(out.dtype).view(out.shape)
    return [out.detach(), *torch.autograd.grad(out, (x, a, b), slope)]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(4, D_IN), (2, 3, D_IN), (1, 1, D_IN), (D_IN,)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-6)])
def test_forward_and_gradients(bias: bool, shape: tuple[int, ...], dtype: torch.dtype, tolerance: float):
    tensors = _tensors(dtype, shape)
    found, expected = (_with_gradients(f, tensors, bias=bias) for f in (_alone, plain))
    for name, one, other in zip(("y", "dx", "da", "db"), found, expected, strict=True):
        assert one.shape == other.shape, name
        # gradients of A and B are summed in float32, whatever x is
        exact = dtype == torch.float64 and name in ("y", "dx")
        assert (one - other).abs().max() <= (1e-12 if exact else tolerance) * max(1.0, other.abs().max().item()), name


def test_a_weight_stored_with_its_inputs_first():
    tensors = _tensors(torch.float32)
    tensors["weight"] = tensors["weight"].t().contiguous().t()
    for one, other in zip(*(_with_gradients(f, tensors, bias=True) for f in (_alone, plain)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


def test_x_that_is_not_contiguous():
    tensors = _tensors(torch.float32)
    tensors["x"] = tensors["x"].t().contiguous().t()
    for one, other in zip(*(_with_gradients(f, tensors, bias=True) for f in (_alone, plain)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


def test_bfloat16_input_gives_float32_gradients_of_the_factors():
    tensors = _tensors(torch.bfloat16)
    y, dx, da, db = _with_gradients(_alone, tensors, bias=True)
    assert (y.dtype, dx.dtype, da.dtype, db.dtype) == (torch.bfloat16, torch.bfloat16, torch.float32, torch.float32)
    exact = _with_gradients(plain, {n: t.float() for n, t in tensors.items()}, bias=True)
    for one, other in zip((y, dx, da, db), exact, strict=True):
        assert (one.float() - other).abs().max() <= 0.02 * other.abs().max()


def test_nothing_flows_to_the_frozen_weight():
    tensors = {n: t.requires_grad_() for n, t in _tensors(torch.float32).items()}
    _alone(*(tensors[n] for n in ("x", "weight", "bias", "a", "b")), 1.0).sum().backward()
    assert [n for n, t in tensors.items() if t.grad is None] == ["weight", "bias"]


def test_an_input_without_gradient_costs_no_product():
    tensors = _tensors(torch.float32)
    a, b = (tensors[n].requires_grad_() for n in "ab")
    y = _alone(tensors["x"], tensors["weight"], None, a, b, 1.0)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        y.sum().backward()
    assert tensors["x"].grad is None
    products = sum(e.count for e in profile.key_averages() if e.key in ("aten::mm", "aten::addmm"))
    assert products == 3, "dy B, and one product for each factor"


def test_nothing_large_is_kept_besides_x():
    tensors = _tensors(torch.float32, (64, D_IN))
    own = {t.data_ptr() for t in tensors.values()}
    kept: list[tuple[int, ...]] = []

    def note(t: Tensor) -> Tensor:
        if t.data_ptr() not in own:
            kept.append(tuple(t.shape))
        return t

    x = tensors["x"].requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        _alone(x, *(tensors[n] for n in ("weight", "bias", "a", "b")), 1.0)
    assert kept == [(64, RANK)], "x At times the scale, nothing as large as x or y"


@pytest.mark.parametrize("scale", [0.0, 0.5, -3.0])
def test_scale(scale: float):
    tensors = _tensors(torch.float64)
    for one, other in zip(*(_with_gradients(f, tensors, bias=True, scale=scale) for f in (_alone, plain)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


def _several(bias: bool) -> list[Changed]:
    """Layers with one input, of other sizes and ranks."""
    generator = torch.Generator().manual_seed(1)

    def draw(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    return [
        Changed(draw(d_out, D_IN), draw(d_out) if bias else None, draw(rank, D_IN), draw(d_out, rank))
        for d_out, rank in ((5, 3), (4, 1), (9, 2))
    ]


@pytest.mark.parametrize("bias", [True, False])
def test_layers_with_one_input_together(bias: bool):
    layers, x = _several(bias), _tensors(torch.float64, (2, 3, D_IN))["x"].requires_grad_()
    learnt = [x, *(t.requires_grad_() for layer in layers for t in (layer.a, layer.b))]
    together = lora_linear(x, layers, 1.7)
    apart = [plain(x, *layer, 1.7) for layer in layers]
    slopes = [torch.randn_like(y) for y in apart]
    for one, other in zip(together, apart, strict=True):
        torch.testing.assert_close(one, other)
    found, expected = (torch.autograd.grad(outputs, learnt, slopes) for outputs in (together, apart))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


def test_an_output_that_nobody_uses_costs_no_correctness():
    layers, x = _several(False), _tensors(torch.float64)["x"].requires_grad_()
    (dx,) = torch.autograd.grad(lora_linear(x, layers, 1.7)[1].sum(), x)
    torch.testing.assert_close(dx, torch.autograd.grad(plain(x, *layers[1], 1.7).sum(), x)[0])


def _gated(dtype: torch.dtype = torch.float64) -> tuple[list[Changed], list[Tensor]]:
    """Gate, up and down projection of a gated layer, and all that learns."""
    generator = torch.Generator().manual_seed(2)
    layers = [
        Changed(*(torch.randn(*size, generator=generator).to(dtype) for size in ((o, i), (o,), (RANK, i), (o, RANK))))
        for o, i in ((D_OUT, D_IN), (D_OUT, D_IN), (D_IN, D_OUT))
    ]
    return layers, [t.requires_grad_() for layer in layers for t in (layer.a, layer.b)]


def _plain_gated(x: Tensor, gate: Changed, up: Changed, down: Changed, scale: float) -> Tensor:
    product = torch.nn.functional.silu(plain(x, *gate, scale)) * plain(x, *up, scale)
    return plain(product, *down, scale)


def test_a_gated_layer_in_one_piece():
    (layers, learnt), x = _gated(), _tensors(torch.float64, (2, 3, D_IN))["x"].requires_grad_()
    found, expected = (f(x, *layers, 0.7) for f in (lora_swiglu, _plain_gated))
    torch.testing.assert_close(found, expected)
    slope = torch.randn_like(expected)
    gradients = zip(*(torch.autograd.grad(y, [x, *learnt], slope) for y in (found, expected)), strict=True)
    for one, other in gradients:
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_a_gated_layer_keeps_its_two_branches_and_not_their_product():
    layers, _ = _gated(torch.float32)
    kept: list[tuple[int, ...]] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(tuple(t.shape)) or t, lambda t: t):
        lora_swiglu(torch.randn(64, D_IN), *layers, 0.7)
    assert kept.count((64, D_OUT)) == 2
