"""The small products of low-rank changes, for all layers that read one input in one call, in 16 bits with sums in float32."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from tunesmith.kernels import pool
from tunesmith.kernels.by_device import FUNCTIONS
from tunesmith.kernels.cpu import compiled
from tunesmith.kernels.lora_linear import Change, Kept

MOST_RANKS = 128  # of all layers together; more have not been timed beside torch's products
MOST_LAYERS = 8  # as in lora_linear.c
ROWS, LANES, PANEL = 8, 16, 32  # as in pairs.h


def write_changes(x: Tensor, outputs: Sequence[Tensor], changes: Sequence[Change], biases: Sequence[Tensor | None]) -> Kept:
    """See `tunesmith.kernels.lora_linear.write_changes`."""
    sizes = _sizes(x, outputs, changes)
    if sizes is None:
        return FUNCTIONS["lora_linear.write_changes"](x, outputs, changes, biases)  # pyright: ignore[reportReturnType]
    tokens, d_in, _, num_ranks, *_ = sizes
    narrow = [None if bias is None else bias.to(x.dtype).contiguous() for bias in biases]
    kept = Kept(pool.new_empty(x, tokens, num_ranks), pool.new_empty(x, num_ranks, d_in))
    compiled.call(
        "low_rank_forward", x.dtype, x, sizes, _addresses(c.a for c in changes), _addresses(c.b for c in changes),
        _scales(changes), _addresses(narrow), kept.a, kept.projected, _addresses(outputs), *_workplaces(sizes),
    )  # fmt: skip
    return kept


def change_gradients(
    x: Tensor, doutputs: Sequence[Tensor], kept: Kept, changes: Sequence[Change], dx: Tensor | None
) -> list[Tensor]:
    """See `tunesmith.kernels.lora_linear.change_gradients`."""
    doutputs = [dy.contiguous() for dy in doutputs]
    sizes = _sizes(x, doutputs, changes)
    if sizes is None or not (dx is None or dx.is_contiguous()):
        return FUNCTIONS["lora_linear.change_gradients"](x, doutputs, kept, changes, dx)  # pyright: ignore[reportReturnType]
    tokens, d_in, _, num_ranks, *_ = sizes
    da = torch.empty(num_ranks, d_in)
    dbs = [torch.empty_like(change.b) for change in changes]
    paired = _words((tokens + 1) // 2 * compiled.up_to(LANES, num_ranks + ROWS))
    panels, rounded = _workplaces(sizes)
    compiled.call(
        "low_rank_gradients", x.dtype, x, sizes, _addresses(doutputs), kept.a, kept.projected, _addresses(c.b for c in changes),
        _scales(changes), dx, da, _addresses(dbs), pool.empty_like(kept.projected), panels, paired, rounded,
    )  # fmt: skip
    return [*da.split(_ranks(sizes)), *dbs]


def _sizes(x: Tensor, outputs: Sequence[Tensor], changes: Sequence[Change]) -> list[int] | None:
    """As `sizes` of lora_linear.c; None if not all is of the form that the code knows, or torch is faster here."""
    (tokens, d_in), (x_row, x_step) = x.shape, x.stride()
    if x.dtype != torch.bfloat16 or tokens < ROWS or len(changes) > MOST_LAYERS or not compiled.pairs_are_fast():
        return None
    is_known = x_step == 1 and not (x_row | d_in) & 1
    layers: list[int] = []
    for y, (a, b, _) in zip(outputs, changes, strict=True):
        (d_out, rank), (y_row, y_step) = b.shape, y.stride()
        is_known &= y_step == 1 and not (y_row | d_out | rank) & 1 and y.dtype == x.dtype
        is_known &= a.dtype == b.dtype == torch.float32 and a.is_contiguous() and b.is_contiguous()
        layers += (rank, d_out, y_row)
    num_ranks = sum(layers[::3])
    return [tokens, d_in, x_row, num_ranks, len(changes), *layers] if is_known and 0 < num_ranks <= MOST_RANKS else None


def _ranks(sizes: list[int]) -> list[int]:
    return sizes[5::3]


def _workplaces(sizes: list[int]) -> tuple[Tensor, Tensor]:
    """Where the code puts factors in order, and a panel of tokens for each thread; and a factor in 16 bits."""
    tokens, d_in, _, num_ranks, *_ = sizes
    widest = compiled.up_to(PANEL, max(d_in, *sizes[6::3]))
    by_thread = torch.get_num_threads() * PANEL * ((tokens + 1) // 2)
    panels = _words(max(widest * compiled.up_to(PANEL, num_ranks) // 2, by_thread))
    return panels, torch.empty(widest * max(_ranks(sizes)), dtype=torch.bfloat16)


def _words(count: int) -> Tensor:
    return torch.empty(count, dtype=torch.int32)


def _scales(changes: Sequence[Change]) -> list[float]:
    return [float(change.scale) for change in changes]


def _addresses(tensors: Iterable[Tensor | None]) -> list[int]:
    return [0 if t is None else t.data_ptr() for t in tensors]
