"""The product inside a gated feed-forward layer, keeping its two inputs and nothing else.

y = silu(gate) * up      gate, up: (tokens, width);  silu(z) = z sigmoid(z)
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def plain(gate: Tensor, up: Tensor) -> Tensor:
    """The obvious computation, which `swiglu` must equal."""
    return torch.nn.functional.silu(gate) * up


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up, of the shape of both."""
    return _SwiGLU.apply(gate, up)  # pyright: ignore[reportReturnType]


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
        dgate = torch.ops.aten.silu_backward(dy * up, gate)
        return dgate, dup
