"""What a profile says is what was done: times add up, operations equal the formula, kept memory a count by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import tiny_runs
from tiny_runs import PLAN
from tunesmith.methods.full import Full
from tunesmith.methods.lora import LoRA
from tunesmith.model.batch import Batch
from tunesmith.training import profile
from tunesmith.training.profile import NUM_STEPS, WARM_UP, StepCounter, StepTimer

DEVICE = torch.device("cpu")


def _timed(folder: Path, num_steps: int) -> StepTimer:
    loop = tiny_runs.loop(folder, replace(PLAN, num_steps=num_steps))
    timer = StepTimer()
    loop.measuring = timer.measuring
    loop.run()
    return timer


def test_the_parts_add_up_to_the_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    clock = iter(range(10_000))
    monkeypatch.setattr(profile.time, "perf_counter", lambda: float(next(clock)))
    steps = _timed(tmp_path, 3).steps
    # One lap a tick: data, (forward, head, backward, optimizer) for each pass, rest, optimizer, rest.
    assert list(steps) == [2]
    seconds = steps[2]
    num_passes = seconds["forward"]
    assert num_passes >= 1
    rest, optimizer = seconds["rest"], seconds["optimizer"]
    assert (seconds["head"], seconds["backward"], optimizer) == (num_passes, num_passes, num_passes + 1)
    assert seconds["data"] == 1
    assert rest >= 2


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


def _counted(method: Full | LoRA, batch: Batch) -> tuple[StepCounter, nn.Module]:
    forward, optimizer = tiny_runs.attached(method)
    counter = StepCounter()
    counter.count(forward, [batch], optimizer)
    return counter, forward.model


def _batch(num_tokens: int = 12) -> Batch:
    ids = torch.arange(8, 8 + num_tokens)
    positions = torch.arange(num_tokens)
    return Batch(input_ids=ids, lengths=[num_tokens], targets=ids, positions=positions, num_real_tokens=num_tokens)


def _linear_weights(model: nn.Module) -> int:
    body = model.base_model
    assert isinstance(body, nn.Module)
    return sum(m.weight.numel() for m in body.modules() if isinstance(m, nn.Linear))


def test_operations_of_a_full_step_equal_the_formula():
    batch = _batch()
    counter, model = _counted(Full(), batch)
    tokens, weights = len(batch.input_ids), _linear_weights(model)
    config = model.config
    width = config.head_dim * config.num_attention_heads
    attention = 2 * 2 * tokens * tokens * width * config.num_hidden_layers  # scores, and weights times values
    head = 2 * tokens * config.vocab_size * config.hidden_size
    assert counter.flop["forward"] == 2 * tokens * weights + attention
    assert counter.flop["head"] == 3 * head, "logits, the gradient of the states and that of the weight"
    assert counter.flop["data"] == counter.flop["optimizer"] == 0
    assert counter.flop["backward"] == 2 * counter.flop["forward"], "a gradient for each of the two factors"
