"""Modules that compute the Gaussian error linear unit by tanh: found by what they answer, whatever they are called."""

from __future__ import annotations

import inspect

import torch
from torch import Tensor, nn

from tunesmith.kernels import gelu

_TOLERANCE = 2e-6  # of numbers up to six; the exact form differs by 5e-4


class FastGELU(nn.Module):
    """A model's activation, by our kernel."""

    def __init__(self, _: nn.Module) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        """`(...)` to the same shape."""
        return gelu.gelu(x)


@torch.no_grad()
def as_gelu(module: nn.Module) -> nn.Module | None:
    """The module if it has no parts and computes this function, else None."""
    if any(True for _ in (*module.children(), *module.parameters(), *module.buffers())):
        return None
    if len(inspect.signature(module.forward).parameters) != 1:
        return None
    x = torch.linspace(-6, 6, 97)
    try:
        answer = module(x)
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError, NotImplementedError):  # made for other shapes
        return None
    if not isinstance(answer, Tensor) or answer.shape != x.shape or answer.dtype != x.dtype:
        return None
    return module if (answer - gelu.plain(x)).abs().max() <= _TOLERANCE else None
