"""Rotary position embedding: both halves of all heads of one token at once; cos and sin are read once a token.

A program takes one token of one stream, as a tile (HEADS, HALF) of each half, both rounded up to powers of two. Tensors
are read where they lie, by their strides; one that is broadcast has a stride of 0.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _turn(
    x, cos, sin, y, heads, half,
    x_stream, x_head, x_token, cos_stream, cos_head, cos_token, sin_stream, sin_head, sin_token, y_stream, y_head, y_token,
    HEADS: tl.constexpr, HALF: tl.constexpr, BY_HEAD: tl.constexpr, BACKWARD: tl.constexpr,
):  # fmt: skip
    token, stream = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    rows, columns = tl.arange(0, HEADS)[:, None], tl.arange(0, HALF)[None, :]
    inside = (rows < heads) & (columns < half)
    x += stream * x_stream + token * x_token + rows * x_head + columns
    y += stream * y_stream + token * y_token + rows * y_head + columns
    cos += stream * cos_stream + token * cos_token + columns
    sin += stream * sin_stream + token * sin_token + columns
    known = columns < half
    if BY_HEAD:
        cos, sin, known = cos + rows * cos_head, sin + rows * sin_head, inside
    a, b = tl.load(x, inside, 0.0).to(tl.float32), tl.load(x + half, inside, 0.0).to(tl.float32)
    cos_1, cos_2 = tl.load(cos, known, 0.0).to(tl.float32), tl.load(cos + half, known, 0.0).to(tl.float32)
    sin_1, sin_2 = tl.load(sin, known, 0.0).to(tl.float32), tl.load(sin + half, known, 0.0).to(tl.float32)
    if BACKWARD:
        first, second = a * cos_1 + b * sin_2, b * cos_2 - a * sin_1
    else:
        first, second = a * cos_1 - b * sin_1, b * cos_2 + a * sin_2
    tl.store(y, first.to(y.dtype.element_ty), inside)
    tl.store(y + half, second.to(y.dtype.element_ty), inside)


def turn(x: Tensor, cos: Tensor, sin: Tensor, *, backward: bool) -> Tensor:
    """See `tunesmith.kernels.rotary.turn`; at most four axes."""
    x = x if x.stride(-1) == 1 else x.contiguous()
    y = torch.empty_like(x)
    tensors = [_with_four_axes(t) for t in (x, cos.expand(x.shape), sin.expand(x.shape), y)]
    streams, heads, tokens, width = tensors[0].shape
    assert all(t.stride(-1) == 1 for t in tensors), "the numbers of a head lie beside each other"
    strides = [stride for t in tensors for stride in t.stride()[:-1]]
    form = {"HEADS": triton.next_power_of_2(heads), "HALF": triton.next_power_of_2(width // 2)}
    form["num_warps"] = 4 if form["HEADS"] * form["HALF"] <= 1024 else 8
    by_head = heads > 1 and any(t.stride(1) for t in tensors[1:3])
    _turn[(tokens, streams)](*tensors, heads, width // 2, *strides, BY_HEAD=by_head, BACKWARD=backward, **form)
    return y


def _with_four_axes(t: Tensor) -> Tensor:
    """`(streams, heads, tokens, width)`, whichever of them were left out."""
    return t[(None,) * (4 - t.ndim)]
