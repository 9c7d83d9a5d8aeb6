"""Root-mean-square norm: one pass over a row forward, one backward; the weight's gradient is summed in a fixed order.

A program takes a tile of whole rows, (ROWS, WIDTH), WIDTH being `hidden` rounded up to a power of two.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

_TILE = 2048  # numbers, unless a row is longer
_NUM_STRETCHES = 512  # of rows, each of which sums its part of the weight's gradient


@triton.jit
def _forward(x, weight, y, inverse, num_rows, hidden, epsilon, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, WIDTH)
    places = rows.to(tl.int64)[:, None] * hidden + columns[None, :]
    inside = (rows < num_rows)[:, None] & (columns < hidden)[None, :]
    wide = tl.load(x + places, inside, 0.0).to(tl.float32)
    factor = tl.rsqrt(tl.sum(wide * wide, 1) / hidden + epsilon)
    unit = (wide * factor[:, None]).to(y.dtype.element_ty).to(tl.float32)
    scale = tl.load(weight + columns, columns < hidden, 0.0).to(tl.float32)
    tl.store(y + places, (unit * scale[None, :]).to(y.dtype.element_ty), inside)
    tl.store(inverse + rows, factor, rows < num_rows)


@triton.jit
def _backward(
    dy, x, weight, inverse, dx, dweight, num_rows, hidden, num_tiles,
    ROWS: tl.constexpr, WIDTH: tl.constexpr, FOR_WEIGHT: tl.constexpr,
):  # fmt: skip
    columns = tl.arange(0, WIDTH)
    scale = tl.load(weight + columns, columns < hidden, 0.0).to(tl.float32)
    total = tl.zeros([WIDTH], tl.float32)
    for tile in range(num_tiles):
        rows = (tl.program_id(0) * num_tiles + tile) * ROWS + tl.arange(0, ROWS)
        places = rows.to(tl.int64)[:, None] * hidden + columns[None, :]
        inside = (rows < num_rows)[:, None] & (columns < hidden)[None, :]
        factor = tl.load(inverse + rows, rows < num_rows, 0.0)[:, None]
        unit = tl.load(x + places, inside, 0.0).to(tl.float32) * factor
        slope = tl.load(dy + places, inside, 0.0).to(tl.float32)
        if FOR_WEIGHT:
            total += tl.sum(slope * unit, 0)
        slope = slope * scale[None, :]
        share = tl.sum(slope * unit, 1) / hidden
        tl.store(dx + places, ((slope - unit * share[:, None]) * factor).to(dx.dtype.element_ty), inside)
    if FOR_WEIGHT:
        tl.store(dweight + tl.program_id(0).to(tl.int64) * hidden + columns, total, columns < hidden)


def forward(x: Tensor, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """See `tunesmith.kernels.rms_norm.forward`; here the second result is float32."""
    x = x.contiguous()
    y, hidden = torch.empty_like(x), x.shape[-1]
    num_rows = x.numel() // hidden
    inverse = torch.empty(num_rows, dtype=torch.float32, device=x.device)
    form = _form(hidden)
    grid = (triton.cdiv(num_rows, form["ROWS"]),)
    _forward[grid](x, weight, y, inverse, num_rows, hidden, epsilon, **form)
    return y, inverse


def gradients(dy: Tensor, x: Tensor, weight: Tensor, inverse: Tensor, *, for_weight: bool) -> tuple[Tensor, Tensor | None]:
    """See `tunesmith.kernels.rms_norm.gradients`."""
    dy, x = dy.contiguous(), x.contiguous()
    dx, hidden, form = torch.empty_like(x), x.shape[-1], _form(x.shape[-1])
    num_rows = x.numel() // hidden
    num_tiles = triton.cdiv(num_rows, form["ROWS"])
    tiles_each = triton.cdiv(num_tiles, _NUM_STRETCHES) if for_weight else 1
    num_programs = triton.cdiv(num_tiles, tiles_each)
    parts = torch.empty(num_programs if for_weight else 1, hidden, dtype=torch.float32, device=x.device)
    _backward[(num_programs,)](
        *(dy, x, weight, inverse, dx, parts, num_rows, hidden, tiles_each), FOR_WEIGHT=for_weight, **form
    )
    return dx, parts.sum(0).to(weight.dtype) if for_weight else None


def _form(hidden: int) -> dict[str, int]:
    width = triton.next_power_of_2(hidden)
    return {"ROWS": max(1, _TILE // width), "WIDTH": width, "num_warps": 4 if width <= _TILE else 8 if width <= 8192 else 16}
