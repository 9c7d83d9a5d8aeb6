"""Attention inside the segments of a packed stream: cost sum(length^2), no padding, no mask over the stream, no copies.

For each segment      out = softmax(cap(s q kT) + mask) v      q: (tokens, heads, width), k, v: (tokens, kv heads, width)

One autograd node serves the whole stream. Short segments take two batched products over the heads, straight on the
stream's memory, and keep their probabilities; long ones take torch's flash attention, which keeps none.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tunesmith.kernels.segments import Segments

LONG_SEGMENT = 256  # tokens; from here on torch's flash attention beats batched products on the CPU
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
    """Attend within segments; returns `(tokens, heads, width of v)`."""
    if rule.softcap or rule.dropout or q.device.type != "cpu":
        return plain(q, k, v, segments, rule)
    return _SegmentAttention.apply(q, k, v, segments, rule)  # pyright: ignore[reportReturnType]


def plain(q: Tensor, k: Tensor, v: Tensor, segments: Segments, rule: Rule) -> Tensor:
    """The obvious computation, one segment after the other; the general form, with soft cap and dropout."""
    group = q.shape[1] // k.shape[1]
    parts = []
    for place in segments:
        keys, values = (t[place].repeat_interleave(group, 1).transpose(0, 1) for t in (k, v))
        scores = (q[place].transpose(0, 1) @ keys.transpose(1, 2)).float() * rule.scale
        if rule.softcap:
            scores = rule.softcap * torch.tanh(scores / rule.softcap)
        mask = segments.mask(scores.shape[-1], causal=rule.causal, window=rule.window, dtype=scores.dtype)
        weights = (scores if mask is None else scores + mask).softmax(-1)
        weights = torch.nn.functional.dropout(weights, rule.dropout).to(v.dtype)
        parts.append((weights @ values).transpose(0, 1))
    return torch.cat(parts)


class _SegmentAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, segments: Segments, rule: Rule) -> Tensor:
        out = q.new_empty(*q.shape[:2], v.shape[2])
        kept: list[Tensor] = []
        for place in segments:
            inputs = q[place], k[place], v[place]
            compute = _flash_forward if _takes_flash(inputs, rule) else _products_forward
            kept += compute(*inputs, out[place], segments, rule)
        ctx.save_for_backward(q, k, v, out, *kept)
        ctx.segments, ctx.rule = segments, rule
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        q, k, v, out, *kept = ctx.saved_tensors
        gradients = tuple(torch.empty_like(t, memory_format=torch.contiguous_format) for t in (q, k, v))
        for place, keep in zip(ctx.segments, kept, strict=True):
            inputs, outputs = (q[place], k[place], v[place]), tuple(g[place] for g in gradients)
            if _takes_flash(inputs, ctx.rule):
                _flash_gradients(inputs, out[place], keep, dout[place], outputs, ctx.rule)
            else:
                _products_gradients(inputs, keep, dout[place], outputs, ctx.rule)
        return *gradients, None, None


def _takes_flash(inputs: tuple[Tensor, ...], rule: Rule) -> bool:
    """Whether a segment's q, k and v are long and of a form that flash attention knows: no window, one width."""
    q, _, v = inputs
    length = len(q)
    return length >= LONG_SEGMENT and (rule.window is None or rule.window >= length) and q.shape[2] == v.shape[2]


def _products_forward(q: Tensor, k: Tensor, v: Tensor, out: Tensor, segments: Segments, rule: Rule) -> list[Tensor]:
    """Two batched products; writes `out` `(length, heads, width)`, returns the weights `(kv heads, group * length, length)`."""
    length, heads = len(q), k.shape[1]
    rows, keys, values = _by_key_head(q, heads), k.transpose(0, 1), v.transpose(0, 1)
    mask = segments.mask(length, causal=rule.causal, window=rule.window, dtype=q.dtype)
    if mask is None:
        scores = torch.bmm(rows, keys.transpose(1, 2)).mul_(rule.scale)
    else:
        tiled = mask if rows.shape[1] == length else mask.repeat(rows.shape[1] // length, 1)
        scores = torch.baddbmm(tiled[None], rows, keys.transpose(1, 2), alpha=rule.scale)
    weights = torch.softmax(scores, -1)
    _write_heads(out, torch.bmm(weights, values), heads)
    return [weights]


def _products_gradients(
    inputs: tuple[Tensor, ...], weights: Tensor, dout: Tensor, outputs: tuple[Tensor, ...], rule: Rule
) -> None:
    """Writes the gradients of one short segment."""
    (q, k, v), (dq, dk, dv) = inputs, outputs
    heads = k.shape[1]
    drows = _by_key_head(dout, heads)
    dv.transpose(0, 1).copy_(torch.bmm(weights.transpose(1, 2), drows))
    dweights = torch.bmm(drows, v.permute(1, 2, 0))
    dscores = torch._softmax_backward_data(dweights, weights, -1, weights.dtype).mul_(rule.scale)
    _write_heads(dq, torch.bmm(dscores, k.transpose(0, 1)), heads)
    dk.transpose(0, 1).copy_(torch.bmm(dscores.transpose(1, 2), _by_key_head(q, heads)))


def _by_key_head(t: Tensor, heads: int) -> Tensor:
    """`(length, kv heads * group, width)` -> `(kv heads, group * length, width)`; a view where the group is 1."""
    if t.shape[1] == heads:
        return t.transpose(0, 1)
    length, _, width = t.shape
    return t.reshape(length, heads, -1, width).permute(1, 2, 0, 3).reshape(heads, -1, width)


def _write_heads(out: Tensor, rows: Tensor, heads: int) -> None:
    """The way back of `_by_key_head`, into `out`."""
    length, _, width = out.shape
    out.view(length, heads, -1, width).permute(1, 2, 0, 3).copy_(rows.view(heads, -1, length, width))


def _heads_first(t: Tensor, group: int = 1) -> Tensor:
    """`(length, heads, width)` -> `(1, heads * group, length, width)`."""
    return (t if group == 1 else t.repeat_interleave(group, 1)).transpose(0, 1)[None]


def _flash_forward(q: Tensor, k: Tensor, v: Tensor, out: Tensor, segments: Segments, rule: Rule) -> list[Tensor]:
    """Torch's flash attention; writes `out`, returns the log of the normalisers `(1, length, heads)`."""
    group = q.shape[1] // k.shape[1]
    result, normaliser = _flash(
        _heads_first(q), _heads_first(k, group), _heads_first(v, group), 0.0, rule.causal, attn_mask=None, scale=rule.scale
    )
    out.copy_(result[0].transpose(0, 1))
    return [normaliser]


def _flash_gradients(
    inputs: tuple[Tensor, ...], out: Tensor, normaliser: Tensor, dout: Tensor, outputs: tuple[Tensor, ...], rule: Rule
) -> None:
    """Writes the gradients of one long segment."""
    (q, k, v), (dq, dk, dv) = inputs, outputs
    group = q.shape[1] // k.shape[1]
    arguments = (_heads_first(dout), _heads_first(q), _heads_first(k, group), _heads_first(v, group), _heads_first(out))
    gradients = _flash_backward(*arguments, normaliser, 0.0, rule.causal, attn_mask=None, scale=rule.scale)
    dq.copy_(gradients[0][0].transpose(0, 1))
    for target, gradient in ((dk, gradients[1]), (dv, gradients[2])):
        summed = gradient[0] if group == 1 else gradient[0].unflatten(0, (-1, group)).sum(1)
        target.copy_(summed.transpose(0, 1))
