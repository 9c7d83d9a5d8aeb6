"""Products of whole numbers of eight bits, four at a time, on processors that have an instruction for it."""

from __future__ import annotations

import torch
from torch import Tensor

from tunesmith.kernels import pool
from tunesmith.kernels.by_device import FUNCTIONS
from tunesmith.kernels.cpu.compiled import call, up_to
from tunesmith.kernels.rounded import GROUP, Rounded

ROWS, PANEL = 8, 32  # as in rounded.c


def rows(x: Tensor, factors: Tensor | None) -> Rounded:
    """See `tunesmith.kernels.rounded.rows`."""
    num_rows, width = x.shape
    if width % GROUP or not (factors is None or _are_plain(factors)):
        return FUNCTIONS["rounded.rows"](x, factors)  # pyright: ignore[reportReturnType]
    x = x if x.stride(1) == 1 else x.contiguous()
    room = up_to(ROWS, num_rows)  # the last ones are multiplied, and what comes of it is left
    codes, scales = pool.new_empty(x, room, width, dtype=torch.uint8), torch.empty(room, width // GROUP)
    call("rounded_rows", x.dtype, codes, scales, x, x.stride(0), factors, num_rows, width)
    return Rounded(codes[:num_rows], scales[:num_rows])


def add_product(y: Tensor, x: Rounded, codes: Tensor, scales: Tensor) -> None:
    """See `tunesmith.kernels.rounded.add_product`."""
    d_out, d_in = codes.shape
    if not (_takes(y, x, codes) and _are_plain(scales)):
        FUNCTIONS["rounded.add_product"](y, x, codes, scales)
        return
    call("add_rounded_product", y.dtype, y, y.stride(0), *x, codes, scales, len(y), d_in, d_out, *_workplaces(d_in))


def add_transposed_product(y: Tensor, x: Rounded, codes: Tensor) -> None:
    """See `tunesmith.kernels.rounded.add_transposed_product`."""
    width, columns = codes.shape
    if not _takes(y, x, codes):
        FUNCTIONS["rounded.add_transposed_product"](y, x, codes)
        return
    call("add_rounded_transposed_product", y.dtype, y, y.stride(0), *x, codes, len(y), width, columns, *_workplaces(width))


def _takes(y: Tensor, x: Rounded, codes: Tensor) -> bool:
    """Whether all is of the form that the code knows, room behind the last row of x included."""
    if any(n % GROUP for n in codes.shape) or y.stride(1) != 1 or not codes.is_contiguous():
        return False
    room = x.codes.untyped_storage().nbytes() - x.codes.storage_offset()
    return room >= up_to(ROWS, len(y)) * x.codes.shape[1]


def _are_plain(scales: Tensor) -> bool:
    """Whether they lie as the code reads them."""
    return scales.dtype == torch.float32 and scales.is_contiguous()


def _workplaces(width: int) -> tuple[Tensor, Tensor]:
    """For each thread a panel of the weight, and what the sums of its groups begin with."""
    threads = torch.get_num_threads()
    return torch.empty(threads, width * PANEL, dtype=torch.int8), torch.empty(
        threads, width // GROUP * PANEL, dtype=torch.int32
    )
