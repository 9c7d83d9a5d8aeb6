"""Weights in eight bits: whole steps of a 127th of the largest number of their row.

w[i, j] = scale[i] code[i, j]      code: (d_out, d_in) from -127 to 127, scale: (d_out,)

A number takes 8 + 32/d_in bits. Inside `rounded.inputs` products with it are of whole numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from tunesmith.kernels import rounded
from tunesmith.kernels.by_device import by_device_alone
from tunesmith.kernels.frozen_linear import FewBits, Input
from tunesmith.kernels.spans import QUANTIZED_AT_ONCE, dequantized_spans, spans

_STEPS = 127


@dataclass(frozen=True)
class EightBit(FewBits):
    """A weight `(d_out, d_in)` in eight bits."""

    codes: Tensor
    """(d_out, d_in) int8"""
    scales: Tensor
    """(d_out,) float32"""
    shape: tuple[int, int]

    def row_blocks(self, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
        """The weight in `dtype`, some rows `(rows, d_in)` at a time, with which rows they are."""
        return _row_blocks(self.codes, self.scales, dtype)

    def add_product(self, y: Tensor, given: Input) -> None:
        if rounded.are_inputs():
            rounded.add_product(y, given.rounded, self.codes, self.scales)
        else:
            add_product(y, given.x, self.codes, self.scales)

    def add_input_gradient(self, dx: Tensor, dy: Tensor) -> None:
        if rounded.are_inputs():
            # A row's scale goes to the gradient of its output: what is summed must be whole numbers alone.
            rounded.add_transposed_product(dx, rounded.rows(dy, self.scales), self.codes)
        else:
            super().add_input_gradient(dx, dy)


def _row_blocks(codes: Tensor, scales: Tensor, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
    for first, last in dequantized_spans(len(codes), codes.shape[1], codes.device.type):
        rows = slice(first, last)
        yield rows, codes[rows].float().mul_(scales[rows, None]).to(dtype)


@by_device_alone
def add_product(y: Tensor, x: Tensor, codes: Tensor, scales: Tensor) -> None:
    """Add x Wt to y `(rows, d_out)`, where W `(d_out, d_in)` is int8 codes times the scale of each row."""
    for rows, block in _row_blocks(codes, scales, x.dtype):
        y[:, rows].addmm_(x, block.t())


def quantize(weight: Tensor) -> EightBit:
    """A weight `(d_out, d_in)` in the nearest steps; beside the codes it takes a few megabytes."""
    d_out, d_in = weight.shape
    codes = torch.empty(d_out, d_in, dtype=torch.int8, device=weight.device)
    scales = torch.empty(d_out, dtype=torch.float32, device=weight.device)
    for first, last in spans(d_out, d_in, QUANTIZED_AT_ONCE):
        rows = weight.detach()[first:last].float()
        scales[first:last] = rows.abs().amax(1) / _STEPS
        codes[first:last] = (rows / scales[first:last, None].clamp_min(1e-38)).round_().to(torch.int8)
    return EightBit(codes, scales, (d_out, d_in))
