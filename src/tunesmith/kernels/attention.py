"""Attention inside the segments of a packed stream: cost sum(length^2), no mask over the stream, no padding outside.

For each segment      out = softmax(cap(s q kT) + window) v      q: (tokens, heads, width), k, v: (tokens, kv heads, width)

Short segments are gathered into rectangles of similar length and take batched products with a hand-written
backward that keeps the probabilities; long ones take torch's flash attention, which keeps none.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import scaled_dot_product_attention

from tunesmith.kernels.segments import LONG_SEGMENT, Block, Segments


@dataclass(frozen=True)
class Rule:
    """Who may look at whom, and how scores become weights."""

    causal: bool
    scale: float
    window: int | None = None
    """A token sees those less than `window` positions away."""
    softcap: float | None = None
    """scores = softcap * tanh(scores / softcap)"""
    dropout: float = 0.0


def plain(q: Tensor, k: Tensor, v: Tensor, lengths: list[int], rule: Rule) -> Tensor:
    """The obvious computation, one segment after the other, which `segment_attention` must equal."""
    group = q.shape[1] // k.shape[1]
    parts = []
    for qs, ks, vs in zip(q.split(lengths), k.split(lengths), v.split(lengths), strict=True):
        keys, values = (t.repeat_interleave(group, 1).transpose(0, 1) for t in (ks, vs))
        scores = (qs.transpose(0, 1) @ keys.transpose(1, 2)).float() * rule.scale
        if rule.softcap:
            scores = rule.softcap * torch.tanh(scores / rule.softcap)
        scores = scores.masked_fill(~_visible(len(qs), rule, q.device), -torch.inf)
        parts.append((scores.softmax(-1).to(v.dtype) @ values).transpose(0, 1))
    return torch.cat(parts)


def segment_attention(q: Tensor, k: Tensor, v: Tensor, segments: Segments, rule: Rule) -> Tensor:
    """Attend within segments; returns `(tokens, heads, width of v)`."""
    if len(segments.lengths) == 1:
        return _rectangle(q[None], k[None], v[None], None, rule)[0]
    parts = []
    for block in segments.blocks:
        rectangles = [_take_rows(t, block) for t in (q, k, v)]
        parts.append((_rectangle(*rectangles, block.inside, rule), block))
    return _PutRows.apply(q.shape[0], [block for _, block in parts], *[part for part, _ in parts])  # pyright: ignore[reportReturnType]


def _rectangle(q: Tensor, k: Tensor, v: Tensor, inside: Tensor | None, rule: Rule) -> Tensor:
    """Attention over `(segments, length, heads, width)`; rows may end early where `inside` is False."""
    length = q.shape[1]
    windowed = rule.window is not None and rule.window < length
    if length > LONG_SEGMENT and not rule.softcap and inside is None:
        mask = _visible(length, rule, q.device) if windowed else None
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        out = scaled_dot_product_attention(
            q, k, v, mask, rule.dropout, rule.causal and mask is None, scale=rule.scale, enable_gqa=q.shape[1] != k.shape[1]
        )
        return out.transpose(1, 2)
    mask = _visible(length, rule, q.device) if rule.causal or windowed else None
    if inside is not None:
        mask = inside[:, None, :] if mask is None else inside[:, None, :] & mask
    if rule.softcap or rule.dropout:
        return _scored(q, k, v, mask, rule)
    return _Products.apply(q, k, v, mask, rule.scale)  # pyright: ignore[reportReturnType]


def _visible(length: int, rule: Rule, device: torch.device) -> Tensor:
    """(length, length) True where the row's token may look at the column's."""
    steps = torch.arange(length, device=device)
    distance = steps[:, None] - steps
    visible = distance >= 0 if rule.causal else torch.ones_like(distance, dtype=torch.bool)
    return visible if rule.window is None else visible & (distance.abs() < rule.window)


def _scored(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, rule: Rule) -> Tensor:
    """The general form with soft cap and dropout, through autograd."""
    group = q.shape[2] // k.shape[2]
    k, v = (t.repeat_interleave(group, 2).transpose(1, 2) for t in (k, v))
    scores = (q.transpose(1, 2) @ k.transpose(2, 3)).float() * rule.scale
    if rule.softcap:
        scores = rule.softcap * torch.tanh(scores / rule.softcap)
    if mask is not None:
        scores = scores.masked_fill(~(mask if mask.ndim == 2 else mask[:, None]), -torch.inf)
    weights = torch.nn.functional.dropout(scores.softmax(-1), rule.dropout).to(v.dtype)
    return (weights @ v).transpose(1, 2)


def _fold(t: Tensor, heads: int) -> Tensor:
    """`(segments, length, kv heads * group, width)` -> `(segments * kv heads, group * length, width)`."""
    segments, length, _, width = t.shape
    return t.view(segments, length, heads, -1, width).permute(0, 2, 3, 1, 4).reshape(segments * heads, -1, width)


def _unfold(t: Tensor, segments: int, length: int, heads: int) -> Tensor:
    """The way back of `_fold`."""
    return t.view(segments, heads, -1, length, t.shape[-1]).permute(0, 3, 1, 2, 4).reshape(segments, length, -1, t.shape[-1])


class _Products(torch.autograd.Function):
    """softmax(s q kT) v by batched products; query heads that share a key head are rows of one product."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> Tensor:
        segments, length, heads = q.shape[0], q.shape[1], k.shape[2]
        q, k, v = _fold(q, heads), _fold(k, heads), _fold(v, heads)
        scores = torch.bmm(q, k.transpose(1, 2)).view(segments, heads, -1, length, length).float().mul_(scale)
        if mask is not None:
            blocked = ~(mask if mask.ndim == 2 else mask[:, None, None])
            scores.masked_fill_(blocked, -torch.inf)
        weights = torch.softmax(scores, -1).to(v.dtype).view(segments * heads, -1, length)
        ctx.save_for_backward(q, k, v, weights)
        ctx.sizes = segments, length, heads, scale
        return _unfold(torch.bmm(weights, v), segments, length, heads)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        q, k, v, weights = ctx.saved_tensors
        segments, length, heads, scale = ctx.sizes
        dy = _fold(dy.contiguous(), heads)
        dv = torch.bmm(weights.transpose(1, 2), dy)
        dweights = torch.bmm(dy, v.transpose(1, 2)).float()
        dscores = torch._softmax_backward_data(dweights, weights.float(), -1, torch.float32).mul_(scale).to(q.dtype)
        dq, dk = torch.bmm(dscores, k), torch.bmm(dscores.transpose(1, 2), q)
        return *(_unfold(t, segments, length, heads) for t in (dq, dk, dv)), None, None


def _take_rows(stream: Tensor, block: Block) -> Tensor:
    """`(tokens, heads, width)` -> `(segments, length, heads, width)`."""
    return _TakeRows.apply(stream, block)  # pyright: ignore[reportReturnType]


class _TakeRows(torch.autograd.Function):
    """Gather a block's rows; every token is in one place of one block, so the way back only copies."""

    @staticmethod
    def forward(ctx: Any, stream: Tensor, block: Block) -> Tensor:
        ctx.block, ctx.shape = block, stream.shape
        return stream.index_select(0, block.rows.view(-1)).view(*block.rows.shape, *stream.shape[1:])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return _scatter(dy.new_zeros(ctx.shape), dy, ctx.block), None


class _PutRows(torch.autograd.Function):
    """Lay the blocks' rows back into one stream."""

    @staticmethod
    def forward(ctx: Any, num_tokens: int, blocks: list[Block], *rectangles: Tensor) -> Tensor:
        ctx.blocks = blocks
        stream = rectangles[0].new_empty(num_tokens, *rectangles[0].shape[2:])
        for block, rectangle in zip(blocks, rectangles, strict=True):
            _scatter(stream, rectangle, block)
        return stream

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return None, None, *(_gather(dy, block) for block in ctx.blocks)


def _scatter(stream: Tensor, rectangle: Tensor, block: Block) -> Tensor:
    rows = rectangle.flatten(0, 1) if block.inside is None else rectangle[block.inside]
    return stream.index_copy_(0, block.tokens, rows)


def _gather(stream: Tensor, block: Block) -> Tensor:
    rectangle = stream.index_select(0, block.rows.view(-1)).view(*block.rows.shape, *stream.shape[1:])
    return rectangle if block.inside is None else rectangle.masked_fill_(~block.inside[:, :, None, None], 0)
