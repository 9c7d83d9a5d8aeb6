"""The small products of low-rank changes, for all layers that read one input in one call, in 16 bits with sums in float32."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from tunesmith.kernels.by_device import FUNCTIONS
from tunesmith.kernels.cpu import compiled
from tunesmith.kernels.lora_linear import Change, Kept

MOST_RANKS = 128  # of all layers together; more have not been timed beside torch's products
MOST_LAYERS = 8  # as in lora_linear.c
ROWS, PANEL = 8, 32  # as in pairs.h


def write_changes(x: Tensor, outputs: Sequence[Tensor], changes: Sequence[Change], biases: Sequence[Tensor | None]) -> Kept:
    """See `tunesmith.kernels.lora_linear.write_changes`."""
    if not _takes(x, outputs, changes):
        return FUNCTIONS["lora_linear.write_changes"](x, outputs, changes, biases)  # pyright: ignore[reportReturnType]
    narrow = [None if bias is None else bias.to(x.dtype).contiguous() for bias in biases]
    kept = Kept(x.new_empty(len(x), _num_ranks(changes)), x.new_empty(_num_ranks(changes), x.shape[1]))
    compiled.call(
        "low_rank_forward", x.dtype, x, _sizes(x, outputs, changes), _addresses(c.a for c in changes),
        _addresses(c.b for c in changes), _scales(changes), _addresses(narrow), kept.a, kept.projected, _addresses(outputs),
        *_workplaces(x, outputs, changes),
    )  # fmt: skip
    return kept


def change_gradients(
    x: Tensor, doutputs: Sequence[Tensor], kept: Kept, changes: Sequence[Change], dx: Tensor | None
) -> list[Tensor]:
    """See `tunesmith.kernels.lora_linear.change_gradients`."""
    doutputs = [dy.contiguous() for dy in doutputs]
    if not (_takes(x, doutputs, changes) and (dx is None or dx.is_contiguous())):
        return FUNCTIONS["lora_linear.change_gradients"](x, doutputs, kept, changes, dx)  # pyright: ignore[reportReturnType]
    num_ranks = _num_ranks(changes)
    da = x.new_empty(num_ranks, x.shape[1], dtype=torch.float32)
    dbs = [torch.empty_like(change.b) for change in changes]
    paired = _words((len(x) + 1) // 2 * (compiled.up_to(ROWS, num_ranks) + ROWS))
    panels, rounded = _workplaces(x, doutputs, changes)
    compiled.call(
        "low_rank_gradients", x.dtype, x, _sizes(x, doutputs, changes), _addresses(doutputs), kept.a, kept.projected,
        _addresses(c.b for c in changes), _scales(changes), dx, da, _addresses(dbs), torch.empty_like(kept.projected),
        panels, paired, rounded,
    )  # fmt: skip
    return [*da.split([len(change.a) for change in changes]), *dbs]


def _takes(x: Tensor, outputs: Sequence[Tensor], changes: Sequence[Change]) -> bool:
    """Whether all is of the form that the code knows, and the code is faster than torch here."""
    if x.dtype != torch.bfloat16 or len(x) < ROWS or len(changes) > MOST_LAYERS or not compiled.pairs_are_fast():
        return False
    ranks = [len(change.a) for change in changes]
    if not 0 < sum(ranks) <= MOST_RANKS or any(n % 2 for n in (*ranks, x.shape[1], *(y.shape[1] for y in outputs))):
        return False
    factors = [factor for change in changes for factor in (change.a, change.b)]
    if not all(factor.dtype == torch.float32 and factor.is_contiguous() for factor in factors):
        return False
    return all(t.dtype == x.dtype and t.stride(1) == 1 and t.stride(0) % 2 == 0 for t in (x, *outputs))


def _sizes(x: Tensor, outputs: Sequence[Tensor], changes: Sequence[Change]) -> list[int]:
    """As `sizes` of lora_linear.c."""
    layers = [n for y, change in zip(outputs, changes, strict=True) for n in (len(change.a), y.shape[1], y.stride(0))]
    return [len(x), x.shape[1], x.stride(0), _num_ranks(changes), len(changes), *layers]


def _workplaces(x: Tensor, outputs: Sequence[Tensor], changes: Sequence[Change]) -> tuple[Tensor, Tensor]:
    """Where the code puts factors in order, and a panel of tokens for each thread; and a factor in 16 bits."""
    rank, num_ranks = max(len(change.a) for change in changes), _num_ranks(changes)
    widest = max(compiled.up_to(PANEL, x.shape[1]), *(compiled.up_to(PANEL, y.shape[1]) for y in outputs))
    by_thread = torch.get_num_threads() * PANEL * ((len(x) + 1) // 2)
    panels = _words(max(widest * compiled.up_to(PANEL, num_ranks) // 2, by_thread))
    return panels, x.new_empty(widest * rank)


def _words(count: int) -> Tensor:
    return torch.empty(count, dtype=torch.int32)


def _num_ranks(changes: Sequence[Change]) -> int:
    return sum(len(change.a) for change in changes)


def _scales(changes: Sequence[Change]) -> list[float]:
    return [float(change.scale) for change in changes]


def _addresses(tensors: Iterable[Tensor | None]) -> list[int]:
    return [0 if t is None else t.data_ptr() for t in tensors]
