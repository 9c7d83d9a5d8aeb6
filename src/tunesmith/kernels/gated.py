"""Gated feed-forward layers, forward and backward by hand.

y = down(silu(gate(x)) * up(x))      silu(z) = z sigmoid(z)

The product of the two branches is as large as either; it is made again in the backward pass instead of being kept, also
(inside `remade.sparing`) for a layer that reads it.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tunesmith.kernels import lora_linear, remade
from tunesmith.kernels.by_device import by_device
from tunesmith.kernels.frozen_linear import in_autocast
from tunesmith.kernels.lora_linear import ALL_TOKENS, Changed, Readers, flat, products, unflat


def plain(gate: Tensor, up: Tensor) -> Tensor:
    """The obvious computation, which `swiglu` must equal."""
    return torch.nn.functional.silu(gate) * up


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up, of the shape of both; keeps its two inputs and nothing else."""
    y: Tensor = _SwiGLU.apply(gate, up)  # pyright: ignore[reportAssignmentType]
    sources = gate.detach(), up.detach()
    remade.can_remake(y, lambda: product(*sources))
    return y


def lora_swiglu(x: Tensor, gate: Changed, up: Changed, down: Changed, parts: Sequence[slice] = ALL_TOKENS) -> Tensor:
    """The whole layer, `(..., d_in)` to `(..., d_out)`, where all three projections are `lora_linear`s of the same parts."""
    rows = in_autocast(x).reshape(-1, x.shape[-1])
    inner, outer = Readers((gate, up), parts), Readers((down,), parts)
    result: Tensor = _LoRASwiGLU.apply(rows, inner, outer, *inner.factors, *outer.factors)  # pyright: ignore[reportAssignmentType]
    return result.view(*x.shape[:-1], result.shape[-1])


@by_device
def product(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up."""
    return torch.nn.functional.silu(gate).mul_(up)


@by_device
def reopened(gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor | None]:
    """silu(gate) * up, and silu(gate) if holding it spares `gradients` some work."""
    opened = torch.nn.functional.silu(gate)
    return opened * up, opened


@by_device
def gradients(dy: Tensor, gate: Tensor, up: Tensor, opened: Tensor | None, *, overwrite: bool) -> tuple[Tensor, Tensor]:
    """The gradients of gate and up; silu(gate), if it is known, is overwritten, and dy if that is allowed."""
    dup = (torch.nn.functional.silu(gate) if opened is None else opened).mul_(dy)
    return torch.ops.aten.silu_backward(dy.mul_(up) if overwrite else dy * up, gate), dup


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return product(gate, up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        gate, up = ctx.saved_tensors
        return gradients(dy, gate, up, None, overwrite=False)


class _LoRASwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, inner: Readers, outer: Readers, *_: Tensor) -> Tensor:
        (gate, up), kept = products(x, inner)
        (y,), kept_outer = products(product(gate, up), outer)
        ctx.save_for_backward(x, gate, up, *flat(kept + kept_outer))
        ctx.inner, ctx.outer = inner, outer
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, gate, up, *tensors = ctx.saved_tensors
        kept, num_parts = unflat(tensors), len(ctx.inner.parts)
        inside, opened = reopened(gate, up)
        dinside, learnt_outer = lora_linear.gradients([dy], inside, kept[num_parts:], ctx.outer, for_input=True)
        assert dinside is not None
        del inside  # as large as the gradients that follow
        dbranches = gradients(dinside, gate, up, opened, overwrite=True)
        for_input = ctx.needs_input_grad[0]
        dx, learnt = lora_linear.gradients(dbranches, x, kept[:num_parts], ctx.inner, for_input=for_input)
        return dx, None, None, *learnt, *learnt_outer
