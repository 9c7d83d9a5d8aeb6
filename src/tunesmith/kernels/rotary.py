"""Rotary position embedding: rotate by an angle forward, by minus the angle backward; only cos and sin are kept.

With halves x = (a, b):  y = (a cos_1 - b sin_1,  b cos_2 + a sin_2)      x, cos, sin: (..., tokens, width)
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tunesmith.kernels.by_device import by_device


def plain(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The obvious computation, which `rotate` must equal."""
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """`x` turned by the angles whose cosines and sines are given."""
    return _Rotate.apply(x, cos, sin)  # pyright: ignore[reportReturnType]


@by_device
def turn(x: Tensor, cos: Tensor, sin: Tensor, *, backward: bool) -> Tensor:
    """`x` turned by the angles, or back."""
    (a, b), (sin_1, sin_2) = x.chunk(2, -1), sin.chunk(2, -1)
    y = x * cos
    first, second = y.chunk(2, -1)
    if backward:
        first.addcmul_(b, sin_2)
        second.addcmul_(a, sin_1, value=-1)
    else:
        first.addcmul_(b, sin_1, value=-1)
        second.addcmul_(a, sin_2)
    return y


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return turn(x, cos, sin, backward=False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        cos, sin = ctx.saved_tensors
        return turn(dy, cos, sin, backward=True), None, None
