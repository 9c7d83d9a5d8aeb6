"""Compiled attention of pairs of bfloat16 numbers equals the obvious computation in float32, but for rounding."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from tunesmith.kernels import attention
from tunesmith.kernels.attention import Rule, plain, segment_attention
from tunesmith.kernels.cpu import compiled, part_attention
from tunesmith.kernels.cpu.part_attention import ROW, SHORT, Code, Stream, code_for
from tunesmith.kernels.segments import Segments

pytestmark = pytest.mark.skipif(not compiled.is_there(), reason=f"needs compiled code: {compiled.why_not()}")
SCALE = 0.2


class Sizes(NamedTuple):
    queries: int
    keys: int
    heads: int = 4
    kv_heads: int = 2
    width: int = 16


SIZES = [Sizes(n, n) for n in (1, 2, 7, 8, 9, 31, 32, 33, 63, 64, 65, 130, 257, 512)]
SIZES += [Sizes(33, 33, heads, kv_heads, width) for heads, kv_heads in ((3, 3), (6, 1)) for width in (2, 30, 32, 64, 80, 128)]
SIZES += [Sizes(5, 20), Sizes(40, 41), Sizes(65, 100), Sizes(1, 70), Sizes(1, 512)]


def _inputs(n: Sizes) -> tuple[Tensor, Tensor, Tensor]:
    """As models give them: the projections of a token beside each other."""
    generator = torch.Generator().manual_seed(n.queries)
    row = (n.heads + 2 * n.kv_heads) * n.width
    together = torch.randn(n.keys, row, generator=generator).bfloat16().view(n.keys, -1, n.width)
    q, k, v = together.split([n.heads, n.kv_heads, n.kv_heads], 1)
    return q[n.keys - n.queries :], k, v


def _by_code(inputs: tuple[Tensor, Tensor, Tensor], dout: Tensor, *, causal: bool) -> list[Tensor]:
    out = torch.full(dout.shape, torch.nan, dtype=torch.bfloat16)
    gradients = [torch.full(t.shape, torch.nan, dtype=torch.bfloat16) for t in inputs]
    shared = len(inputs[1]) - len(inputs[0])
    table = Segments([len(dout)], num_given=shared).table(ROW.most_tokens)
    assert not table.others
    sums = tuple(torch.zeros(shared, *t.shape[1:]) for t in inputs[1:])
    stream = Stream(*inputs, table.parts, causal, SCALE)
    ROW.attend(stream, out)
    ROW.write_gradients(stream, dout, tuple(gradients), sums)
    for gradient, own in zip(gradients[1:], sums, strict=True):
        gradient[:shared] = own
    return [out, *gradients]


def _plainly(inputs: tuple[Tensor, Tensor, Tensor], dout: Tensor, *, causal: bool) -> list[Tensor]:
    q, k, v = (t.detach().float().requires_grad_() for t in inputs)
    ahead = len(k) - len(q)
    segments = Segments([len(q)], num_given=ahead)
    out = plain(q, k, v, segments, Rule(causal=causal, scale=SCALE))
    return [out.detach(), *torch.autograd.grad(out, (q, k, v), dout.float())]


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "both ways"])
@pytest.mark.parametrize("sizes", SIZES, ids=lambda n: "x".join(map(str, n)))
def test_forward_and_gradients(sizes: Sizes, causal: bool):
    inputs = _inputs(sizes)
    dout = torch.randn(inputs[0].shape, generator=torch.Generator().manual_seed(1)).bfloat16()
    found, expected = _by_code(inputs, dout, causal=causal), _plainly(inputs, dout, causal=causal)
    for name, one, other in zip(("out", "dq", "dk", "dv"), found, expected, strict=True):
        error = (one.float() - other).norm()
        assert error <= 0.006 * other.norm() + 1e-6, f"{name}: {error / other.norm():.4f}"


def test_large_scores():
    """Of which e^score would be infinite."""
    q, k, v = _inputs(Sizes(40, 40))
    inputs = (q * 100, k * 100, v)
    found, expected = _by_code(inputs, q, causal=True), _plainly(inputs, q, causal=True)
    assert (found[0].float() - expected[0]).norm() <= 0.01 * expected[0].norm()
    assert all(t.isfinite().all() for t in found)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_no_number_is_never_hidden(bad: float):
    q, k, v = _inputs(Sizes(20, 20))
    q = q.clone()
    q[7, 1, 3] = bad
    out, *gradients = _by_code((q, k, v), torch.ones_like(q), causal=True)
    assert out[7, 1].isnan().all()
    assert out[:7].isfinite().all()
    assert all(t.isnan().any() for t in gradients)


def test_threads_do_not_share_a_workplace():
    sizes = [Sizes(n, n) for n in (130, 257)]
    inputs = [_inputs(n) for n in sizes]
    expected = [_by_code(own, own[0], causal=True) for own in inputs]
    wrong: list[int] = []

    def work(number: int) -> None:
        for _ in range(20):
            found = _by_code(inputs[number], inputs[number][0], causal=True)
            if not all(torch.equal(*pair) for pair in zip(found, expected[number], strict=True)):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.fixture
def one_thread() -> Iterator[None]:
    usual = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(usual)


@pytest.mark.usefixtures("one_thread")
def test_what_it_is_taken_for(monkeypatch: pytest.MonkeyPatch):
    """Rows in 16 bits that are not too wide, where the processor multiplies pairs of them; else the code for short rows."""
    monkeypatch.setattr(compiled, "pairs_are_fast", lambda: False)
    assert code_for(*_inputs(Sizes(9, 9))) is SHORT
    monkeypatch.setattr(compiled, "pairs_are_fast", lambda: True)
    assert code_for(*_inputs(Sizes(9, 9))) is ROW
    assert code_for(*_inputs(Sizes(9, 9, width=130))) is None
    assert code_for(*_inputs(Sizes(9, 9, width=15))) is SHORT
    q, k, v = (t.float() for t in _inputs(Sizes(9, 9)))
    assert code_for(q, k, v) is SHORT


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("shared", [0, 24], ids=["nothing shared", "shared"])
@pytest.mark.parametrize("window", [None, 70], ids=["all", "window"])
@pytest.mark.parametrize("code", [ROW, SHORT], ids=lambda code: code.name)
def test_a_stream_of_which_it_takes_a_part(code: Code, window: int | None, shared: int, monkeypatch: pytest.MonkeyPatch):
    """Rows that see more than the code takes, or than a window lets them, go another way; all gradients come together."""
    monkeypatch.setattr(part_attention, "code_for", lambda *_: code)
    lengths = [3, 600, 30, 1, 80, 9, 2, 30, 4, 7, 5, 12, 1]  # more than there are groups
    n = Sizes(sum(lengths) + shared, sum(lengths) + shared)
    segments = Segments(lengths, num_ahead=shared)
    inputs = [t.requires_grad_() for t in _inputs(n)]
    dout = torch.randn(inputs[0].shape, generator=torch.Generator().manual_seed(1)).bfloat16()
    rule = Rule(causal=True, scale=SCALE, window=window)
    table = segments.table(attention._most_tokens(code, rule))
    assert len(table.parts) >= 3
    assert table.others
    out = segment_attention(*inputs, segments, rule)
    found = [out, *torch.autograd.grad(out, inputs, dout)]
    wide = [t.detach().float().requires_grad_() for t in inputs]
    exact = plain(*wide, segments, rule)
    for one, other in zip(found, [exact, *torch.autograd.grad(exact, wide, dout.float())], strict=True):
        assert (one.float() - other).norm() <= 0.01 * other.norm()
