"""Root-mean-square norm with a frozen or trained weight, keeping x and one number a row for the backward pass.

Layers that read y need not keep it: inside `remade.sparing` it is made again from x.

y = x / rms(x) * w,  rms(x) = sqrt(mean(x^2) + eps)      x: (..., hidden), w: (hidden,)

With u = x / rms and g = dy * w:  dx = (g - u mean(g u)) / rms,  dw = sum over rows of dy * u
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tunesmith.kernels import remade
from tunesmith.kernels.by_device import by_device


def plain(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """The obvious computation, which `rms_norm` must equal."""
    wide = x.float()
    return weight * (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + epsilon)).to(x.dtype)


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """Normalise the last axis of `x`."""
    y: Tensor = _RMSNorm.apply(x, weight, epsilon)  # pyright: ignore[reportAssignmentType]
    source, scale = x.detach(), weight.detach()
    remade.can_remake(y, lambda: forward(source, scale, epsilon)[0])
    return y


@by_device
def forward(x: Tensor, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """y, and 1 / rms of every row for `gradients`."""
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
    inverse = norm.square_().div_(x.shape[-1]).add_(epsilon).rsqrt_().to(x.dtype)
    return (x * inverse).mul_(weight), inverse


@by_device
def gradients(dy: Tensor, x: Tensor, weight: Tensor, inverse: Tensor, *, for_weight: bool) -> tuple[Tensor, Tensor | None]:
    """The gradient of x, and that of the weight, None unless asked for."""
    inverse = inverse.to(x.dtype)  # a kernel gives it in float32
    unit = x * inverse
    dweight = (dy * unit).flatten(0, -2).sum(0) if for_weight else None
    dx = dy * weight
    share = (dx * unit).mean(-1, keepdim=True, dtype=torch.float32).to(x.dtype)
    return dx.sub_(unit.mul_(share)).mul_(inverse), dweight


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        y, inverse = forward(x, weight, epsilon)
        ctx.save_for_backward(x, weight, inverse)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight, inverse = ctx.saved_tensors
        return *gradients(dy, x, weight, inverse, for_weight=ctx.needs_input_grad[1]), None
