"""Tokens that all segments see first give what every row would compute with a copy of its own."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tunesmith.kernels import attention
from tunesmith.kernels.attention import Rule, plain, segment_attention
from tunesmith.kernels.segments import Segments

_KINDS = ["tokens ahead", "given keys", "both"]
SHORT = [5, 1, 9, 2]
MIDDLE = [3, 17, 40, 1, 16]  # several blocks of queries
LONG = [3, 48, 1, 53]  # flash attention
RULES = {
    "causal": Rule(causal=True, scale=0.3),
    "both ways": Rule(causal=False, scale=0.3),
    "causal window": Rule(causal=True, scale=0.3, window=5),
    "soft cap": Rule(causal=True, scale=0.3, softcap=2.0),
}


@pytest.fixture(autouse=True)
def _small_limits(monkeypatch: pytest.MonkeyPatch):
    """Blocks and flash attention begin at lengths that a test can afford."""
    monkeypatch.setattr(attention, "BLOCK", 16)
    monkeypatch.setattr(attention, "LONG_SEGMENT", 48)


def _row_by_row(q: Tensor, k: Tensor, v: Tensor, segments: Segments, rule: Rule) -> Tensor:
    """The obvious computation: every row beside a copy of the shared tokens, by ordinary segments."""
    given, ahead, p = segments.num_given, segments.num_ahead, segments.num_shared
    outputs = [_seeing_all_given(q[:ahead], k[:p], v[:p], given, rule)] if ahead else []
    for place in segments:
        rows, own = torch.cat([q[:ahead], q[ahead:][place]]), slice(place.start + p, place.stop + p)
        keys, values = (torch.cat([t[:p], t[own]]) for t in (k, v))
        outputs.append(_seeing_all_given(rows, keys, values, given, rule)[ahead:])
    return torch.cat(outputs)


def _seeing_all_given(q: Tensor, k: Tensor, v: Tensor, p: int, rule: Rule) -> Tensor:
    group, n = q.shape[1] // k.shape[1], len(q)
    scores = torch.einsum("ihd,jhd->hij", q, k.repeat_interleave(group, 1)) * rule.scale
    if rule.softcap:
        scores = rule.softcap * torch.tanh(scores / rule.softcap)
    distance = torch.arange(n)[:, None] - torch.arange(n)
    hidden = (distance < 0) if rule.causal else torch.zeros(n, n, dtype=torch.bool)
    hidden = hidden | (distance.abs() >= (rule.window or 10**6))
    scores = scores.masked_fill(torch.nn.functional.pad(hidden, (p, 0)), -torch.inf)
    return torch.einsum("hij,jhd->ihd", scores.softmax(-1), v.repeat_interleave(group, 1))


def _with_gradients(compute, tensors: tuple[Tensor, ...], segments: Segments, rule: Rule) -> list[Tensor]:
    inputs = [t.detach().requires_grad_() for t in tensors]
    out = compute(*inputs, segments, rule)
    weight = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view(out.shape)
    return [out.detach(), *torch.autograd.grad(out, inputs, weight)]


def _inputs(segments: Segments, heads: int, kv_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(heads)
    own, p = sum(segments.lengths), segments.num_shared
    sizes = ((heads, own + segments.num_ahead), (kv_heads, own + p), (kv_heads, own + p))
    q, k, v = (torch.randn(h, n, 8, generator=generator).transpose(0, 1) for h, n in sizes)
    return q, k, v


@pytest.mark.parametrize("share", [{"num_ahead": 1}, {"num_given": 1}, {"num_ahead": 0.6, "num_given": 0.4}], ids=_KINDS)
@pytest.mark.parametrize("heads", [(4, 4), (4, 2)], ids=["each its own keys", "two share"])
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize(
    ("lengths", "num_shared"), [(SHORT, 1), (SHORT, 7), (MIDDLE, 4), (MIDDLE, 30), (LONG, 4), (LONG, 30)], ids=str
)
def test_forward_and_gradients(
    lengths: list[int], num_shared: int, rule: Rule, heads: tuple[int, int], share: dict[str, float]
):
    segments = Segments(lengths, **{kind: math.ceil(part * num_shared) for kind, part in share.items()})
    inputs = _inputs(segments, *heads)
    expected = _with_gradients(_row_by_row, inputs, segments, rule)
    for compute in (segment_attention, plain):
        for name, one, other in zip(
            ("out", "dq", "dk", "dv"), _with_gradients(compute, inputs, segments, rule), expected, strict=True
        ):
            assert (one - other).abs().max() <= 5e-6 * max(1.0, other.abs().max().item()), name


def test_the_shared_tokens_matter_to_every_row():
    segments = Segments(SHORT, num_ahead=3)
    q, k, v = _inputs(segments, 2, 2)
    before = segment_attention(q, k, v, segments, RULES["causal"])
    v[:3] += 1
    moved = (segment_attention(q, k, v, segments, RULES["causal"]) - before).abs().amax((1, 2))
    assert (moved > 1e-3).all()


def test_no_row_sees_another():
    segments = Segments(SHORT, num_ahead=3)
    q, k, v = _inputs(segments, 2, 2)
    before = segment_attention(q, k, v, segments, RULES["both ways"])
    v[3:8] += 1
    moved = (segment_attention(q, k, v, segments, RULES["both ways"]) - before).abs().amax((1, 2)) > 1e-6
    assert moved.tolist() == [False] * 3 + [True] * 5 + [False] * 12


def test_a_window_counts_shared_tokens_of_the_stream_and_no_others():
    rule = replace(RULES["causal"], window=2)
    for given, ahead, reached in ((0, 3, [1, 0, 0]), (3, 0, [3, 3, 3]), (1, 2, [2, 1, 1])):
        segments = Segments([3], num_given=given, num_ahead=ahead)
        mask = segments.mask(3, causal=True, window=rule.window, dtype=torch.float32, shared=3)
        assert mask is not None
        assert (mask[:, :3] == 0).sum(1).tolist() == reached


def test_the_same_segments_are_shared_by_all_layers():
    segments = Segments(SHORT)
    assert segments.sharing(num_ahead=3) is segments.sharing(num_ahead=3)
    assert segments.sharing(num_ahead=3) is not segments.sharing(num_given=3)


def test_given_keys_come_to_the_tokens_ahead():
    both = Segments(SHORT).sharing(num_ahead=3).sharing(num_given=2)
    assert (both.num_given, both.num_ahead, both.num_queries) == (2, 3, sum(SHORT) + 3)
