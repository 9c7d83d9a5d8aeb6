"""A linear layer whose weight is kept in few bits and does not learn."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from tunesmith.kernels.eight_bit import EightBit
from tunesmith.kernels.four_bit import FourBit
from tunesmith.kernels.frozen_linear import dense, frozen_linear


class QuantizedLinear(nn.Module):
    """y = W x + b with W `(d_out, d_in)` in few bits. Its parts are buffers: nothing of W is a parameter."""

    bias: nn.Parameter | None

    def __init__(self, stored: FourBit | EightBit, bias: nn.Parameter | None, inputs_first: bool = False) -> None:
        super().__init__()
        self.bias = bias
        self.inputs_first = inputs_first
        """Whether the layer that it stands for keeps its weight as (inputs, outputs), as in GPT-2."""
        self._kind = type(stored)
        self._rest: dict[str, object] = {}
        for field in dataclasses.fields(stored):
            value = getattr(stored, field.name)
            if isinstance(value, Tensor):
                self.register_buffer(field.name, value)
            else:
                self._rest[field.name] = value

    @property
    def stored(self) -> FourBit | EightBit:
        """The weight in few bits."""
        return self._kind(**self._buffers, **self._rest)  # pyright: ignore[reportArgumentType]

    @property
    def sizes(self) -> tuple[int, int]:
        """Width of what comes in and of what goes out, (inputs, outputs)."""
        d_out, d_in = self.stored.shape
        return d_in, d_out

    @property
    def weight(self) -> Tensor:
        """The whole weight, dequantised anew, `(d_out, d_in)` float32."""
        return dense(self.stored)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(..., d_in)` to `(..., d_out)`."""
        return frozen_linear(x, self.stored, self.bias)

    def dequantized(self) -> nn.Module:
        """The layer that it stands for, with the weight that it computes with, in float32."""
        d_in, d_out = self.sizes
        with torch.device("meta"):
            plain = Conv1D(d_out, d_in) if self.inputs_first else nn.Linear(d_in, d_out, bias=self.bias is not None)
        plain.weight = nn.Parameter(self.weight.t().contiguous() if self.inputs_first else self.weight)
        if self.bias is not None:
            plain.bias = self.bias
        return plain.train(self.training)
