"""Root-mean-square norm, each row read from memory once."""

import torch
from torch import Tensor

from tunesmith.kernels import pool
from tunesmith.kernels.cpu.compiled import call


def forward(x: Tensor, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """See `tunesmith.kernels.rms_norm.forward`; here 1 / rms is in float32."""
    x, hidden = x.contiguous(), x.shape[-1]
    y, inverse = pool.empty_like(x), torch.empty(*x.shape[:-1], 1, dtype=torch.float32)
    call("rms_norm_forward", x.dtype, x, weight.to(x.dtype), y, inverse, inverse.numel(), hidden, float(epsilon))
    return y, inverse


def gradients(dy: Tensor, x: Tensor, weight: Tensor, inverse: Tensor, *, for_weight: bool) -> tuple[Tensor, Tensor | None]:
    """See `tunesmith.kernels.rms_norm.gradients`; here the weight's is summed in float32."""
    dy, x, hidden = dy.to(x.dtype).contiguous(), x.contiguous(), x.shape[-1]
    inverse = inverse.float().contiguous()  # torch's operations give it in the type of x
    dx, dweight = pool.empty_like(x), torch.zeros(hidden, dtype=torch.float32) if for_weight else None
    call("rms_norm_gradients", x.dtype, dy, x, weight.to(x.dtype), inverse, dx, dweight, inverse.numel(), hidden)
    return dx, None if dweight is None else dweight.to(x.dtype)
