"""What a GPU holds at most: neither probabilities of attention nor logits of all rows."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from tunesmith.kernels import four_bit, frozen_linear
from tunesmith.kernels.attention import Rule, segment_attention
from tunesmith.kernels.linear_cross_entropy import Head, linear_cross_entropy
from tunesmith.kernels.segments import Segments

pytestmark = pytest.mark.gpu
MB = 2**20


def _draw(*shape: int) -> torch.Tensor:
    return torch.randn(shape, device="cuda", dtype=torch.bfloat16).requires_grad_()


def _most_bytes(work: Callable[[], None]) -> int:
    """The most that was held above what was held before."""
    work()  # what is made once
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    work()
    return torch.cuda.max_memory_allocated() - before


def test_attention_holds_no_probabilities():
    lengths, heads, width = [4096, 4096], 16, 64
    q, k, v = (_draw(sum(lengths), heads, width) for _ in range(3))
    segments = Segments(lengths, "cuda")
    rule = Rule(causal=True, scale=width**-0.5)
    size = q.numel() * q.element_size()
    probabilities = heads * 4096**2 * 2
    held = _most_bytes(lambda: segment_attention(q, k, v, segments, rule).sum().backward())
    assert held < probabilities / 2
    assert held < 16 * size  # result, its gradient, three gradients, and float32 sums of the kernel


def test_the_head_never_holds_the_logits_of_all_rows():
    rows, hidden, vocabulary = 16384, 256, 128_000
    states, weight = _draw(rows, hidden), _draw(vocabulary, hidden).detach()
    targets = torch.randint(vocabulary, (rows,), device="cuda")
    held = _most_bytes(lambda: linear_cross_entropy(states, Head(weight), targets).backward())
    assert held < rows * vocabulary * 2 / 4, "a quarter of the logits in 16 bits"


def test_a_weight_in_four_bits_is_held_in_pieces():
    stored = four_bit.quantize(torch.randn(8192, 8192, device="cuda"))
    x = _draw(16, 8192)
    held = _most_bytes(lambda: frozen_linear.frozen_linear(x, stored, None).sum().backward())
    assert held < 8192**2 * 2, "less than the whole weight in 16 bits"
