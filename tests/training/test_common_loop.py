"""Runs that learn in common passes end where they would have ended alone, whenever the others end."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

import tiny_models
import tiny_runs
from tunesmith.errors import TrainingDiverged
from tunesmith.methods.lora import LoRA
from tunesmith.model import many
from tunesmith.model.forward import PackedForward
from tunesmith.training.common_loop import CommonLoop
from tunesmith.training.log import MetricsLog
from tunesmith.training.loop import Loop, Plan
from tunesmith.training.optimizer import FlatAdamW
from tunesmith.training.schedule import Schedule
from tunesmith.watch import Watch

METHODS = (LoRA(rank=2), LoRA(rank=6, b_rate=2.0), LoRA(rank=2))
PLANS = (
    tiny_runs.PLAN,
    replace(tiny_runs.PLAN, num_steps=3, schedule=Schedule(peak=0.001, num_steps=3, warmup_steps=0)),
    replace(tiny_runs.PLAN, rows_per_step=2, clip_norm=0.1, seed=8),
)
"""The second ends early, the third learns from other rows."""


def _loop(forward: PackedForward, number: int, folder: Path, plan: Plan) -> Loop:
    torch.manual_seed(number)
    METHODS[number].attach(forward.model)
    optimizer = FlatAdamW(forward.model.named_parameters(), 0.01, rate_of=METHODS[number].rate_of)
    folder.mkdir(parents=True)
    watch: Watch = tiny_runs.Silent()
    keeper = tiny_runs.FakeKeeper(optimizer)
    return Loop(forward, tiny_runs.language_table(), optimizer, plan, keeper, MetricsLog(folder), watch)


def _common(folder: Path, plans: tuple[Plan, ...] = PLANS, *, name: str = "llama") -> CommonLoop:
    base = PackedForward(tiny_models.build(name))
    loops = [_loop(many.twin(base), number, folder / str(number), plan) for number, plan in enumerate(plans)]
    return CommonLoop(many.together(base, [loop.forward for loop in loops]), loops, tokens_per_pass=30)  # pyright: ignore


def _alone(folder: Path, number: int, *, name: str = "llama") -> Loop:
    loop = _loop(PackedForward(tiny_models.build(name)), number, folder / f"{number}-alone", PLANS[number])
    loop.run()
    return loop


def _assert_same(loop: Loop, alone: Loop) -> None:
    found: dict[str, Tensor] = loop.optimizer.trained()
    for name, expected in alone.optimizer.trained().items():
        # 1 % of a step: where a gradient is next to nothing, AdamW makes whole steps of its rounding.
        torch.testing.assert_close(found[name], expected, rtol=0, atol=1e-5)
    assert (loop.state.step, loop.state.tokens) == (alone.state.step, alone.state.tokens)
    assert loop.state.stop_reason == alone.state.stop_reason


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_all_end_where_they_would_have_ended_alone(tmp_path: Path, name: str):
    common = _common(tmp_path, name=name)
    before = [loop.optimizer.trained() for loop in common.loops]
    starts = [{name: tensor.clone() for name, tensor in trained.items()} for trained in before]
    common.run()
    assert [loop.state.step for loop in common.loops] == [6, 3, 6]
    for number, (loop, start) in enumerate(zip(common.loops, starts, strict=True)):
        assert max((loop.optimizer.trained()[n] - start[n]).abs().max().item() for n in start) > 5e-4, "it has learnt"
        _assert_same(loop, _alone(tmp_path, number, name=name))


def test_one_that_diverges_leaves_the_others_alone(tmp_path: Path):
    common = _common(tmp_path)
    with torch.no_grad():
        common.loops[1].optimizer.trained()["model.layers.0.self_attn.q_proj.a"].fill_(torch.inf)
    common.run()
    assert list(common.diverged) == [1]
    assert isinstance(common.diverged[1], TrainingDiverged)
    for number in (0, 2):
        _assert_same(common.loops[number], _alone(tmp_path, number))


def test_an_early_stop_leaves_the_others_alone(tmp_path: Path):
    plans = (replace(PLANS[0], evaluate_every=1, patience=1), *PLANS[1:])
    common = _common(tmp_path, plans)
    common.loops[0].keeper.ranks = [1.0, 2.0]  # pyright: ignore[reportAttributeAccessIssue]
    common.run()
    assert "early stop" in common.loops[0].state.stop_reason
    assert common.loops[0].state.step == 2
    for number in (1, 2):
        _assert_same(common.loops[number], _alone(tmp_path, number))


def test_the_time_is_shared_out_by_tokens(tmp_path: Path):
    common = _common(tmp_path)
    common.run()
    speeds = [loop.state.tokens / loop.state.seconds for loop in common.loops]
    assert all(loop.state.seconds > 0 for loop in common.loops)
    assert max(speeds) < 10 * min(speeds)
