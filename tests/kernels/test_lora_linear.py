"""Layers with a low-rank change, alone and together, equal their obvious twins."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tunesmith.kernels import lora_linear as kernel
from tunesmith.kernels.gated import lora_swiglu
from tunesmith.kernels.lora_linear import Change, Changed, lora_linear, plain

D_IN, D_OUT, RANK = 7, 5, 3


def _alone(x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float) -> Tensor:
    """One layer by the kernel, called as its twin is."""
    return lora_linear(x, [Changed(weight, bias, [Change(a, b, scale)])])[0]


def _plain(x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float) -> Tensor:
    return plain(x, weight, bias, Change(a, b, scale))


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
    found, expected = (_with_gradients(f, tensors, bias=bias) for f in (_alone, _plain))
    for name, one, other in zip(("y", "dx", "da", "db"), found, expected, strict=True):
        assert one.shape == other.shape, name
        # gradients of A and B are summed in float32, whatever x is
        exact = dtype == torch.float64 and name in ("y", "dx")
        assert (one - other).abs().max() <= (1e-12 if exact else tolerance) * max(1.0, other.abs().max().item()), name


def test_a_weight_stored_with_its_inputs_first():
    tensors = _tensors(torch.float32)
    tensors["weight"] = tensors["weight"].t().contiguous().t()
    for one, other in zip(*(_with_gradients(f, tensors, bias=True) for f in (_alone, _plain)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


def test_x_that_is_not_contiguous():
    tensors = _tensors(torch.float32)
    tensors["x"] = tensors["x"].t().contiguous().t()
    for one, other in zip(*(_with_gradients(f, tensors, bias=True) for f in (_alone, _plain)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


def test_bfloat16_input_gives_float32_gradients_of_the_factors():
    tensors = _tensors(torch.bfloat16)
    y, dx, da, db = _with_gradients(_alone, tensors, bias=True)
    assert (y.dtype, dx.dtype, da.dtype, db.dtype) == (torch.bfloat16, torch.bfloat16, torch.float32, torch.float32)
    exact = _with_gradients(_plain, {n: t.float() for n, t in tensors.items()}, bias=True)
    for one, other in zip((y, dx, da, db), exact, strict=True):
        assert (one.float() - other).abs().max() <= 0.02 * other.abs().max()


def test_nothing_flows_to_the_frozen_weight():
    tensors = {n: t.requires_grad_() for n, t in _tensors(torch.float32).items()}
    _alone(tensors["x"], tensors["weight"], tensors["bias"], tensors["a"], tensors["b"], 1.0).sum().backward()
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
        _alone(x, tensors["weight"], tensors["bias"], tensors["a"], tensors["b"], 1.0)
    assert kept == [(64, RANK)], "x At times the scale, nothing as large as x or y"


@pytest.mark.parametrize("scale", [0.0, 0.5, -3.0])
def test_scale(scale: float):
    tensors = _tensors(torch.float64)
    for one, other in zip(*(_with_gradients(f, tensors, bias=True, scale=scale) for f in (_alone, _plain)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


def _layer(sizes: tuple[int, int], ranks: tuple[int, ...], *, bias: bool = True, dtype: torch.dtype = torch.float64) -> Changed:
    """A random layer of (inputs, outputs) with a change of each rank."""
    d_in, d_out = sizes

    def draw(*size: int) -> Tensor:
        return torch.randn(*size, dtype=torch.float64).to(dtype)

    changes = [
        Change(draw(rank, d_in).requires_grad_(), draw(d_out, rank).requires_grad_(), 1.7 - i) for i, rank in enumerate(ranks)
    ]
    return Changed(draw(d_out, d_in), draw(d_out) if bias else None, changes)


def _learnt(layers: list[Changed]) -> list[Tensor]:
    return [factor for layer in layers for change in layer.changes for factor in (change.a, change.b)]


def _by_parts(x: Tensor, layer: Changed, parts: tuple[slice, ...]) -> Tensor:
    """A layer by the obvious computation, one part of the tokens after the other."""
    assert isinstance(layer.weight, Tensor)
    rows = x.reshape(-1, x.shape[-1])
    done = [plain(rows[part], layer.weight, layer.bias, change) for part, change in zip(parts, layer.changes, strict=True)]
    return torch.cat(done).view(*x.shape[:-1], -1)


WHOLE, PARTS = (slice(0, 6),), (slice(0, 1), slice(1, 1), slice(1, 4), slice(4, 6))
"""The six tokens as one part, and as parts of one, none, three and two tokens."""


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("parts", "ranks"), [(WHOLE, [(3,), (1,), (2,)]), (PARTS, [(3, 2, 0, 1), (1, 1, 1, 1), (2, 4, 3, 0)])], ids=["one", "many"]
)
def test_layers_with_one_input_together(bias: bool, parts: tuple[slice, ...], ranks: list[tuple[int, ...]]):
    torch.manual_seed(1)
    layers = [_layer((D_IN, d_out), own, bias=bias) for d_out, own in zip((5, 4, 9), ranks, strict=True)]
    x = _tensors(torch.float64, (2, 3, D_IN))["x"].requires_grad_()
    together, apart = lora_linear(x, layers, parts), [_by_parts(x, layer, parts) for layer in layers]
    slopes = [torch.randn_like(y) for y in apart]
    for one, other in zip(together, apart, strict=True):
        torch.testing.assert_close(one, other)
    found, expected = (torch.autograd.grad(outputs, [x, *_learnt(layers)], slopes) for outputs in (together, apart))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


def test_many_parts_cost_one_product_with_the_weight(monkeypatch: pytest.MonkeyPatch):
    """Forward and backward, however many changes there are."""
    tokens, add_products, add_input_gradient = [], kernel.add_products, kernel.add_input_gradient
    monkeypatch.setattr(kernel, "add_products", lambda ys, x, w: tokens.append((len(x), len(ys))) or add_products(ys, x, w))
    monkeypatch.setattr(kernel, "add_input_gradient", lambda dx, dy, w: tokens.append(len(dy)) or add_input_gradient(dx, dy, w))
    x = _tensors(torch.float64, (6, D_IN))["x"].requires_grad_()
    lora_linear(x, [_layer((D_IN, D_OUT), (3, 2, 0, 1))], PARTS)[0].sum().backward()
    assert tokens == [(6, 1), 6]


def test_an_output_that_nobody_uses_costs_no_correctness():
    layers = [_layer((D_IN, d_out), (2,), bias=False) for d_out in (5, 4, 9)]
    x = _tensors(torch.float64)["x"].requires_grad_()
    (dx,) = torch.autograd.grad(lora_linear(x, layers)[1].sum(), x)
    torch.testing.assert_close(dx, torch.autograd.grad(_by_parts(x, layers[1], (slice(0, 4),)).sum(), x)[0])


def _gated(ranks: tuple[int, ...], dtype: torch.dtype = torch.float64) -> list[Changed]:
    """Gate, up and down projection of a gated layer."""
    torch.manual_seed(2)
    return [_layer(sizes, ranks, dtype=dtype) for sizes in ((D_IN, D_OUT), (D_IN, D_OUT), (D_OUT, D_IN))]


@pytest.mark.parametrize(("parts", "ranks"), [(WHOLE, (RANK,)), (PARTS, (RANK, 1, 0, 2))])
def test_a_gated_layer_in_one_piece(parts: tuple[slice, ...], ranks: tuple[int, ...]):
    layers, x = _gated(ranks), _tensors(torch.float64, (2, 3, D_IN))["x"].requires_grad_()
    gate, up, down = layers
    found = lora_swiglu(x, gate, up, down, parts)
    expected = _by_parts(torch.nn.functional.silu(_by_parts(x, gate, parts)) * _by_parts(x, up, parts), down, parts)
    torch.testing.assert_close(found, expected)
    slope = torch.randn_like(expected)
    gradients = (torch.autograd.grad(y, [x, *_learnt(layers)], slope) for y in (found, expected))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_a_gated_layer_keeps_its_two_branches_and_not_their_product():
    gate, up, down = _gated((RANK,), torch.float32)
    kept: list[tuple[int, ...]] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(tuple(t.shape)) or t, lambda t: t):
        lora_swiglu(torch.randn(64, D_IN), gate, up, down)
    assert kept.count((64, D_OUT)) == 2
