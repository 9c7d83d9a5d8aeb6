"""Products of few rows with a weight in eight bits, as when a model writes: the time is that of reading the weight once."""

from __future__ import annotations

from torch import Tensor

from tunesmith.kernels.by_device import FUNCTIONS
from tunesmith.kernels.cpu.compiled import call

MOST_ROWS = 16
"""With more, products with a weight that is made numbers first are faster."""
STEP, SIDE = 32, 4  # as in eight_bit.c


def add_product(y: Tensor, x: Tensor, codes: Tensor, scales: Tensor) -> None:
    """See `tunesmith.kernels.eight_bit.add_product`."""
    d_out, d_in = codes.shape
    fits = d_in % STEP == 0 and d_out % SIDE == 0 and y.stride(1) == 1 and codes.is_contiguous() and scales.is_contiguous()
    if len(x) > MOST_ROWS or not fits or x.dtype != y.dtype:
        FUNCTIONS["eight_bit.add_product"](y, x, codes, scales)
        return
    call("add_few_rows", y.dtype, y, y.stride(0), x.contiguous(), codes, scales, len(x), d_in, d_out)
