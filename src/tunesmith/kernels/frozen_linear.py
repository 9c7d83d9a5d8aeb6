"""Products with a weight that does not learn, stored as a tensor or in few bits.

y = x Wt + b      x: (tokens, d_in), W: (d_out, d_in)

A weight in few bits is dequantised, used, and forgotten, in the forward pass and again in the backward pass, in pieces of
bounded size: nothing is kept for the backward pass but the weight in few bits.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tunesmith.kernels import rounded
from tunesmith.kernels.rounded import Rounded


class Input:
    """What several products read, rounded at most once for those that take it rounded."""

    def __init__(self, x: Tensor) -> None:
        self.x = x

    @functools.cached_property
    def rounded(self) -> Rounded:
        """The same in eight bits."""
        return rounded.rows(self.x, None)


class FewBits:
    """A weight `(d_out, d_in)` that is not a tensor of its numbers, and comes in pieces, some of its rows at a time."""

    shape: tuple[int, int]

    def row_blocks(self, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
        """Rows `(rows, d_in)` in `dtype`, with which rows they are."""
        raise NotImplementedError

    def add_product(self, y: Tensor, given: Input) -> None:
        """Add x Wt `(tokens, d_out)` to y."""
        for rows, block in self.row_blocks(given.x.dtype):
            y[:, rows].addmm_(given.x, block.t())

    def add_input_gradient(self, dx: Tensor, dy: Tensor) -> None:
        """Add dy W `(tokens, d_in)` to dx."""
        for rows, block in self.row_blocks(dy.dtype):
            dx.addmm_(dy[:, rows], block)


FrozenWeight = Tensor | FewBits


def in_autocast(x: Tensor) -> Tensor:
    """The input of a product in the type that `torch.autocast`, which does not reach into our own products, wants of it."""
    device = x.device.type
    if not torch.is_autocast_enabled(device) or x.dtype == torch.float64:
        return x
    return x.to(torch.get_autocast_dtype(device))


def add_products(outputs: Sequence[Tensor], x: Tensor, frozen: Sequence[FrozenWeight]) -> None:
    """Add x Wt `(tokens, d_out)` to every y, with a weight for each, which is taken in the type of x."""
    given = Input(x)
    for y, weight in zip(outputs, frozen, strict=True):
        if isinstance(weight, Tensor):
            y.addmm_(x, weight.t().to(x.dtype))
        else:
            weight.add_product(y, given)


def add_input_gradient(dx: Tensor, dy: Tensor, weight: FrozenWeight) -> None:
    """Add dy W `(tokens, d_in)` to dx; the weight is taken in the type of dy."""
    if isinstance(weight, Tensor):
        dx.addmm_(dy, weight.to(dy.dtype))
    else:
        weight.add_input_gradient(dx, dy)


@torch.no_grad()
def row_squares(weight: FrozenWeight, dtype: torch.dtype) -> Tensor:
    """The squared length of every row, `(d_out,)`."""
    blocks = [weight.to(dtype)] if isinstance(weight, Tensor) else (block for _, block in weight.row_blocks(dtype))
    return torch.cat([block.square().sum(1) for block in blocks])


def dense(weight: FewBits, dtype: torch.dtype = torch.float32) -> Tensor:
    """The whole weight `(d_out, d_in)` at once."""
    return torch.cat([block for _, block in weight.row_blocks(dtype)])


def plain(x: Tensor, weight: FewBits, bias: Tensor | None) -> Tensor:
    """The obvious computation, which `frozen_linear` must equal."""
    return torch.nn.functional.linear(x, dense(weight, x.dtype), bias)


def frozen_linear(x: Tensor, weight: FewBits, bias: Tensor | None) -> Tensor:
    """Map `(..., d_in)` to `(..., d_out)`; gradients flow to x and the bias."""
    flat = in_autocast(x).reshape(-1, x.shape[-1])
    result: Tensor = _FrozenLinear.apply(flat, weight)  # pyright: ignore[reportAssignmentType]
    result = result.view(*x.shape[:-1], weight.shape[0])
    return result if bias is None else result + bias


class _FrozenLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: FewBits) -> Tensor:
        ctx.weight = weight
        y = x.new_zeros(len(x), weight.shape[0])
        add_products([y], x, [weight])
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        dx = dy.new_zeros(len(dy), ctx.weight.shape[1])
        add_input_gradient(dx, dy, ctx.weight)
        return dx, None
