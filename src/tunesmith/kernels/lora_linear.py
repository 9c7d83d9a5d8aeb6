"""A frozen linear layer plus a low-rank change, forward and backward by hand.

y = x Wt + b + s (x At) Bt      x: (tokens, d_in), W: (d_out, d_in), A: (rank, d_in), B: (d_out, rank)

Kept for the backward pass: x and x At only. A and B are cast to x's type once per call, their gradients are
summed in their own (float32); no full-size product is ever held besides y and dx.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tunesmith.kernels.frozen_linear import FrozenWeight, add_input_gradient, add_product


def plain(x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float) -> Tensor:
    """The obvious computation, which `lora_linear` must equal."""
    return torch.nn.functional.linear(x, weight, bias) + scale * (x @ a.t().to(x.dtype) @ b.t().to(x.dtype))


def lora_linear(x: Tensor, weight: FrozenWeight, bias: Tensor | None, a: Tensor, b: Tensor, scale: float) -> Tensor:
    """Map `(..., d_in)` to `(..., d_out)`; gradients flow to x, A and B, never to W or the bias."""
    flat = x.reshape(-1, x.shape[-1])
    result: Tensor = _LoRALinear.apply(flat, weight, bias, a, b, scale)  # pyright: ignore[reportAssignmentType]
    return result.view(*x.shape[:-1], weight.shape[0])


class _LoRALinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: FrozenWeight, bias: Tensor | None, a: Tensor, b: Tensor, scale: float) -> Tensor:
        a, b = a.to(x.dtype), (b * scale).to(x.dtype)
        projected = x @ a.t()
        # The small product comes first: added to an output that is already rounded to 16 bits, most of it would be lost.
        y = torch.mm(projected, b.t())
        if bias is not None:
            y.add_(bias)
        add_product(y, x, weight)
        ctx.save_for_backward(x, a, b, projected)
        ctx.weight, ctx.scale = weight, scale
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, a, b, projected = ctx.saved_tensors
        dprojected = dy @ b
        dx = torch.mm(dprojected, a) if ctx.needs_input_grad[0] else None
        if dx is not None:
            add_input_gradient(dx, dy, ctx.weight)
        da = (dprojected.t() @ x).float()
        db = (dy.t() @ projected).float().mul_(ctx.scale)
        return dx, None, None, da, db, None
