"""What a profile says is what was done: times add up, operations equal the formula, kept memory a count by hand."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

import tiny_runs
from tiny_runs import PLAN
from tunesmith.data.order import Order
from tunesmith.methods.full import Full
from tunesmith.methods.lora import LoRA
from tunesmith.model import anatomy
from tunesmith.model.batch import Batch
from tunesmith.model.forward import PackedForward
from tunesmith.training import profile
from tunesmith.training.gradients import Learner
from tunesmith.training.loop import batches_of
from tunesmith.training.profile import NUM_STEPS, WARM_UP, StepCounter, StepTimer


def _timed(folder: Path, num_steps: int) -> StepTimer:
    loop = tiny_runs.loop(folder, replace(PLAN, num_steps=num_steps))
    timer = StepTimer()
    loop.measuring = timer.measuring
    loop.run()
    return timer


def test_the_parts_add_up_to_the_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Read from a clock that ticks once a reading, every lap is one second and nothing is left out."""
    ticks = itertools.count()
    monkeypatch.setattr(profile.time, "perf_counter", lambda: float(next(ticks)))
    loop = tiny_runs.loop(tmp_path, replace(PLAN, num_steps=3))
    timer = StepTimer()
    loop.measuring = timer.measuring
    loop.run()
    passes_of_step = len(batches_of(loop.table, Order(len(loop.table), 3, PLAN.seed).rows(2), PLAN, loop.forward))
    one_each = float(passes_of_step)
    assert timer.steps[2] == {
        "data": 1.0,
        "forward": one_each,
        "head": one_each,
        "backward": one_each,
        "optimizer": one_each + 1,  # collecting after each pass, and the update
        "rest": 2.0,
    }


@pytest.mark.parametrize(("num_steps", "expected"), [(1, [0]), (2, [0, 1]), (3, [2]), (6, [2, 3, 4, 5])])
def test_which_steps_are_timed(tmp_path: Path, num_steps: int, expected: list[int]):
    assert list(_timed(tmp_path, num_steps).steps) == expected


def test_later_steps_are_left_alone(tmp_path: Path):
    assert list(_timed(tmp_path, 20).steps) == list(range(WARM_UP, WARM_UP + NUM_STEPS))


def test_no_hook_stays(tmp_path: Path):
    loop = tiny_runs.loop(tmp_path)
    before = len(loop.forward.model.base_model._forward_hooks)
    loop.measuring = StepTimer().measuring
    loop.run()
    assert len(loop.forward.model.base_model._forward_hooks) == before


def _counted(method: Full | LoRA, num_tokens: int = 12) -> tuple[StepCounter, PreTrainedModel]:
    forward, optimizer = tiny_runs.attached(method)
    counter = StepCounter()
    counter.count(Learner(forward, optimizer), [_batch(num_tokens)])
    return counter, forward.model


def _batch(num_tokens: int) -> Batch:
    ids, positions = torch.arange(8, 8 + num_tokens), torch.arange(num_tokens)
    return Batch(input_ids=ids, lengths=[num_tokens], targets=ids, positions=positions, num_real_tokens=num_tokens)


def _body_flop(model: PreTrainedModel, num_tokens: int) -> int:
    """2 for each weight and token, and the products of attention: scores, and weights times values."""
    config, body = model.config, model.base_model
    weights = sum(m.weight.numel() for m in body.modules() if isinstance(m, nn.Linear))
    return 2 * num_tokens * weights + 2 * 2 * num_tokens**2 * config.hidden_size * config.num_hidden_layers


@pytest.mark.parametrize("num_tokens", [5, 12])
def test_operations_of_a_full_step_equal_the_formula(num_tokens: int):
    counter, model = _counted(Full(), num_tokens)
    forward, head = _body_flop(model, num_tokens), 2 * num_tokens * model.config.vocab_size * model.config.hidden_size
    assert counter.flop == {
        "data": 0,
        "forward": forward,
        "head": 3 * head,  # logits, the gradient of the states and that of the weight
        "backward": 2 * forward,  # a gradient for each of the two factors
        "optimizer": 0,
        "rest": 0,
    }


def test_operations_of_in_place_kernels_are_counted():
    """LoRA's kernels add into their outputs, which torch's own counter does not see."""
    counter, model = _counted(LoRA(rank=2))
    base = sum(p.numel() for n, p in model.base_model.named_parameters() if p.ndim == 2 and not p.requires_grad)
    embeddings = sum(p.numel() for p in model.get_input_embeddings().parameters())
    adapters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    attention = 2 * 2 * 12**2 * model.config.hidden_size * model.config.num_hidden_layers
    assert counter.flop["forward"] == 2 * 12 * (base - embeddings + adapters) + attention


class Rectified(PackedForward):
    """Loss = sum of relu(x Wt) for states x that were there before."""

    states = torch.ones(40, 32)

    def loss(self, batch: Batch) -> Tensor:
        head = self.model.get_output_embeddings()
        assert head is not None
        return torch.relu(self.states[: len(batch.input_ids)] @ anatomy.linear_weight(head).t()).view(-1).sum()


def test_what_is_kept_is_counted_once_and_by_hand():
    """relu keeps its result, (tokens, vocabulary) in float32; the product before it, the view and the states do not count."""
    forward, optimizer = tiny_runs.attached(Full(), kind=Rectified)
    counter = StepCounter()
    counter.count(Learner(forward, optimizer), [_batch(7), _batch(20), _batch(5)])
    kept = 20 * forward.model.config.vocab_size * 4
    scalars = 4 * 8  # the loss and what it was divided by
    assert kept <= counter.kept_bytes <= kept + scalars


def test_counting_moves_nothing():
    forward, optimizer = tiny_runs.attached(LoRA(rank=2, dropout=0.2))
    before = {name: t.clone() for name, t in optimizer.state().items()}
    StepCounter().count(Learner(forward, optimizer), [_batch(12)])
    assert tiny_runs.same(optimizer.state(), before)
    assert optimizer.gradient_norm() == 0.0


def test_the_limit_is_a_rate_of_this_machine():
    counter, _ = _counted(Full())
    assert 1e7 < counter.limit(torch.float32, torch.device("cpu")) < 1e15
    assert StepCounter().limit(torch.float32, torch.device("cpu")) == 0.0
