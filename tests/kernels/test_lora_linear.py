"""The layer with a low-rank change equals its obvious twin."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tunesmith.kernels.lora_linear import lora_linear, plain

D_IN, D_OUT, RANK = 7, 5, 3


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
    found, expected = (_with_gradients(f, tensors, bias=bias) for f in (lora_linear, plain))
    for name, one, other in zip(("y", "dx", "da", "db"), found, expected, strict=True):
        assert one.shape == other.shape, name
        # gradients of A and B are summed in float32, whatever x is
        exact = dtype == torch.float64 and name in ("y", "dx")
        assert (one - other).abs().max() <= (1e-12 if exact else tolerance) * max(1.0, other.abs().max().item()), name


def test_a_weight_stored_with_its_inputs_first():
    tensors = _tensors(torch.float32)
    tensors["weight"] = tensors["weight"].t().contiguous().t()
    for one, other in zip(*(_with_gradients(f, tensors, bias=True) for f in (lora_linear, plain)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


def test_x_that_is_not_contiguous():
    tensors = _tensors(torch.float32)
    tensors["x"] = tensors["x"].t().contiguous().t()
    for one, other in zip(*(_with_gradients(f, tensors, bias=True) for f in (lora_linear, plain)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


def test_bfloat16_input_gives_float32_gradients_of_the_factors():
    tensors = _tensors(torch.bfloat16)
    y, dx, da, db = _with_gradients(lora_linear, tensors, bias=True)
    assert (y.dtype, dx.dtype, da.dtype, db.dtype) == (torch.bfloat16, torch.bfloat16, torch.float32, torch.float32)
    exact = _with_gradients(plain, {n: t.float() for n, t in tensors.items()}, bias=True)
    for one, other in zip((y, dx, da, db), exact, strict=True):
        assert (one.float() - other).abs().max() <= 0.02 * other.abs().max()


def test_nothing_flows_to_the_frozen_weight():
    tensors = {n: t.requires_grad_() for n, t in _tensors(torch.float32).items()}
    lora_linear(*(tensors[n] for n in ("x", "weight", "bias", "a", "b")), 1.0).sum().backward()
    assert [n for n, t in tensors.items() if t.grad is None] == ["weight", "bias"]


def test_an_input_without_gradient_costs_no_product():
    tensors = _tensors(torch.float32)
    a, b = (tensors[n].requires_grad_() for n in "ab")
    y = lora_linear(tensors["x"], tensors["weight"], None, a, b, 1.0)
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
        lora_linear(x, *(tensors[n] for n in ("weight", "bias", "a", "b")), 1.0)
    assert sorted(kept) == [(D_OUT, RANK), (64, RANK)], "B times the scale and x At, nothing as large as x or y"


@pytest.mark.parametrize("scale", [0.0, 0.5, -3.0])
def test_scale(scale: float):
    tensors = _tensors(torch.float64)
    for one, other in zip(*(_with_gradients(f, tensors, bias=True, scale=scale) for f in (lora_linear, plain)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)
