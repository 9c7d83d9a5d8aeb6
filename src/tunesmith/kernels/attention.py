"""Attention inside the segments of a packed stream: cost sum(length^2), no padding, no mask over the stream, no copies.

For each segment      out = softmax(cap(s q kT) + mask) v      q: (tokens, heads, width), k, v: (tokens, kv heads, width)

Tokens that all segments see first (`Segments.num_shared`) have their keys and values once, at the head of k and v.

One autograd node serves the whole stream. Segments are cut into blocks of queries; a block takes batched products over the
heads, straight on the stream's memory, with those keys only that its queries may see. A segment of one block keeps its
probabilities, others make them again in the backward pass. The longest take torch's flash attention. Compiled code takes the
shortest or, where a processor multiplies pairs of 16-bit numbers, all of up to 512 tokens (`cpu.part_attention`). All this is
for a processor; a GPU has a kernel for the whole stream (`varlen`).
"""

import itertools
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tunesmith.kernels import flash, pool, varlen
from tunesmith.kernels.by_device import by_device
from tunesmith.kernels.cpu import part_attention
from tunesmith.kernels.seen import Seen, SeenGradients
from tunesmith.kernels.segments import Part, Segments

BLOCK = 128  # queries at most
LONG_SEGMENT = 1024  # tokens; from here on torch's flash attention beats batched products on the CPU


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


def segment_attention(q: Tensor, k: Tensor, v: Tensor, segments: Segments, rule: Rule) -> Tensor:
    """Attend within segments and to what they share; returns `(queries, heads, width of v)`."""
    if varlen.takes(q, v, segments, rule):
        return varlen.attend(q, k, v, segments, rule)
    if rule.softcap or rule.dropout or q.device.type != "cpu":
        return plain(q, k, v, segments, rule)
    return _SegmentAttention.apply(q, k, v, segments, rule)  # pyright: ignore[reportReturnType]


def plain(q: Tensor, k: Tensor, v: Tensor, segments: Segments, rule: Rule) -> Tensor:
    """The obvious computation, one segment after the other; the general form, with soft cap and dropout."""
    group = q.shape[1] // k.shape[1]
    parts = []
    for part in segments.parts():
        seen = (Seen(t, segments).by(part) for t in (k, v))
        keys, values = (t.repeat_interleave(group, 1).transpose(0, 1) for t in seen)
        rows = q[part.queries]
        scores = (rows.transpose(0, 1) @ keys.transpose(1, 2)).float() * rule.scale
        if rule.softcap:
            scores = rule.softcap * torch.tanh(scores / rule.softcap)
        mask = _mask(len(rows), segments, part, rule, scores.dtype)
        weights = (scores if mask is None else scores + mask).softmax(-1)
        weights = torch.nn.functional.dropout(weights, rule.dropout).to(v.dtype)
        parts.append((weights @ values).transpose(0, 1))
    return torch.cat(parts)


class _Block(NamedTuple):
    """Some queries of a segment, the keys they may see, and what is added to their scores."""

    rows: slice
    """Their place among the segment's queries."""
    keys: slice
    """The place of what they see among all that the segment sees."""
    mask: Tensor | None
    """`(rows, n)`, for the last n of these keys; the others are seen by all."""


class _SegmentAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, segments: Segments, rule: Rule) -> Tensor:
        out = pool.new_empty(q, *q.shape[:2], v.shape[2])
        kept: list[Tensor] = []
        flashed = False
        code = part_attention.code_for(q, k, v)
        table = segments.table(_most_tokens(code, rule))
        if code and len(table.parts):
            code.attend(part_attention.Stream(q, k, v, table.parts, rule.causal, rule.scale), out)
        keys, values = Seen(k, segments), Seen(v, segments)
        for part in table.others:
            inputs, place = (q[part.queries], keys.by(part), values.by(part)), out[part.queries]
            if _takes_flash(inputs, rule):
                kept.append(flash.attend(inputs, place, part.num_shared, causal=rule.causal, scale=rule.scale))
                flashed = True
            else:
                kept.extend(_products_forward(inputs, place, _blocks(inputs, segments, part, rule), rule.scale))
        ctx.save_for_backward(q, k, v, out if flashed else None, *kept)
        ctx.segments, ctx.rule, ctx.code = segments, rule, code
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        q, k, v, out, *kept = ctx.saved_tensors
        segments, rule, code, keeps = ctx.segments, ctx.rule, ctx.code, iter(kept)
        dq, dk, dv = (pool.new_empty(t, *t.shape) for t in (q, k, v))
        key_gradients, value_gradients = SeenGradients(dk, segments), SeenGradients(dv, segments)
        table = segments.table(_most_tokens(code, rule))
        if code and len(table.parts):
            stream = part_attention.Stream(q, k, v, table.parts, rule.causal, rule.scale)
            code.write_gradients(stream, dout, (dq, dk, dv), (key_gradients.shared, value_gradients.shared))
        keys, values = Seen(k, segments), Seen(v, segments)
        for part in table.others:
            rows = part.queries
            inputs = (q[rows], keys.by(part), values.by(part))
            outputs = (dq[rows], key_gradients.of(part), value_gradients.of(part))
            if _takes_flash(inputs, rule):
                result = out[rows], next(keeps)
                flash.write_gradients(inputs, result, dout[rows], outputs, causal=rule.causal, scale=rule.scale)
            else:
                blocks = _blocks(inputs, segments, part, rule)
                _products_gradients(inputs, blocks, next(keeps) if len(blocks) == 1 else None, dout[rows], outputs, rule.scale)
            for gradients in (key_gradients, value_gradients):
                gradients.add(part)
        for gradients in (key_gradients, value_gradients):
            gradients.end()
        return dq, dk, dv, None, None


def _mask(length: int, segments: Segments, part: Part, rule: Rule, dtype: torch.dtype) -> Tensor | None:
    """What to add to all scores of a segment, `(length, seen)`."""
    return segments.mask(length, causal=rule.causal, window=rule.window, dtype=dtype, shared=part.num_shared)


def _takes_flash(inputs: tuple[Tensor, ...], rule: Rule) -> bool:
    """Whether a segment's q, k and v are long and of a form that flash attention knows: no window, one width."""
    q, k, v = inputs
    sees_all = rule.window is None or rule.window >= len(k)
    return len(q) >= LONG_SEGMENT and sees_all and q.shape[2] == v.shape[2]


def _most_tokens(code: part_attention.Code | None, rule: Rule) -> int:
    """How many tokens a part may see that compiled code takes; it knows no windows."""
    return 0 if code is None else min(code.most_tokens, LONG_SEGMENT - 1, rule.window or LONG_SEGMENT)


def _blocks(inputs: tuple[Tensor, ...], segments: Segments, part: Part, rule: Rule) -> list[_Block]:
    """The queries of a segment in blocks of like size."""
    length, seen, dtype = len(inputs[0]), len(inputs[1]), inputs[0].dtype
    count = -(-length // BLOCK)
    ends = [length * number // count for number in range(count + 1)]
    rows = [slice(start, end) for start, end in itertools.pairwise(ends)]
    if rule.window is not None and rule.window < seen:
        if count > 1 and not segments.num_given:
            return [_strip(block, seen, seen - length, segments, rule, dtype) for block in rows]
        mask = _mask(length, segments, part, rule, dtype)
        return [_Block(block, slice(0, seen), None if mask is None else mask[block]) for block in rows]
    if not rule.causal:
        return [_Block(block, slice(0, seen), None) for block in rows]
    corners = (segments.mask(block.stop - block.start, causal=True, window=None, dtype=dtype) for block in rows)
    return [_Block(block, slice(0, seen - length + block.stop), corner) for block, corner in zip(rows, corners, strict=True)]


def _strip(rows: slice, seen: int, ahead: int, segments: Segments, rule: Rule, dtype: torch.dtype) -> _Block:
    """Some queries with the keys inside of their window, of `seen` keys, of which `ahead` stand before the first query's."""
    assert rule.window is not None
    first, end = ahead + rows.start, ahead + rows.stop
    keys = slice(max(0, first - rule.window + 1), end if rule.causal else min(seen, end + rule.window - 1))
    sizes = (end - first, keys.stop - keys.start)
    return _Block(rows, keys, segments.strip(*sizes, first - keys.start, causal=rule.causal, window=rule.window, dtype=dtype))


def _products_forward(inputs: tuple[Tensor, ...], out: Tensor, blocks: list[_Block], scale: float) -> list[Tensor]:
    """Two batched products a block; writes `out` `(length, heads, width)`, returns the probabilities if they are kept."""
    q, k, v = inputs
    rows, weights = _Rows(q, k.shape[1], scale), []
    for place, keys, mask in blocks:
        weights = [_weights(rows.of(place), k[keys], mask)]
        _write(out[place], torch.bmm(weights[0], v[keys].transpose(0, 1)))
    return weights if len(blocks) == 1 else []


def _products_gradients(
    inputs: tuple[Tensor, ...],
    blocks: list[_Block],
    kept: Tensor | None,
    dout: Tensor,
    outputs: tuple[Tensor, ...],
    scale: float,
) -> None:
    """Writes the gradients of one segment; `kept` are its probabilities, if they were kept."""
    (q, k, v), (dq, dk, dv) = inputs, outputs
    write = Tensor.copy_
    if len(blocks) > 1:
        write = Tensor.add_
        dk.zero_()
        dv.zero_()
    rows, drows = _Rows(q, k.shape[1], scale), _Rows(dout, k.shape[1])
    for place, keys, mask in blocks:
        some, dsome = rows.of(place), drows.of(place)
        weights = _weights(some, k[keys], mask) if kept is None else kept
        write(dv[keys].transpose(0, 1), torch.bmm(weights.transpose(1, 2), dsome))
        dweights = torch.bmm(dsome, v[keys].permute(1, 2, 0))
        dscores = torch.ops.aten._softmax_backward_data(dweights, weights, -1, weights.dtype)
        write(dk[keys].transpose(0, 1), torch.bmm(dscores.transpose(1, 2), some))
        _write(dq[place], torch.bmm(dscores, k[keys].transpose(0, 1)).mul_(scale))


class _Rows:
    """Queries, or gradients of what they got, by the heads whose keys they look at: `(kv heads, length * group, width)`."""

    def __init__(self, t: Tensor, heads: int, scale: float = 1.0) -> None:
        length, self.group, width = len(t), t.shape[1] // heads, t.shape[2]
        rows = t.view(length, heads, self.group, width).permute(1, 0, 2, 3).reshape(heads, -1, width)
        self.rows = rows if scale == 1.0 else rows * scale  # cheaper here than on the scores

    def of(self, place: slice) -> Tensor:
        """Those of some tokens."""
        return self.rows[:, place.start * self.group : place.stop * self.group]


def _weights(rows: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
    """The probabilities of one block, `(kv heads, rows, keys)`; `mask` is `(tokens, n)`, for the last n keys."""
    return probabilities(torch.bmm(rows, k.permute(1, 2, 0)), mask)


@by_device
def probabilities(scores: Tensor, mask: Tensor | None) -> Tensor:
    """Softmax of `(heads, rows, keys)` plus a mask `(tokens, n)`, for the last n keys; the scores are overwritten."""
    if mask is not None:
        by_token = scores.view(len(scores), len(mask), -1, scores.shape[2])
        by_token[..., -mask.shape[1] :].add_(mask[:, None])
    return torch.softmax(scores, -1)


def _write(out: Tensor, rows: Tensor) -> None:
    """The way back of `_Rows`, into `out` `(length, heads, width)`."""
    length, _, width = out.shape
    heads = len(rows)
    out.view(length, heads, -1, width).permute(1, 0, 2, 3).copy_(rows.view(heads, length, -1, width))
