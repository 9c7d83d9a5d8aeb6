"""Weights in four bits to numbers in one pass: codes, scales and scales of scales are looked up on the way."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor

from tunesmith.kernels import four_bit

if TYPE_CHECKING:
    from tunesmith.kernels.four_bit import FourBit

_BYTES = 512  # of codes that one program takes: 1024 numbers


@triton.jit
def _dequantize(
    codes, scale_codes, group_scales, mean_scale, levels, fine_levels, y, first_block, num_bytes,
    BLOCK: tl.constexpr, GROUP: tl.constexpr, BYTES: tl.constexpr,
):  # fmt: skip
    places = tl.program_id(0).to(tl.int64) * BYTES + tl.arange(0, BYTES)
    inside = places < num_bytes
    pair = tl.load(codes + places, inside, 0).to(tl.int32)
    block = first_block + places // (BLOCK // 2)
    fine = tl.load(fine_levels + tl.load(scale_codes + block, inside, 0).to(tl.int32))
    scale = fine * tl.load(group_scales + block // GROUP, inside, 0.0) + tl.load(mean_scale)
    numbers = tl.interleave(tl.load(levels + (pair >> 4)) * scale, tl.load(levels + (pair & 15)) * scale)
    outputs = tl.program_id(0).to(tl.int64) * (2 * BYTES) + tl.arange(0, 2 * BYTES)
    tl.store(y + outputs, numbers.to(y.dtype.element_ty), outputs < 2 * num_bytes)


def numbers(codes: Tensor, weight: FourBit, blocks: slice, dtype: torch.dtype) -> Tensor:
    """See `tunesmith.kernels.four_bit.numbers`; products and sums are rounded one by one, so that both give the same."""
    y = torch.empty(2 * len(codes), dtype=dtype, device=codes.device)
    _dequantize[(triton.cdiv(len(codes), _BYTES),)](
        *(codes, weight.scale_codes, weight.group_scales, weight.mean_scale),
        *(four_bit.level_values(weight.levels, codes.device), four_bit.fine_levels(codes.device)),
        *(y, blocks.start, len(codes)),
        BLOCK=four_bit.BLOCK,
        GROUP=four_bit.GROUP,
        BYTES=_BYTES,
        enable_fp_fusion=False,
    )
    return y
