"""Root-mean-square norm with a frozen or trained weight, keeping one number a row for the backward pass.

y = x / rms(x) * w,  rms(x) = sqrt(mean(x^2) + eps)      x: (..., hidden), w: (hidden,)

With u = x / rms and g = dy * w:  dx = (g - u mean(g u)) / rms,  dw = sum over rows of dy * u
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def plain(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """The obvious computation, which `rms_norm` must equal."""
    wide = x.float()
    return weight * (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + epsilon)).to(x.dtype)


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """Normalise the last axis of `x`."""
    return _RMSNorm.apply(x, weight, epsilon)  # pyright: ignore[reportReturnType]


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        inverse = norm.square_().div_(x.shape[-1]).add_(epsilon).rsqrt_().to(x.dtype)
        ctx.save_for_backward(x, weight, inverse)
        return (x * inverse).mul_(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight, inverse = ctx.saved_tensors
        unit = x * inverse
        dweight = (dy * unit).flatten(0, -2).sum(0) if ctx.needs_input_grad[1] else None
        if not ctx.needs_input_grad[0]:
            return None, dweight, None
        dx = dy * weight
        share = (dx * unit).mean(-1, keepdim=True, dtype=torch.float32).to(x.dtype)
        return dx.sub_(unit.mul_(share)).mul_(inverse), dweight, None
