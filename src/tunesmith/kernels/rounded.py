"""Products of whole numbers of eight bits: inputs rounded in groups, weights in rows, sums exact.

x[t, i] = scale[t, i // 64] (code[t, i] - 128)

A processor with instructions for such products (VNNI) takes them about twice as fast as those of bfloat16. The whole
numbers of a group are summed without error; what is lost is the rounding of the input, half of a 127th of the
largest number of its group. Sources: one scale for each row https://arxiv.org/abs/2208.07339, the same in training with a
weight that is not rounded for its own gradient https://arxiv.org/abs/2304.13013; groups, because some channels of an input
are many times as large as all others.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from tunesmith.kernels import by_device
from tunesmith.kernels.cpu.compiled import library
from tunesmith.kernels.spans import dequantized_spans

GROUP = 64
"""Neighbours of a row that share a scale; four vectors of sixteen."""
ZERO = 128
"""The code of zero: what these codes are multiplied by has a sign, they have none."""
_STEPS = 127


class Rounded(NamedTuple):
    """Rows of an input in eight bits."""

    codes: Tensor
    """(rows, groups * 64) uint8"""
    scales: Tensor
    """(rows, groups) float32, of each group"""

    def values(self, dtype: torch.dtype, width: int) -> Tensor:
        """What they stand for, `(rows, width)`."""
        grouped = self.codes.view(*self.scales.shape, GROUP).float().sub_(ZERO).mul_(self.scales[..., None])
        return grouped.view(len(self.codes), -1)[:, :width].to(dtype)


_scopes: list[bool] = [False]
"""Whether inputs are rounded in each scope."""


@contextlib.contextmanager
def inputs(whether: bool = True) -> Iterator[None]:
    """Let products with a weight in eight bits round their inputs for a while, as they do nowhere else."""
    _scopes.append(whether)
    try:
        yield
    finally:
        _scopes.pop()


def are_inputs() -> bool:
    """Whether inputs are to be rounded."""
    return _scopes[-1]


def pay(device_type: str) -> bool:
    """Whether products of whole numbers are faster on a device, as its threads are now, than those of the input's own type."""
    if device_type != "cpu" or by_device.kind_for((torch.empty(0),)) != "cpu":
        return False
    return bool(library(torch.float32).rounded_products_are_fast())


@by_device.by_device
def rows(x: Tensor, factors: Tensor | None) -> Rounded:
    """The rows of x `(rows, width)`, each column multiplied by its one of `factors` (width,) float32 before, if they are given.

    A group that holds a number that is not finite has no finite scale.
    """
    wide = x.float() if factors is None else x.float() * factors
    wide = torch.nn.functional.pad(wide, (0, -wide.shape[1] % GROUP)).view(len(x), -1, GROUP)
    largest = wide.abs().amax(-1)
    codes = (wide * (_STEPS / largest.clamp_min(torch.finfo(torch.float32).tiny))[..., None]).round_().add_(ZERO)
    return Rounded(codes.nan_to_num_(ZERO).to(torch.uint8).view(len(x), -1), largest / _STEPS)


@by_device.by_device
def add_product(y: Tensor, x: Rounded, codes: Tensor, scales: Tensor) -> None:
    """Add x Wt to y `(rows, d_out)`, where W `(d_out, d_in)` is int8 codes times the scale of each row."""
    values = x.values(y.dtype, codes.shape[1])
    for first, last in dequantized_spans(codes.shape[0], codes.shape[1], codes.device.type):
        block = codes[first:last].float().mul_(scales[first:last, None]).to(y.dtype)
        y[:, first:last].addmm_(values, block.t())


@by_device.by_device
def add_transposed_product(y: Tensor, x: Rounded, codes: Tensor) -> None:
    """Add x C to y `(rows, columns)`, where C `(width of x, columns)` is int8 codes."""
    values = x.values(y.dtype, len(codes))
    for first, last in dequantized_spans(codes.shape[0], codes.shape[1], codes.device.type):
        y.addmm_(values[:, first:last], codes[first:last].to(y.dtype))
