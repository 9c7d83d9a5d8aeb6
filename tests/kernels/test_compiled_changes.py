"""The compiled small products of low-rank changes equal the obvious ones in float64, but for rounding to 16 bits."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from tunesmith.kernels import by_device
from tunesmith.kernels.cpu import compiled
from tunesmith.kernels.cpu import lora_linear as kernels
from tunesmith.kernels.lora_linear import Change, Kept

pytestmark = pytest.mark.skipif(not compiled.is_there(), reason=f"needs compiled code: {compiled.why_not()}")
TOLERANCE = 0.012  # of the norm; one rounding to bfloat16 is 0.002


class Sizes(NamedTuple):
    tokens: int
    d_in: int
    layers: tuple[tuple[int, int], ...]
    """(rank, d_out) of each."""


SIZES = [Sizes(tokens, 48, ((4, 32),)) for tokens in (8, 9, 15, 16, 17, 40)]
SIZES += [Sizes(21, d_in, ((rank, d_out),)) for d_in in (2, 34) for rank in (2, 6, 16, 18, 64) for d_out in (2, 30, 66)]
SIZES += [Sizes(30, 40, ((8, 64), (8, 32), (8, 32))), Sizes(30, 40, ((2, 64), (10, 32), (16, 6))), Sizes(30, 40, ((2, 8),) * 8)]


class Inputs(NamedTuple):
    x: Tensor
    doutputs: list[Tensor]
    changes: list[Change]


def _inputs(sizes: Sizes, *, apart: int = 0) -> Inputs:
    """With `apart` more numbers between one row and the next."""
    generator = torch.Generator().manual_seed(sizes.tokens)

    def random(rows: int, columns: int) -> Tensor:
        return torch.randn(rows, columns, generator=generator)

    def rows(width: int) -> Tensor:
        return random(sizes.tokens, width + apart).bfloat16()[:, :width]

    changes = [
        Change(random(rank, sizes.d_in), random(d_out, rank), 0.5 + number) for number, (rank, d_out) in enumerate(sizes.layers)
    ]
    return Inputs(rows(sizes.d_in), [rows(d_out) for _, d_out in sizes.layers], changes)


def _biases(outputs: list[Tensor]) -> list[Tensor | None]:
    """One for every second layer, the first included, in another type than what is computed with."""
    generator = torch.Generator().manual_seed(5)
    drawn = [5 * torch.randn(y.shape[1], generator=generator) for y in outputs]
    return [bias if number % 2 == 0 else None for number, bias in enumerate(drawn)]


def _close(one: Tensor, other: Tensor) -> None:
    assert (one.double() - other).norm() <= TOLERANCE * other.norm()


@pytest.fixture(autouse=True)
def _taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """On every processor; and nothing is left to torch in silence."""
    monkeypatch.setattr(compiled, "pairs_are_fast", lambda: True)
    for name in ("write_changes", "change_gradients"):
        monkeypatch.delitem(by_device.FUNCTIONS, f"lora_linear.{name}")


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("apart", [0, 6])
@pytest.mark.parametrize("for_input", [True, False])
def test_products_and_gradients(sizes: Sizes, apart: int, for_input: bool):
    x, doutputs, changes = _inputs(sizes, apart=apart)
    outputs = [torch.full_like(dy, torch.nan) for dy in doutputs]
    biases = _biases(doutputs)
    kept = kernels.write_changes(x, outputs, changes, biases)
    dx = torch.full(x.shape, torch.nan, dtype=x.dtype) if for_input else None
    found = kernels.change_gradients(x, doutputs, kept, changes, dx)

    exact = x.double().requires_grad_()
    factors = [(a.double().requires_grad_(), b.double().requires_grad_()) for a, b, _ in changes]
    results = [scale * (exact @ a.t() @ b.t()) for (a, b), (_, _, scale) in zip(factors, changes, strict=True)]
    results = [y if bias is None else y + bias.double() for y, bias in zip(results, biases, strict=True)]
    wanted = [exact, *(a for a, _ in factors), *(b for _, b in factors)]
    expected = torch.autograd.grad(results, wanted, [dy.double() for dy in doutputs])
    for y, result in zip(outputs, results, strict=True):
        _close(y, result.detach())
    if dx is not None:
        _close(dx, expected[0])
    assert [t.dtype for t in found] == [torch.float32] * len(found)
    for gradient, other in zip(found, expected[1:], strict=True):
        assert gradient.shape == other.shape
        _close(gradient, other)
    _close(kept.a, torch.cat([a for a, _, _ in changes]).double())


@pytest.mark.parametrize(
    "sizes",
    [
        *(Sizes(7, 8, ((2, 8),)), Sizes(9, 8, ((3, 8),)), Sizes(9, 7, ((2, 8),)), Sizes(9, 8, ((2, 9),))),
        *(Sizes(9, 8, ((130, 8),)), Sizes(9, 8, ((0, 8),)), Sizes(9, 8, ((2, 8),) * 9)),
    ],
    ids=["few tokens", "odd rank", "odd input", "odd output", "many ranks", "no rank", "many layers"],
)
def test_other_forms_are_left_to_torch(sizes: Sizes, monkeypatch: pytest.MonkeyPatch):
    x, doutputs, changes = _inputs(sizes)
    asked = []
    monkeypatch.setitem(by_device.FUNCTIONS, "lora_linear.write_changes", lambda *_: asked.append("forward"))
    monkeypatch.setitem(by_device.FUNCTIONS, "lora_linear.change_gradients", lambda *_: asked.append("backward"))
    kernels.write_changes(x, doutputs, changes, [None] * len(changes))
    kernels.change_gradients(x, doutputs, Kept(x, x), changes, None)
    assert asked == ["forward", "backward"]


@pytest.mark.parametrize("which", ["float32 input", "float16 factors", "factors that lie apart"])
def test_other_types_are_left_to_torch(which: str):
    x, doutputs, changes = _inputs(Sizes(9, 8, ((4, 8),)))
    a, b, scale = changes[0]
    if which == "float32 input":
        assert kernels._sizes(x.float(), doutputs, changes) is None
    elif which == "float16 factors":
        assert kernels._sizes(x, doutputs, [Change(a.half(), b, scale)]) is None
    else:
        assert kernels._sizes(x, doutputs, [Change(a, b.t().contiguous().t(), scale)]) is None
    assert kernels._sizes(x, doutputs, changes) is not None
