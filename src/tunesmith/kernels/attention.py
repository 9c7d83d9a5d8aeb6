"""Attention inside the segments of a packed stream: cost sum(length^2), no padding, no mask over the stream, no copies.

For each segment      out = softmax(cap(s q kT) + mask) v      q: (tokens, heads, width), k, v: (tokens, kv heads, width)

Tokens that all segments see first (`Segments.num_shared`) have their keys and values once, at the head of k and v.

One autograd node serves the whole stream. Segments are cut into blocks of queries; a block takes batched products over the
heads, straight on the stream's memory, with those keys only that its queries may see. A segment of one block keeps its
probabilities, others make them again in the backward pass. The longest take torch's flash attention.
"""

import itertools
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tunesmith.kernels.segments import Part, Segments

BLOCK = 128  # queries at most
LONG_SEGMENT = 1024  # tokens; from here on torch's flash attention beats batched products on the CPU
_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


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
    if rule.softcap or rule.dropout or q.device.type != "cpu":
        return plain(q, k, v, segments, rule)
    return _SegmentAttention.apply(q, k, v, segments, rule)  # pyright: ignore[reportReturnType]


def plain(q: Tensor, k: Tensor, v: Tensor, segments: Segments, rule: Rule) -> Tensor:
    """The obvious computation, one segment after the other; the general form, with soft cap and dropout."""
    group = q.shape[1] // k.shape[1]
    parts = []
    for part in segments.parts():
        seen = (_Seen(t, segments).by(part) for t in (k, v))
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


class _Seen:
    """Keys or values as a segment sees them: the shared ones first, then its own."""

    def __init__(self, t: Tensor, segments: Segments) -> None:
        self.all, self.num_shared = t, segments.num_shared
        if self.num_shared:
            # The shared ones are copied once; a segment copies its own behind them.
            self.buffer = t.new_empty(self.num_shared + max(segments.lengths), *t.shape[1:])
            self.buffer[: self.num_shared] = t[: self.num_shared]

    def by(self, part: Part) -> Tensor:
        """`(seen, heads, width)`, valid until the next call."""
        own = self.all[part.keys]
        if not part.sees_shared:
            return own
        if self.all.requires_grad:
            return torch.cat([self.all[: self.num_shared], own])
        end = self.num_shared + len(own)
        self.buffer[self.num_shared : end] = own
        return self.buffer[:end]


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
        out = q.new_empty(*q.shape[:2], v.shape[2])
        kept: list[Tensor] = []
        keys, values = _Seen(k, segments), _Seen(v, segments)
        for part in segments.parts():
            inputs, place = (q[part.queries], keys.by(part), values.by(part)), out[part.queries]
            if _takes_flash(inputs, rule):
                kept.append(_flash_forward(inputs, place, segments.num_shared if part.sees_shared else 0, rule))
            else:
                kept.extend(_products_forward(inputs, place, _blocks(inputs, segments, part, rule), rule.scale))
        ctx.save_for_backward(q, k, v, out, *kept)
        ctx.segments, ctx.rule = segments, rule
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        q, k, v, out, *kept = ctx.saved_tensors
        segments, rule, keeps = ctx.segments, ctx.rule, iter(kept)
        dq, dk, dv = (torch.empty_like(t, memory_format=torch.contiguous_format) for t in (q, k, v))
        keys, values = _Seen(k, segments), _Seen(v, segments)
        key_gradients, value_gradients = _Gradients(dk, segments), _Gradients(dv, segments)
        for part in segments.parts():
            rows = part.queries
            inputs = (q[rows], keys.by(part), values.by(part))
            outputs = (dq[rows], key_gradients.of(part), value_gradients.of(part))
            if _takes_flash(inputs, rule):
                _flash_gradients(inputs, (out[rows], next(keeps)), dout[rows], outputs, rule)
            else:
                blocks = _blocks(inputs, segments, part, rule)
                _products_gradients(inputs, blocks, next(keeps) if len(blocks) == 1 else None, dout[rows], outputs, rule.scale)
            key_gradients.add(part)
            value_gradients.add(part)
        return dq, dk, dv, None, None


class _Gradients:
    """Where a segment writes the gradients of what it sees; those of the shared tokens are summed over all segments."""

    def __init__(self, total: Tensor, segments: Segments) -> None:
        self.total, self.num_shared = total, segments.num_shared
        if self.num_shared:
            self.buffer = total.new_empty(self.num_shared + max(segments.lengths), *total.shape[1:])
            if not segments.in_stream:
                total[: self.num_shared].zero_()

    def of(self, part: Part) -> Tensor:
        """`(seen, heads, width)`, to be filled."""
        length = part.keys.stop - part.keys.start
        return self.buffer[: self.num_shared + length] if part.sees_shared else self.total[part.keys]

    def add(self, part: Part) -> None:
        """Take over what was filled in."""
        if part.sees_shared:
            filled = self.of(part)
            self.total[: self.num_shared] += filled[: self.num_shared]
            self.total[part.keys] = filled[self.num_shared :]


def _mask(length: int, segments: Segments, part: Part, rule: Rule, dtype: torch.dtype) -> Tensor | None:
    """What to add to all scores of a segment, `(length, seen)`."""
    return segments.mask(length, causal=rule.causal, window=rule.window, dtype=dtype, shared=part.sees_shared)


def _takes_flash(inputs: tuple[Tensor, ...], rule: Rule) -> bool:
    """Whether a segment's q, k and v are long and of a form that flash attention knows: no window, one width."""
    q, k, v = inputs
    return len(q) >= LONG_SEGMENT and (rule.window is None or rule.window >= len(k)) and q.shape[2] == v.shape[2]


def _blocks(inputs: tuple[Tensor, ...], segments: Segments, part: Part, rule: Rule) -> list[_Block]:
    """The queries of a segment in blocks of like size."""
    length, seen, dtype = len(inputs[0]), len(inputs[1]), inputs[0].dtype
    count = -(-length // BLOCK)
    ends = [length * number // count for number in range(count + 1)]
    rows = [slice(start, end) for start, end in itertools.pairwise(ends)]
    if rule.window is not None and rule.window < seen:
        mask = _mask(length, segments, part, rule, dtype)
        return [_Block(block, slice(0, seen), None if mask is None else mask[block]) for block in rows]
    if not rule.causal:
        return [_Block(block, slice(0, seen), None) for block in rows]
    corners = (segments.mask(block.stop - block.start, causal=True, window=None, dtype=dtype) for block in rows)
    return [_Block(block, slice(0, seen - length + block.stop), corner) for block, corner in zip(rows, corners, strict=True)]


def _products_forward(inputs: tuple[Tensor, ...], out: Tensor, blocks: list[_Block], scale: float) -> list[Tensor]:
    """Two batched products a block; writes `out` `(length, heads, width)`, returns the probabilities if they are kept."""
    q, k, v = inputs
    weights = []
    for rows, keys, mask in blocks:
        weights = [_weights(q[rows], k[keys], mask, scale)]
        _write_heads(out[rows], torch.bmm(weights[0], v[keys].transpose(0, 1)))
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
    heads = k.shape[1]
    for rows, keys, mask in blocks:
        weights = _weights(q[rows], k[keys], mask, scale) if kept is None else kept
        drows = _by_key_head(dout[rows], heads)
        write(dv[keys].transpose(0, 1), torch.bmm(weights.transpose(1, 2), drows))
        dweights = torch.bmm(drows, v[keys].permute(1, 2, 0))
        dscores = torch.ops.aten._softmax_backward_data(dweights, weights, -1, weights.dtype).mul_(scale)
        _write_heads(dq[rows], torch.bmm(dscores, k[keys].transpose(0, 1)))
        write(dk[keys].transpose(0, 1), torch.bmm(dscores.transpose(1, 2), _by_key_head(q[rows], heads)))


def _weights(q: Tensor, k: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """The probabilities of one block, `(kv heads, group * rows, keys)`."""
    scores = torch.bmm(_by_key_head(q, k.shape[1]), k.permute(1, 2, 0)).mul_(scale)
    if mask is not None:
        scores.unflatten(1, (-1, len(q)))[..., -mask.shape[1] :].add_(mask)
    return torch.softmax(scores, -1)


def _by_key_head(t: Tensor, heads: int) -> Tensor:
    """`(length, kv heads * group, width)` -> `(kv heads, group * length, width)`; a view where the group is 1."""
    if t.shape[1] == heads:
        return t.transpose(0, 1)
    length, _, width = t.shape
    return t.reshape(length, heads, -1, width).permute(1, 2, 0, 3).reshape(heads, -1, width)


def _write_heads(out: Tensor, rows: Tensor) -> None:
    """The way back of `_by_key_head`, into `out`."""
    length, _, width = out.shape
    heads = len(rows)
    out.view(length, heads, -1, width).permute(1, 2, 0, 3).copy_(rows.view(heads, -1, length, width))


def _heads_first(t: Tensor, group: int = 1) -> Tensor:
    """`(length, heads, width)` -> `(1, heads * group, length, width)`."""
    return (t if group == 1 else t.repeat_interleave(group, 1)).transpose(0, 1)[None]


def _flash_forward(inputs: tuple[Tensor, ...], out: Tensor, num_shared: int, rule: Rule) -> Tensor:
    """Torch's flash attention; writes `out`, returns the log of the normalisers `(1, heads, length)`.

    It has no form for keys that stand before the queries, so shared keys take a pass of their own, in which all look at
    all; the two results are weighted by their normalisers.
    """
    q, k, v = inputs
    group = q.shape[1] // k.shape[1]
    result, normaliser = None, None
    for place, causal in _passes(num_shared, rule):
        keys, values = _heads_first(k[place], group), _heads_first(v[place], group)
        more, log_sum = _flash(_heads_first(q), keys, values, 0.0, causal, attn_mask=None, scale=rule.scale)
        if result is None or normaliser is None:
            result, normaliser = more, log_sum
        else:
            total = torch.logaddexp(normaliser, log_sum)
            shares = ((t - total).exp()[..., None].to(q.dtype) for t in (normaliser, log_sum))
            result, normaliser = result * next(shares) + more * next(shares), total
    assert result is not None
    assert normaliser is not None
    out.copy_(result[0].transpose(0, 1))
    return normaliser


def _flash_gradients(
    inputs: tuple[Tensor, ...],
    result: tuple[Tensor, Tensor],
    dout: Tensor,
    outputs: tuple[Tensor, ...],
    rule: Rule,
) -> None:
    """Writes the gradients of one long segment; `result` is its whole output and normaliser, right for either pass."""
    (q, k, v), (dq, dk, dv), (out, normaliser) = inputs, outputs, result
    group = q.shape[1] // k.shape[1]
    for number, (place, causal) in enumerate(_passes(len(k) - len(q), rule)):
        keys, values = _heads_first(k[place], group), _heads_first(v[place], group)
        arguments = (_heads_first(dout), _heads_first(q), keys, values, _heads_first(out))
        gradients = _flash_backward(*arguments, normaliser, 0.0, causal, attn_mask=None, scale=rule.scale)
        if number == 0:
            dq.copy_(gradients[0][0].transpose(0, 1))
        else:
            dq.add_(gradients[0][0].transpose(0, 1))
        for target, gradient in ((dk[place], gradients[1]), (dv[place], gradients[2])):
            summed = gradient[0] if group == 1 else gradient[0].unflatten(0, (-1, group)).sum(1)
            target.copy_(summed.transpose(0, 1))


def _passes(num_shared: int, rule: Rule) -> list[tuple[slice, bool]]:
    """The keys of each pass, and whether it is causal."""
    own = (slice(num_shared, None), rule.causal)
    return [own, (slice(0, num_shared), False)] if num_shared else [own]
