"""Weights in eight bits: whole steps of a 127th of the largest number of their row.

w[i, j] = scale[i] code[i, j]      code: (d_out, d_in) from -127 to 127, scale: (d_out,)

A number takes 8 + 32/d_in bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from tunesmith.kernels.four_bit import QUANTIZED_AT_ONCE, dequantized_spans, spans

_STEPS = 127


@dataclass(frozen=True)
class EightBit:
    """A weight `(d_out, d_in)` in eight bits."""

    codes: Tensor
    """(d_out, d_in) int8"""
    scales: Tensor
    """(d_out,) float32"""
    shape: tuple[int, int]

    def row_blocks(self, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
        """The weight in `dtype`, some rows `(rows, d_in)` at a time, with which rows they are."""
        for first, last in dequantized_spans(*self.shape, self.codes.device.type):
            rows = slice(first, last)
            yield rows, self.codes[rows].float().mul_(self.scales[rows, None]).to(dtype)


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
