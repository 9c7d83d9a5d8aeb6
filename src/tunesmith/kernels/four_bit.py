"""Weights in four bits: each number one of 16 levels, times the scale of its block; the scales themselves in eight bits.

w[i] = level[code[i]] scale[i // 64]      scale[j] = mean + group_scale[j // 256] fine_level[scale_code[j]]

Numbers are counted along the rows of W (d_out, d_in). A number takes 4 + 8/64 + 32/(64 256) = 4.127 bits; scales in
float32 would take 0.373 bits more. Codes of numbers, and values of equal codes, are those of bitsandbytes, without needing it;
about two in a thousand codes of scales differ from its by one step, ours being the nearer one.
NormalFloat4 and the double quantisation: https://arxiv.org/abs/2305.14314; the levels of the scales:
https://arxiv.org/abs/1511.04561.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tunesmith.kernels.by_device import by_device
from tunesmith.kernels.frozen_linear import FewBits
from tunesmith.kernels.spans import BLOCK, QUANTIZED_AT_ONCE, dequantized_spans

GROUP = 256
"""Scales that share a scale of their own."""
Levels = Literal["nf4", "fp4", "int4"]

_NF4 = (-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334)
_NF4 += (-0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224)
_NF4 += (0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0)
_FP4 = (0.0625 / 12, 2 / 12, 3 / 12, 4 / 12, 6 / 12, 8 / 12, 1.0)  # two bits of exponent, one of mantissa
_LEVELS: dict[str, tuple[float, ...]] = {
    "nf4": _NF4,
    # Zero has two codes in these: the second one stands unused at the end.
    "fp4": (*(-level for level in reversed(_FP4)), 0.0, *_FP4, 1.0),
    "int4": (*(step / 7 for step in range(-7, 8)), 1.0),
}
_CELLS = 1024  # of [-1, 1], so narrow that no two levels change within neighbouring ones


@dataclass(frozen=True)
class FourBit(FewBits):
    """A weight `(d_out, d_in)` in four bits."""

    codes: Tensor
    """(blocks * 32,) uint8, two numbers in a byte, the first in its upper half"""
    scale_codes: Tensor
    """(blocks,) uint8"""
    group_scales: Tensor
    """(groups,) float32"""
    mean_scale: Tensor
    """() float32"""
    shape: tuple[int, int]
    levels: Levels = "nf4"

    def row_blocks(self, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
        """The weight in `dtype`, some rows `(rows, d_in)` at a time, with which rows they are."""
        d_out, d_in = self.shape
        for first, last in dequantized_spans(d_out, d_in, self.codes.device.type):
            blocks = slice(first * d_in // BLOCK, -(-last * d_in // BLOCK))
            codes = self.codes[blocks.start * BLOCK // 2 : blocks.stop * BLOCK // 2]
            found = numbers(codes, self, blocks, dtype)
            yield slice(first, last), found[: (last - first) * d_in].view(-1, d_in)


@by_device
def numbers(codes: Tensor, weight: FourBit, blocks: slice, dtype: torch.dtype) -> Tensor:
    """The numbers of some blocks of a weight, whose codes are given, `(numbers,)` in `dtype`."""
    pairs, scales = _pairs(weight.levels, codes.device), scales_of(weight, blocks)
    # One look-up of eight bytes for two numbers is three times as fast as two of four.
    found = pairs.index_select(0, codes.int()).view(torch.float32).view(-1, BLOCK)
    return found.mul_(scales[:, None]).view(-1).to(dtype)


def scales_of(weight: FourBit, blocks: slice) -> Tensor:
    """The scale of each of some blocks, `(blocks,)` float32."""
    fine = fine_levels(weight.codes.device).index_select(0, weight.scale_codes[blocks].int())
    groups = weight.group_scales[blocks.start // GROUP : -(-blocks.stop // GROUP)].repeat_interleave(GROUP)
    before = blocks.start % GROUP
    return fine.mul_(groups[before : before + len(fine)]).add_(weight.mean_scale)


def quantize(weight: Tensor, levels: Levels = "nf4") -> FourBit:
    """A weight `(d_out, d_in)` in the nearest levels; beside the codes it takes a few megabytes."""
    d_out, d_in = weight.shape
    numbers, device = weight.detach().reshape(-1), weight.device
    num_blocks = -(-numbers.numel() // BLOCK)
    codes = torch.empty(num_blocks, BLOCK // 2, dtype=torch.uint8, device=device)
    scales = torch.empty(num_blocks, dtype=torch.float32, device=device)
    for first in range(0, num_blocks, QUANTIZED_AT_ONCE // BLOCK):
        chunk = numbers[first * BLOCK : first * BLOCK + QUANTIZED_AT_ONCE].float()
        blocks = _in_rows(chunk, BLOCK)
        here = slice(first, first + len(blocks))
        scaled, scales[here] = _scaled(blocks)
        found = _nearest_level(scaled, levels)
        codes[here] = found[:, ::2] * 16 + found[:, 1::2]
    mean = scales.mean()
    scaled, group_scales = _scaled(_in_rows(scales - mean, GROUP))
    scale_codes = torch.bucketize(scaled, _middles(fine_levels(device)), out_int32=True)
    scale_codes = scale_codes.view(-1)[:num_blocks].to(torch.uint8)
    return FourBit(codes.view(-1), scale_codes, group_scales, mean, (d_out, d_in), levels)


def _scaled(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """`blocks` (blocks, size) so that the largest number of each is one, and what that took, `(blocks,)`."""
    scales = blocks.abs().amax(1)
    return blocks * (1 / scales.clamp_min(1e-38))[:, None], scales  # not a quotient: the reference rounds like this


def _nearest_level(scaled: Tensor, levels: Levels) -> Tensor:
    """Which level each number is nearest to, uint8 of the same shape; ten times as fast as a search."""
    codes, middles = _cells(levels, scaled.device)
    cells = scaled.view(-1).add(1).mul_(_CELLS / 2).int().clamp_(0, _CELLS - 1)
    above = scaled.view(-1) > middles.index_select(0, cells)
    return codes.index_select(0, cells).add_(above).view(scaled.shape)


@functools.cache
def _cells(levels: Levels, device: torch.device) -> tuple[Tensor, Tensor]:
    """For every cell of [-1, 1] the change of level that is nearest to it: the code below it (cells,), its place (cells,)."""
    middles = _middles(torch.tensor(_LEVELS[levels]))
    centres = (torch.arange(_CELLS) + 0.5) * (2 / _CELLS) - 1
    codes = (centres[:, None] - middles).abs().argmin(1)
    return codes.to(torch.uint8).to(device), middles[codes].to(device)


def _in_rows(numbers: Tensor, size: int) -> Tensor:
    """`(numbers,)` as `(rows, size)`, the last row filled up with zeros."""
    missing = -numbers.numel() % size
    return (torch.nn.functional.pad(numbers, (0, missing)) if missing else numbers).view(-1, size)


def _middles(levels: Tensor) -> Tensor:
    """Where the nearest of sorted levels changes, one number fewer than there are levels."""
    return (levels[:-1] + levels[1:]) / 2


@functools.cache
def _pairs(levels: Levels, device: torch.device) -> Tensor:
    """Both levels of every byte as the eight bytes that they take, `(256,)`."""
    level = level_values(levels, torch.device("cpu"))
    return torch.stack([level.repeat_interleave(16), level.repeat(16)], 1).view(torch.int64).view(-1).to(device)


@functools.cache
def level_values(levels: Levels, device: torch.device) -> Tensor:
    """The 16 levels, `(16,)` float32."""
    return torch.tensor(_LEVELS[levels], dtype=torch.float32, device=device)


@functools.cache
def fine_levels(device: torch.device) -> Tensor:
    """The 256 levels of scales, sorted: seven decades to either side of zero, each with twice the steps of the one before."""
    positive = [torch.tensor([1.0])]
    for exponent in range(7):
        edges = torch.linspace(0.1, 1, 2**exponent + 1)
        positive.append((edges[:-1] + edges[1:]) / 2 * math.pow(10, exponent - 6))
    both = torch.cat([*positive, torch.zeros(1), *(-part for part in positive[1:])])
    return both.sort().values.to(device)
