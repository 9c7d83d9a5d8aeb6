"""Gated feed-forward layers, forward and backward by hand.

y = down(silu(gate(x)) * up(x))      silu(z) = z sigmoid(z)

The product of the two branches is as large as either; it is made again in the backward pass instead of being kept.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tunesmith.kernels.lora_linear import Changed, Kept, factors, gradients, products


def plain(gate: Tensor, up: Tensor) -> Tensor:
    """The obvious computation, which `swiglu` must equal."""
    return torch.nn.functional.silu(gate) * up


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up, of the shape of both; keeps its two inputs and nothing else."""
    return _SwiGLU.apply(gate, up)  # pyright: ignore[reportReturnType]


def lora_swiglu(x: Tensor, gate: Changed, up: Changed, down: Changed, scale: float) -> Tensor:
    """The whole layer, `(..., d_in)` to `(..., d_out)`, where all three projections are `lora_linear`s."""
    flat = x.reshape(-1, x.shape[-1])
    layers = (gate, up, down)
    result: Tensor = _LoRASwiGLU.apply(flat, layers, scale, *factors(layers))  # pyright: ignore[reportAssignmentType]
    return result.view(*x.shape[:-1], result.shape[-1])


def _silu_gradient(dy: Tensor, gate: Tensor) -> Tensor:
    return torch.ops.aten.silu_backward(dy, gate)


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return torch.nn.functional.silu(gate).mul_(up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        gate, up = ctx.saved_tensors
        dup = torch.nn.functional.silu(gate).mul_(dy)
        return _silu_gradient(dy * up, gate), dup


class _LoRASwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layers: Sequence[Changed], scale: float, *_: Tensor) -> Tensor:
        (gate, up), kept = products(x, layers[:2], scale)
        (y,), kept_down = products(torch.nn.functional.silu(gate).mul_(up), layers[2:], scale)
        ctx.save_for_backward(x, gate, up, *kept, *kept_down)
        ctx.layers, ctx.scale = layers, scale
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, gate, up, *kept = ctx.saved_tensors
        layers, scale = ctx.layers, ctx.scale
        opened = torch.nn.functional.silu(gate)
        dproduct, (da, db) = gradients([dy], opened * up, Kept(*kept[2:]), layers[2:], scale, for_input=True)
        assert dproduct is not None
        dup = opened.mul_(dproduct)
        dgate = _silu_gradient(dproduct.mul_(up), gate)
        dx, learnt = gradients([dgate, dup], x, Kept(*kept[:2]), layers[:2], scale, for_input=ctx.needs_input_grad[0])
        return dx, None, None, *learnt[:2], da, *learnt[2:], db
