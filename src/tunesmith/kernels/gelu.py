"""The Gaussian error linear unit in its form by tanh, keeping x alone for the backward pass.

Layers that read y need not keep it: inside `remade.sparing` it is made again from x.

y = x Phi(x)      Phi(x) = (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2

The exact form, by erf, is left to torch, whose code for it is fast.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tunesmith.kernels import remade
from tunesmith.kernels.by_device import by_device


def plain(x: Tensor) -> Tensor:
    """The obvious computation, which `gelu` must equal."""
    return torch.nn.functional.gelu(x, approximate="tanh")


def gelu(x: Tensor) -> Tensor:
    """X Phi(x), of the shape of x."""
    y: Tensor = _GELU.apply(x)  # pyright: ignore[reportAssignmentType]
    source = x.detach()
    remade.can_remake(y, lambda: activated(source))
    return y


@by_device
def activated(x: Tensor) -> Tensor:
    """X Phi(x)."""
    return torch.nn.functional.gelu(x, approximate="tanh")


@by_device
def gradient(dy: Tensor, x: Tensor) -> Tensor:
    """The gradient of x."""
    return torch.ops.aten.gelu_backward(dy, x, approximate="tanh")


class _GELU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return activated(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        (x,) = ctx.saved_tensors
        return gradient(dy, x)
