"""One optimizer step: the same gradients however rows are cut into passes, and no bad number ever reaches a weight."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import tiny_models
import tiny_runs
from tunesmith.data.pack import pack
from tunesmith.data.table import IGNORED, TokenTable
from tunesmith.method import Method
from tunesmith.methods.full import Full
from tunesmith.methods.lora import LoRA
from tunesmith.methods.prefix import PrefixTuning
from tunesmith.methods.prompt import Prompt
from tunesmith.methods.ptuning import PTuning
from tunesmith.model import virtual_tokens
from tunesmith.model.batch import Batch
from tunesmith.model.forward import Forward, PackedForward, PaddedForward
from tunesmith.model.once_a_step import Made
from tunesmith.strategy import Strategy
from tunesmith.training.gradients import Learner, Pass
from tunesmith.training.optimizer import FlatAdamW
from tunesmith.training.step import Update, take_step


def _cut(table: TokenTable, rows_per_pass: int) -> list[Batch]:
    return [pack(table, np.arange(i, i + rows_per_pass)) for i in range(0, len(table), rows_per_pass)]


def _accumulated(forward: Forward, optimizer: FlatAdamW, batches: list[Batch]) -> tuple[float, Tensor]:
    loss = Learner(forward, optimizer).accumulate([Pass(batch, 0) for batch in batches]).item()
    gradients = torch.cat([group.gradients for group in optimizer._groups]).clone()
    optimizer.forget()
    return loss, gradients


def _assert_same(one: tuple[float, Tensor], other: tuple[float, Tensor], tolerance: float = 5e-6) -> None:
    """Equal but for float32 sums in another order: up to 1.1e-6 was seen, and a row too few is a thousand times outside."""
    assert one[0] == pytest.approx(other[0], rel=tolerance)
    assert (one[1] - other[1]).norm() <= tolerance * other[1].norm()


CASES = [("llama", "causal"), ("gpt2", "causal"), ("bert", "classification"), ("llama", "classification")]


@pytest.mark.parametrize("method", [Full(), LoRA(rank=2)], ids=["full", "lora"])
@pytest.mark.parametrize(("name", "task"), CASES)
@pytest.mark.parametrize("kind", [PackedForward, PaddedForward])
def test_rows_times_passes(name: str, task: tiny_models.Task, method: Full | LoRA, kind: type[Forward]):
    table = tiny_runs.language_table() if task == "causal" else tiny_runs.class_table()
    forward, optimizer = tiny_runs.attached(method, name, task, kind=kind)
    assert len({batch.num_targets for batch in _cut(table, 1)}) > 1 or task == "classification", "unlike numbers of targets"
    whole = _accumulated(forward, optimizer, _cut(table, 8))
    assert whole[1].abs().max() > 0
    for rows_per_pass in (4, 2, 1):
        _assert_same(_accumulated(forward, optimizer, _cut(table, rows_per_pass)), whole)


def test_the_loss_is_the_mean_over_targets():
    table = tiny_runs.language_table()
    forward, optimizer = tiny_runs.attached(Full())
    each = torch.cat([forward.target_losses(batch) for batch in _cut(table, 1)])
    result = take_step(Learner(forward, optimizer), _cut(table, 2), Update(0.0, 1.0, [0] * 4))
    assert result.loss == pytest.approx(each.mean().item(), rel=1e-6)
    assert result.num_targets == len(each) == table.num_labelled
    assert result.num_tokens == table.num_tokens
    assert result.is_finite


def test_rows_without_targets_count_for_nothing():
    table = tiny_runs.language_table()
    first = pack(table, np.arange(4))
    empty = pack(TokenTable(table.input_ids, np.full_like(table.labels, IGNORED), table.offsets), np.arange(4))
    forward, optimizer = tiny_runs.attached(Full())
    alone = _accumulated(forward, optimizer, [first])
    both = _accumulated(forward, optimizer, [empty, first])
    assert alone[0] == both[0]
    assert torch.equal(alone[1], both[1])


def test_dropout_follows_the_seed_of_each_pass():
    table = tiny_runs.language_table()
    forward, optimizer = tiny_runs.attached(LoRA(rank=2, dropout=0.5))
    forward.model.train()
    batches = _cut(table, 4)

    def gradients(seeds: list[int]) -> Tensor:
        Learner(forward, optimizer).accumulate([Pass(*one) for one in zip(batches, seeds, strict=True)])
        found = torch.cat([group.gradients for group in optimizer._groups]).clone()
        optimizer.forget()
        return found

    torch.manual_seed(5)
    first = gradients([1, 2])
    torch.manual_seed(6)
    assert torch.equal(gradients([1, 2]), first)
    assert not torch.equal(gradients([1, 3]), first)


def test_a_long_gradient_is_clipped_and_a_short_one_is_not():
    table = tiny_runs.language_table()
    moments = []
    for clip in (1e9, 1e-3):
        forward, optimizer = tiny_runs.attached(Full())
        result = take_step(Learner(forward, optimizer), _cut(table, 8), Update(0.01, clip, [0]))
        assert result.gradient_norm > 1e-3, "the norm told is that before clipping"
        state = optimizer.state()
        lengths = [state[f"{i}.exp_avg"].norm().item() / 0.1 for i in range(len(optimizer._groups))]
        moments.append(sum(length**2 for length in lengths) ** 0.5)
    assert moments[0] == pytest.approx(result.gradient_norm, rel=1e-5)
    assert moments[1] == pytest.approx(1e-3, rel=1e-3)


# --- bad numbers -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bad(PackedForward):
    """A model whose loss is not finite."""

    factor: float = float("nan")

    def loss(self, batch: Batch) -> Tensor:
        return super().loss(batch) * self.factor


def _state(forward: Forward, optimizer: FlatAdamW) -> dict[str, Tensor]:
    return {**tiny_runs.weights(forward.model), **{n: t.clone() for n, t in optimizer.state().items()}}


UPDATE = Update(0.01, 1.0, [0, 0])


@pytest.mark.parametrize("method", [Full(), LoRA(rank=2)], ids=["full", "lora"])
@pytest.mark.parametrize("factor", [float("nan"), float("inf"), -float("inf")])
def test_a_loss_that_is_not_finite_changes_nothing(method: Full | LoRA, factor: float):
    batches = _cut(tiny_runs.language_table(), 4)
    forward, optimizer = tiny_runs.attached(method)
    take_step(Learner(forward, optimizer), batches, UPDATE)  # so that there are moments to spoil
    before = _state(forward, optimizer)
    result = take_step(Learner(Bad(forward.model, factor=factor), optimizer), batches, UPDATE)
    assert not result.is_finite
    assert tiny_runs.same(_state(forward, optimizer), before)
    _goes_on_as_if_nothing_had_happened(forward, optimizer, method, batches)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_a_gradient_that_is_not_finite_changes_nothing(bad: float, stored: torch.dtype):
    batches = _cut(tiny_runs.language_table(), 4)
    model = tiny_models.build("llama")
    names = {n: stored for n, _ in model.named_parameters()}
    optimizer = FlatAdamW(model.named_parameters(), 0.01, names)
    forward = PackedForward(model)
    take_step(Learner(forward, optimizer), batches, UPDATE)
    before = _state(forward, optimizer)
    weight = model.get_parameter("model.layers.1.mlp.up_proj.weight")
    handle = weight.register_hook(lambda gradient: gradient.index_fill(0, torch.tensor([3]), bad))
    result = take_step(Learner(forward, optimizer), batches, UPDATE)
    handle.remove()
    assert np.isfinite(result.loss)
    assert not np.isfinite(result.gradient_norm)
    assert tiny_runs.same(_state(forward, optimizer), before)
    assert optimizer.gradient_norm() == 0.0, "nothing is left over for the next step"
    assert weight.grad is None or weight.grad.abs().max() == 0


def _goes_on_as_if_nothing_had_happened(
    forward: Forward, optimizer: FlatAdamW, method: Full | LoRA, batches: list[Batch]
) -> None:
    take_step(Learner(forward, optimizer), batches, UPDATE)
    other, other_optimizer = tiny_runs.attached(method)
    for _ in range(2):
        take_step(Learner(other, other_optimizer), batches, UPDATE)
    assert tiny_runs.same(_state(forward, optimizer), _state(other, other_optimizer))


# --- strategies ------------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class Shrink(Strategy):
    """Pulls trained weights towards zero."""

    name = "shrink"
    paper = "none"
    calls: int = 0

    def loss(self, model: nn.Module) -> Tensor | None:
        if not self.strength:
            return None
        return self.strength * torch.stack([(p.float() ** 2).sum() for p in model.parameters() if p.requires_grad]).sum()

    def after_step(self, model: nn.Module) -> None:
        self.calls += 1


def test_a_strategys_penalty_is_added_once_however_many_passes():
    table = tiny_runs.language_table()
    moments = []
    for rows_per_pass in (8, 1):
        forward, optimizer = tiny_runs.attached(Full())
        batches = _cut(table, rows_per_pass)
        take_step(Learner(forward, optimizer), batches, Update(0.01, 1e9, [0] * len(batches)), [Shrink(strength=0.1)])
        moments.append(optimizer.state()["0.exp_avg"])
    torch.testing.assert_close(*moments, rtol=1e-5, atol=1e-7)
    forward, optimizer = tiny_runs.attached(Full())
    take_step(Learner(forward, optimizer), _cut(table, 8), Update(0.01, 1e9, [0]))
    assert not torch.allclose(moments[0], optimizer.state()["0.exp_avg"], rtol=1e-3)


def test_strength_zero_is_bitwise_none():
    results = []
    for strategies in ([], [Shrink(strength=0.0)]):
        forward, optimizer = tiny_runs.attached(LoRA(rank=2))
        take_step(Learner(forward, optimizer), _cut(tiny_runs.language_table(), 4), UPDATE, strategies)
        results.append(_state(forward, optimizer))
    assert tiny_runs.same(*results)


@pytest.mark.parametrize(("strength", "calls"), [(1.0, 1), (float("nan"), 0)])
def test_a_strategy_sees_good_steps_only(strength: float, calls: int):
    forward, optimizer = tiny_runs.attached(LoRA(rank=2))
    before, strategy = tiny_runs.weights(forward.model), Shrink(strength=strength)
    result = take_step(Learner(forward, optimizer), _cut(tiny_runs.language_table(), 4), UPDATE, [strategy])
    assert (strategy.calls, result.is_finite) == (calls, bool(calls))
    assert tiny_runs.same(tiny_runs.weights(forward.model), before) == (not calls)


class _Reads(TorchDispatchMode):
    """Counts numbers that are read off tensors; on a GPU each waits for all work to be done."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_no_number_is_read_while_passes_are_computed():
    forward, optimizer = tiny_runs.attached(LoRA(rank=2), task="classification")
    batches = _cut(tiny_runs.class_table(), 2)
    assert len(batches) > 2
    learner, seeds = Learner(forward, optimizer), range(len(batches))
    with _Reads() as reads:
        torch.ones(()).item()
        assert reads.count == 1, "this would be seen"
        learner.accumulate([Pass(*one) for one in zip(batches, seeds, strict=True)])
    assert reads.count == 1


SOFT = [(PTuning(num_tokens=4), "llama", "causal"), (PTuning(num_tokens=4, encoder="lstm"), "bert", "classification")]
SOFT += [(PrefixTuning(num_tokens=4, hidden=8), "llama", "causal"), (Prompt(num_tokens=4), "llama", "causal")]


@pytest.mark.parametrize(("method", "name", "task"), SOFT, ids=str)
def test_virtual_tokens_are_made_once_a_step(method: Method, name: str, task: tiny_models.Task):
    """However many passes a step has, and with the same gradients."""
    table = tiny_runs.language_table() if task == "causal" else tiny_runs.class_table()
    forward, optimizer = tiny_runs.attached(method, name, task)
    calls = []
    virtual_tokens.find(forward.model)[1].register_forward_hook(lambda *_: calls.append(1))
    whole = _accumulated(forward, optimizer, _cut(table, 8))
    assert whole[1].abs().max() > 0
    assert len(calls) == 1
    _assert_same(_accumulated(forward, optimizer, _cut(table, 2)), whole)
    assert len(calls) == 2
    forward.target_losses(_cut(table, 8)[0])
    assert len(calls) == 3, "what a step has made is not used after it"


@pytest.mark.parametrize("method", [Prompt(num_tokens=4), PTuning(num_tokens=4)], ids=["prompt", "ptuning"])
def test_virtual_tokens_before_a_decoder_go_through_its_layers_once_a_step(method: Method):
    forward, optimizer = tiny_runs.attached(method, "llama", "causal")
    tokens, passes = tiny_runs.TokensOfALayer(forward.model), _cut(tiny_runs.language_table(), 2)
    _accumulated(forward, optimizer, passes)
    assert len(passes) > 2
    assert tokens.count == sum(len(one.input_ids) for one in passes if one.num_targets) + 4


def test_where_a_window_hides_virtual_tokens_every_pass_computes_them():
    """How many a word sees depends on its place, which keys and values alone do not tell."""
    forward, optimizer = tiny_runs.attached(Prompt(num_tokens=4), "gemma3", "causal")
    table = tiny_runs.language_table()
    whole, passes = _accumulated(forward, optimizer, _cut(table, 8)), _cut(table, 2)
    tokens = tiny_runs.TokensOfALayer(forward.model)
    _assert_same(_accumulated(forward, optimizer, passes), whole)
    assert tokens.count == sum(len(one.input_ids) + 4 for one in passes if one.num_targets)


def test_nor_do_they_where_rotary_embedding_depends_on_the_length():
    forward, optimizer = tiny_runs.attached(Prompt(num_tokens=4), "llama", "causal")
    forward.model.config.rope_parameters = {**forward.model.config.rope_parameters, "rope_type": "dynamic", "factor": 2.0}
    tokens, passes = tiny_runs.TokensOfALayer(forward.model), _cut(tiny_runs.language_table(), 2)
    _accumulated(forward, optimizer, passes)
    assert tokens.count == sum(len(one.input_ids) + 4 for one in passes if one.num_targets)


@pytest.mark.parametrize("reentrant", [False, True])
def test_virtual_tokens_of_layers_that_recompute(reentrant: bool):
    forward, optimizer = tiny_runs.attached(Prompt(num_tokens=4), "llama", "causal")
    passes = _cut(tiny_runs.language_table(), 2)
    plain = _accumulated(forward, optimizer, passes)
    model = forward.model.train()
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": reentrant})
    _assert_same(_accumulated(forward, optimizer, passes), plain)


def test_gradients_of_many_passes_are_added_up_exactly():
    """In 16 bits the sum of equal terms would stop at 256."""

    class Maker(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.vectors = nn.Parameter(torch.ones(2))

        def forward(self) -> Tensor:
            return self.vectors.bfloat16()

    maker = Maker()
    made = Made(maker)
    for _ in range(512):
        copies = made.copies()
        assert isinstance(copies, Tensor)
        copies.bfloat16().sum().backward()
    made.backward()
    assert maker.vectors.grad is not None
    assert maker.vectors.grad.tolist() == [512.0, 512.0]
