"""What all passes of a step share, made once: passes use copies, which take up gradients and hand them on at the end."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import torch
from torch import Tensor


class Made:
    """What a function has made, and copies of it that take up the gradients of passes."""

    def __init__(self, make: Callable[[], Tensor | list[Tensor]]) -> None:
        self._make = make
        self._outputs: list[Tensor] = []
        self._copies: list[Tensor] = []
        self._is_one = False

    def copies(self) -> Tensor | list[Tensor]:
        """What the function makes, a tensor or several, made by the first pass that asks."""
        if not self._copies:
            made = self._make()
            self._is_one = isinstance(made, Tensor)
            self.keep([made] if isinstance(made, Tensor) else made)
        return self._copies[0] if self._is_one else self._copies

    def keep(self, outputs: list[Tensor]) -> list[Tensor]:
        """Take what was made; returns the copies."""
        self._outputs = outputs
        # In float32, in which the gradients of many passes can be added up.
        self._copies = [output.detach().float().requires_grad_(output.requires_grad) for output in outputs]
        return self._copies

    def backward(self, scope: contextlib.AbstractContextManager[object] | None = None) -> None:
        """Pass on what the copies have taken up; inside `scope` is what making the outputs ran inside of."""
        known = [(output, copy.grad) for output, copy in zip(self._outputs, self._copies, strict=True) if copy.grad is not None]
        if known:
            with scope or contextlib.nullcontext():
                torch.autograd.backward([output for output, _ in known], [grad.to(output.dtype) for output, grad in known])
