"""The numbers of a weight in four bits, by one look-up for sixteen of them."""

import torch
from torch import Tensor

from tunesmith.kernels import four_bit
from tunesmith.kernels.cpu.compiled import call
from tunesmith.kernels.four_bit import FourBit


def numbers(codes: Tensor, weight: FourBit, blocks: slice, dtype: torch.dtype) -> Tensor:
    """See `tunesmith.kernels.four_bit.numbers`."""
    num_blocks = len(codes) * 2 // four_bit.BLOCK
    y = torch.empty(num_blocks * four_bit.BLOCK, dtype=dtype)
    levels = four_bit.level_values(weight.levels, codes.device), four_bit.fine_levels(codes.device)
    scales = (weight.scale_codes, weight.group_scales, weight.mean_scale)
    call("four_bit_numbers", dtype, codes, *levels, *scales, y, blocks.start, num_blocks)
    return y
