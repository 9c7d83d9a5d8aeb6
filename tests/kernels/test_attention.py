"""Segment attention equals its obvious twin, and the twin equals torch's own attention."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from largest_tensor import LargestTensor
from tunesmith.kernels import attention, flash
from tunesmith.kernels.attention import Rule, plain, segment_attention
from tunesmith.kernels.segments import Segments

SHORT = [5, 1, 9, 2, 1]
MIDDLE = [3, 17, 40, 1, 16]  # several blocks of queries
LONG = [3, 48, 1, 53]  # flash attention
Inputs = tuple[Tensor, Tensor, Tensor]


@pytest.fixture(autouse=True)
def _small_limits(monkeypatch: pytest.MonkeyPatch):
    """Blocks and flash attention begin at lengths that a test can afford."""
    monkeypatch.setattr(attention, "BLOCK", 16)
    monkeypatch.setattr(attention, "LONG_SEGMENT", 48)


def _inputs(
    lengths: list[int], heads: int, kv_heads: int, *, dtype: torch.dtype = torch.float32, widths: tuple[int, int] = (8, 8)
) -> Inputs:
    """Queries, keys and values as the models give them: the head is the outer axis in memory."""
    generator = torch.Generator().manual_seed(heads)
    shapes = ((heads, sum(lengths), widths[0]), (kv_heads, sum(lengths), widths[0]), (kv_heads, sum(lengths), widths[1]))
    q, k, v = (torch.randn(s, generator=generator, dtype=dtype).transpose(0, 1).requires_grad_() for s in shapes)
    return q, k, v


def _with_gradients(compute, inputs: Inputs, segments: Segments, rule: Rule) -> list[Tensor]:
    inputs_ = [t.detach().requires_grad_() for t in inputs]
    out = compute(*inputs_, segments, rule)
    weight = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view(out.shape)  # another gradient for every element
    return [out.detach(), *torch.autograd.grad(out, inputs_, weight)]


def _assert_equal(found: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    for name, one, other in zip(("out", "dq", "dk", "dv"), found, expected, strict=True):
        scale = max(1.0, other.abs().max().item())
        assert (one - other).abs().max().item() <= tolerance * scale, name


RULES = {
    "causal": Rule(causal=True, scale=0.3),
    "both ways": Rule(causal=False, scale=0.3),
    "causal window": Rule(causal=True, scale=0.3, window=3),
    "window both ways": Rule(causal=False, scale=0.3, window=2),
    "window of one": Rule(causal=True, scale=0.3, window=1),
    "window longer than any": Rule(causal=True, scale=0.3, window=1000),
}


@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (6, 1)], ids=["each its own keys", "two share", "all share"])
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())
def test_short_segments(heads: tuple[int, int], rule: Rule):
    inputs, segments = _inputs(SHORT, *heads), Segments(SHORT)
    _assert_equal(
        _with_gradients(segment_attention, inputs, segments, rule), _with_gradients(plain, inputs, segments, rule), 2e-6
    )


@pytest.mark.parametrize("heads", [(2, 2), (4, 2)])
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())
@pytest.mark.parametrize("lengths", [MIDDLE, LONG], ids=["blocks", "flash"])
def test_long_segments(lengths: list[int], heads: tuple[int, int], rule: Rule):
    inputs, segments = _inputs(lengths, *heads), Segments(lengths)
    _assert_equal(
        _with_gradients(segment_attention, inputs, segments, rule), _with_gradients(plain, inputs, segments, rule), 5e-6
    )


def test_long_segments_go_through_flash_and_windowed_ones_do_not(monkeypatch: pytest.MonkeyPatch):
    calls: list[int] = []
    original = flash._flash

    def count(q: Tensor, *rest: object, **settings: object) -> tuple[Tensor, Tensor]:
        calls.append(q.shape[2])
        return original(q, *rest, **settings)

    monkeypatch.setattr(flash, "_flash", count)
    inputs, segments = _inputs(LONG, 2, 2), Segments(LONG)
    segment_attention(*inputs, segments, Rule(causal=True, scale=1.0))
    assert calls == [attention.LONG_SEGMENT, attention.LONG_SEGMENT + 5]
    segment_attention(*inputs, segments, Rule(causal=True, scale=1.0, window=attention.LONG_SEGMENT))
    assert calls[2:] == [attention.LONG_SEGMENT]


@pytest.mark.parametrize("lengths", [SHORT, MIDDLE, LONG], ids=["short", "blocks", "flash"])
def test_values_may_be_wider_or_narrower_than_keys(lengths: list[int]):
    for widths in ((8, 4), (4, 8)):
        inputs, segments, rule = _inputs(lengths, 4, 2, widths=widths), Segments(lengths), Rule(causal=True, scale=0.3)
        _assert_equal(
            _with_gradients(segment_attention, inputs, segments, rule), _with_gradients(plain, inputs, segments, rule), 5e-6
        )


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())
def test_float64_gradients_by_finite_differences(rule: Rule):
    lengths = [4, 1, 3]
    inputs = _inputs(lengths, 2, 1, dtype=torch.float64, widths=(3, 2))
    segments = Segments(lengths)
    assert torch.autograd.gradcheck(lambda q, k, v: segment_attention(q, k, v, segments, rule), inputs)


@pytest.mark.parametrize("lengths", [SHORT, MIDDLE, LONG], ids=["short", "blocks", "flash"])
@pytest.mark.parametrize("causal", [True, False])
def test_the_twin_is_torchs_attention_row_by_row(lengths: list[int], causal: bool):
    q, k, v = _inputs(lengths, 4, 2)
    found = plain(q, k, v, Segments(lengths), Rule(causal=causal, scale=0.2))
    start = 0
    for length in lengths:
        one = [t[start : start + length].transpose(0, 1)[None] for t in (q, k, v)]
        expected = torch.nn.functional.scaled_dot_product_attention(*one, is_causal=causal, scale=0.2, enable_gqa=True)
        torch.testing.assert_close(found[start : start + length], expected[0].transpose(0, 1), rtol=1e-5, atol=1e-6)
        start += length


def test_soft_cap():
    lengths = [6, 1, 3]
    q, k, v = _inputs(lengths, 2, 2)
    rule = Rule(causal=True, scale=2.0, softcap=1.5)
    found = segment_attention(q, k, v, Segments(lengths), rule)
    scores = 1.5 * torch.tanh(torch.einsum("ihd,jhd->hij", q[:6], k[:6]) * 2.0 / 1.5)
    scores = scores.masked_fill(torch.ones(6, 6).triu(1).bool(), -torch.inf)
    torch.testing.assert_close(found[:6], torch.einsum("hij,jhd->ihd", scores.softmax(-1), v[:6]), rtol=1e-5, atol=1e-6)
    assert not torch.allclose(found, segment_attention(q, k, v, Segments(lengths), replace(rule, softcap=None)), atol=1e-2)


def test_dropout_zeroes_weights_and_keeps_their_mean():
    lengths = [16]
    q, k, v = _inputs(lengths, 2, 2)
    segments, rule = Segments(lengths), Rule(causal=False, scale=0.3, dropout=0.5)
    torch.manual_seed(0)
    draws = torch.stack([segment_attention(q, k, v, segments, rule).detach() for _ in range(800)])
    assert not torch.equal(draws[0], draws[1])
    without = plain(q, k, v, segments, replace(rule, dropout=0.0))
    torch.testing.assert_close(draws.mean(0), without, rtol=0.0, atol=0.1)


def test_bfloat16_is_as_close_as_its_twin():
    inputs, segments, rule = _inputs(SHORT, 4, 2), Segments(SHORT), Rule(causal=True, scale=0.3)
    exact = _with_gradients(plain, inputs, segments, rule)
    rough = tuple(t.detach().bfloat16() for t in inputs)
    for one, expected in zip(_with_gradients(segment_attention, rough, segments, rule), exact, strict=True):
        assert one.dtype == torch.bfloat16
        assert (one.float() - expected).abs().max() <= 0.03 * expected.abs().max().clamp(min=1.0)


@pytest.mark.parametrize("causal", [True, False])
def test_a_segment_sees_nothing_of_another(causal: bool):
    q, k, v = (t.detach() for t in _inputs(LONG, 2, 2))
    segments, rule = Segments(LONG), Rule(causal=causal, scale=0.3)
    before = segment_attention(q, k, v, segments, rule)
    for index, place in enumerate(segments):
        changed = [t.clone() for t in (q, k, v)]
        for t in changed:
            t[place] += 3.0
        moved = (segment_attention(*changed, segments, rule) - before).abs().amax((1, 2)) > 0
        expected = torch.zeros_like(moved)
        expected[place] = True
        assert torch.equal(moved, expected), index


def test_a_token_sees_nothing_later():
    q, k, v = (t.detach() for t in _inputs(LONG, 2, 2))
    segments, rule = Segments(LONG), Rule(causal=True, scale=0.3)
    before = segment_attention(q, k, v, segments, rule)
    middle = 3 + 30
    for t in (q, k, v):
        t[middle] += 3.0
    moved = (segment_attention(q, k, v, segments, rule) - before).abs().amax((1, 2)) > 0
    assert moved.nonzero()[:, 0].tolist() == list(range(middle, 3 + LONG[1]))


def test_no_probabilities_are_kept_of_long_segments():
    length = 2 * attention.LONG_SEGMENT
    q, k, v = _inputs([length], 2, 2)
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        segment_attention(q, k, v, Segments([length]), Rule(causal=True, scale=0.3))
    assert kept
    assert max(kept) <= q.numel()


@pytest.mark.parametrize("causal", [True, False])
def test_a_window_costs_what_is_inside_of_it(causal: bool, monkeypatch: pytest.MonkeyPatch):
    """Neither a mask nor scores over all tokens of a long row."""
    monkeypatch.setattr(attention, "BLOCK", 8)
    length, heads, window = 400, 2, 5
    q, k, v = (torch.randn(length, heads, 4).requires_grad_() for _ in range(3))
    with LargestTensor() as largest:
        segment_attention(q, k, v, Segments([length]), Rule(causal=causal, scale=1.0, window=window)).sum().backward()
    assert largest.num_elements == length * heads * 4, "the inputs themselves"
