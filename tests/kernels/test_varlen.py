"""The whole stream in one call: the GPU's kernel is asked for what the obvious computation does, and its gradients arrive.

Where there is no GPU, a stand-in takes the operators' place that does what their documentation says; the last tests need one.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

import tiny_runs
from tunesmith.data.pack import pack
from tunesmith.kernels import varlen
from tunesmith.kernels.attention import Rule, plain, segment_attention
from tunesmith.kernels.segments import Segments
from tunesmith.method import Method
from tunesmith.methods.lora import LoRA
from tunesmith.methods.prefix import PrefixTuning
from tunesmith.methods.prompt import Prompt
from tunesmith.training.gradients import Learner, Pass

LENGTHS = [5, 1, 9, 2]
RULES = {
    "causal": Rule(causal=True, scale=0.3),
    "both ways": Rule(causal=False, scale=0.3),
    "causal window": Rule(causal=True, scale=0.3, window=3),
    "window both ways": Rule(causal=False, scale=0.3, window=2),
    "window longer than any": Rule(causal=True, scale=0.3, window=1000),
}
STREAMS = {
    "rows": Segments(LENGTHS),
    "tokens ahead": Segments(LENGTHS, num_ahead=3),
    "given keys": Segments(LENGTHS, num_given=3),
    "both": Segments(LENGTHS, num_given=2, num_ahead=3),
}
CASES = [(s, r) for s in STREAMS for r in RULES if not (STREAMS[s].num_given and RULES[r].window)]


class StandIn:
    """Flash attention as documented: query i of n sees the keys j of m with -left <= j - (i + m - n) <= right."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []
        self.in_fixed_order: list[bool] = []

    def attend(self, q: Tensor, k: Tensor, v: Tensor, ends: tuple[Tensor, Tensor], causal: bool, keywords: dict) -> Tensor:
        group, outs, (q_ends, k_ends) = q.shape[1] // k.shape[1], [], (e.tolist() for e in ends)
        for i in range(len(q_ends) - 1):
            rows, place = q[q_ends[i] : q_ends[i + 1]], slice(k_ends[i], k_ends[i + 1])
            keys, values = (t[place].repeat_interleave(group, 1) for t in (k, v))
            scores = torch.einsum("ihd,jhd->hij", rows, keys) * keywords["scale"]
            distance = torch.arange(len(keys)) - torch.arange(len(rows))[:, None] - (len(keys) - len(rows))
            left, right = keywords["window_size_left"], 0 if causal else keywords["window_size_right"]
            hidden = ((distance > right) if right >= 0 else False) | ((distance < -left) if left >= 0 else False)
            scores = scores.masked_fill(torch.as_tensor(hidden), -torch.inf)
            outs.append(torch.einsum("hij,jhd->ihd", scores.softmax(-1), values))
        return torch.cat(outs)

    def forward(self, q, k, v, q_ends, k_ends, most_q, most_k, dropout, causal, debug, **keywords) -> tuple[Tensor, ...]:
        self.calls.append((q_ends.tolist(), k_ends.tolist(), most_q, most_k, dropout, causal, debug, keywords))
        out = self.attend(q, k, v, (q_ends, k_ends), causal, keywords)
        return out, torch.zeros(q.shape[1], len(q)), torch.zeros(2), torch.zeros(0), torch.zeros(0)

    def backward(self, dout, q, k, v, out, lse, q_ends, k_ends, most_q, most_k, dropout, causal, random, unused, **keywords):
        [call] = {call[2:4] + call[5:6] for call in self.calls if call[:2] == (q_ends.tolist(), k_ends.tolist())}
        assert (most_q, most_k, causal) == call
        assert dropout == 0.0
        assert lse.shape == (q.shape[1], len(q))
        self.in_fixed_order.append(torch.are_deterministic_algorithms_enabled())
        inputs = [t.detach().requires_grad_() for t in (q, k, v)]
        with torch.enable_grad():
            again = self.attend(*inputs, (q_ends, k_ends), causal, keywords)
        assert torch.equal(again, out)
        return torch.autograd.grad(again, inputs, dout)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    stand_in = StandIn()
    monkeypatch.setattr(varlen, "_forward", stand_in.forward)
    monkeypatch.setattr(varlen, "_backward", stand_in.backward)
    monkeypatch.setattr(varlen, "_is_on", lambda device: True)
    return stand_in


def _inputs(segments: Segments, heads: int = 4, kv_heads: int = 2, **form) -> list[Tensor]:
    generator = torch.Generator().manual_seed(heads)
    own, p = sum(segments.lengths), segments.num_shared
    sizes = ((heads, own + segments.num_ahead), (kv_heads, own + p), (kv_heads, own + p))
    return [torch.randn(h, n, 8, generator=generator).to(**form).transpose(0, 1) for h, n in sizes]


def _with_gradients(compute, tensors: list[Tensor], segments: Segments, rule: Rule) -> list[Tensor]:
    inputs = [t.detach().requires_grad_() for t in tensors]
    out = compute(*inputs, segments, rule)
    weight = torch.linspace(-1, 1, out.numel(), dtype=out.dtype, device=out.device).view(out.shape)
    return [out.detach(), *torch.autograd.grad(out, inputs, weight)]


def _assert_equal(found: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    for name, one, other in zip(("out", "dq", "dk", "dv"), found, expected, strict=True):
        assert one.shape == other.shape, name
        assert (one - other).abs().max() <= tolerance * other.abs().max().clamp_min(1), name


@pytest.mark.parametrize(("stream", "rule"), CASES)
def test_the_kernel_is_asked_for_the_obvious_computation(stand_in: StandIn, stream: str, rule: str):
    segments = STREAMS[stream]
    inputs = _inputs(segments)
    found = _with_gradients(varlen.attend, inputs, segments, RULES[rule])
    _assert_equal(found, _with_gradients(plain, inputs, segments, RULES[rule]), 2e-6)
    assert len(stand_in.calls) == 1, "one call for the whole stream"


def test_arguments(stand_in: StandIn):
    segments = STREAMS["rows"]
    inputs = _inputs(segments, dtype=torch.bfloat16)
    segment_attention(*inputs, segments, RULES["causal"])
    segment_attention(*inputs, segments, RULES["window both ways"])
    shared = STREAMS["tokens ahead"]
    segment_attention(*_inputs(shared, dtype=torch.bfloat16), shared, RULES["causal window"])
    ends = [0, 5, 6, 15, 17]
    assert stand_in.calls[0][:-1] == (ends, ends, 9, 9, 0.0, True, False)
    assert stand_in.calls[0][-1] == {"scale": 0.3, "window_size_left": -1, "window_size_right": 0}
    assert stand_in.calls[1][5:] == (False, False, {"scale": 0.3, "window_size_left": 1, "window_size_right": 1})
    assert stand_in.calls[2][:4] == ([0, 3, 8, 9, 18, 20], [0, 3, 11, 15, 27, 32], 9, 12)
    assert stand_in.calls[2][-1] == {"scale": 0.3, "window_size_left": 2, "window_size_right": 0}


def test_gradients_are_added_in_a_fixed_order_and_the_process_is_left_as_it_was(stand_in: StandIn):
    _with_gradients(varlen.attend, _inputs(STREAMS["rows"]), STREAMS["rows"], RULES["causal"])
    assert stand_in.in_fixed_order == [True]
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory


def test_what_the_kernel_does_not_know_takes_the_general_form(stand_in: StandIn):
    segments, rule = STREAMS["rows"], RULES["causal"]
    half, full = _inputs(segments, dtype=torch.bfloat16), _inputs(segments)
    odd = [t[..., :6] for t in half]
    other = STREAMS["given keys"]
    unknown = [
        (half, segments, replace(rule, softcap=5.0)),
        (half, segments, replace(rule, dropout=0.5)),
        (full, segments, rule),
        (odd, segments, rule),
        ([*half[:2], half[2][..., :4]], segments, rule),
        (_inputs(other, dtype=torch.bfloat16), other, replace(rule, window=2)),
    ]
    for inputs, rows, asked in unknown:
        segment_attention(*inputs, rows, asked)
    assert not stand_in.calls
    segment_attention(*half, segments, rule)
    assert len(stand_in.calls) == 1


@pytest.mark.parametrize("architecture", ["llama", "gemma3", "bert"])  # gemma3 has windows, bert looks both ways
@pytest.mark.parametrize("method", [LoRA(rank=2), Prompt(num_tokens=3), PrefixTuning(num_tokens=3)], ids=lambda m: m.name)
def test_a_model_through_it(stand_in: StandIn, monkeypatch: pytest.MonkeyPatch, method: Method, architecture: str):
    task = "classification" if architecture == "bert" else "causal"
    learner = Learner(*tiny_runs.attached(method, architecture, task))
    table = tiny_runs.class_table() if task == "classification" else tiny_runs.language_table()
    found = []
    for takes in (lambda *_: False, _takes_float32_too):
        monkeypatch.setattr(varlen, "takes", takes)
        loss = learner.accumulate([Pass(pack(table, np.arange(8)), 0)]).item()
        found.append((loss, torch.cat([group.gradients for group in learner.optimizer._groups]).clone()))
        learner.optimizer.forget()
    (loss, gradients), (other_loss, other) = found
    assert stand_in.calls
    assert other_loss == pytest.approx(loss, rel=1e-5)
    assert (other - gradients).norm() <= 1e-5 * gradients.norm()


def _takes_float32_too(q: Tensor, v: Tensor, segments: Segments, rule: Rule) -> bool:
    return varlen._knows(q.bfloat16(), v, segments, rule)


def test_a_processor_never_takes_it():
    segments = STREAMS["rows"]
    q, _, v = _inputs(segments, dtype=torch.bfloat16)
    assert not varlen.takes(q, v, segments, RULES["causal"])


@pytest.mark.gpu
@pytest.mark.parametrize(("stream", "rule"), CASES)
@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (6, 1)])
def test_on_a_gpu(stream: str, rule: str, heads: tuple[int, int]):
    here = STREAMS[stream]
    there = Segments(here.lengths, "cuda", num_given=here.num_given, num_ahead=here.num_ahead)
    inputs = _inputs(here, *heads)
    moved = [t.to("cuda", torch.bfloat16) for t in inputs]
    assert varlen.takes(moved[0], moved[2], there, RULES[rule])
    found = [t.float().cpu() for t in _with_gradients(segment_attention, moved, there, RULES[rule])]
    exact = [t.bfloat16().double() for t in inputs]
    _assert_equal(found, [t.float() for t in _with_gradients(plain, exact, here, RULES[rule])], 0.03)


@pytest.mark.gpu
def test_on_a_gpu_gradients_are_bitwise_the_same_every_time():
    segments = Segments([700, 3, 1500, 90], "cuda")
    inputs = _inputs(segments, 8, 2, device="cuda", dtype=torch.bfloat16)
    first = _with_gradients(segment_attention, inputs, segments, RULES["causal"])
    for _ in range(5):
        again = _with_gradients(segment_attention, inputs, segments, RULES["causal"])
        assert all(torch.equal(*pair) for pair in zip(first, again, strict=True))
