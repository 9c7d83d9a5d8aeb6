"""The story of a run: when it evaluates, saves, stops - and that it can stop anywhere and go on bitwise the same."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import tiny_runs
from tiny_runs import PLAN, FakeKeeper, Silent
from tunesmith.errors import TrainingDiverged
from tunesmith.methods.full import Full
from tunesmith.methods.lora import LoRA
from tunesmith.model.batch import Batch
from tunesmith.model.forward import PackedForward
from tunesmith.model.trial import sharing
from tunesmith.training import loop as loop_module
from tunesmith.training.gradients import Learner
from tunesmith.training.log import FILE_NAME, MetricsLog
from tunesmith.training.loop import Evaluation, Loop, Plan, State
from tunesmith.training.step import take_step

SHORT = replace(PLAN, num_steps=4)


def _run(folder: Path, plan: Plan, ranks: list[float] | None = None) -> tuple[State, FakeKeeper, Loop]:
    loop = tiny_runs.loop(folder, plan, method=LoRA(rank=2))
    keeper = FakeKeeper(loop.optimizer, ranks or [])
    loop.keeper = keeper
    return loop.run(), keeper, loop


def _lines(folder: Path, kind: str) -> list[dict[str, Any]]:
    records = [json.loads(line) for line in (folder / FILE_NAME).read_text().splitlines()]
    return [record for record in records if record["kind"] == kind]


# --- when to evaluate and save ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("every", "expected"), [(2, [2, 4]), (3, [3, 4]), (100, [4]), (1, [1, 2, 3, 4])], ids=["2", "3", "never", "always"]
)
def test_evaluations_are_at_their_steps_and_at_the_end(tmp_path: Path, every: int, expected: list[int]):
    state, keeper, _ = _run(tmp_path, replace(SHORT, evaluate_every=every))
    assert [record["step"] for record in _lines(tmp_path, "evaluation")] == expected
    assert list(keeper.saved) == expected
    assert (state.step, state.stop_reason) == (4, "all steps done")


def test_a_checkpoint_every_so_many_steps(tmp_path: Path):
    _, keeper, _ = _run(tmp_path, replace(PLAN, checkpoint_every_steps=2, evaluate_every=3))
    assert list(keeper.saved) == [2, 3, 5, 6], "counted from the last one, whatever it was for"


def test_a_checkpoint_every_so_many_seconds(tmp_path: Path):
    _, keeper, _ = _run(tmp_path, replace(SHORT, checkpoint_every_seconds=0.0))
    assert list(keeper.saved) == [1, 2, 3, 4]


def test_every_step_is_told(tmp_path: Path):
    state, _, loop = _run(tmp_path, SHORT)
    lines = _lines(tmp_path, "step")
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert lines[-1]["tokens"] == state.tokens
    assert [line["learning_rate"] for line in lines] == [SHORT.schedule.learning_rate(i) for i in range(4)]
    for line in lines:
        assert line["gradient_norm"] > 0
        assert line["labelled"] > 0
        assert line["memory_bytes"] > 2**20
    assert isinstance(loop.watch, Silent)
    assert [(p.done, p.total) for p in loop.watch.steps] == [(i, 4) for i in (1, 2, 3, 4)]


def test_an_epoch_sees_every_token_once(tmp_path: Path):
    table = tiny_runs.language_table()
    state, _, _ = _run(tmp_path, replace(PLAN, num_steps=3))
    assert state.tokens == table.num_tokens


# --- the best, and when to stop --------------------------------------------------------------------------------


def test_the_best_is_remembered_and_marked(tmp_path: Path):
    state, keeper, _ = _run(tmp_path, replace(PLAN, evaluate_every=1), [5.0, 3.0, 4.0, 2.0, 2.0, 6.0])
    assert (state.best_step, state.best_rank, state.evaluations_since_best) == (4, [2.0], 2)
    assert [step for step, saved in keeper.saved.items() if saved.is_best] == [1, 2, 4]
    assert keeper.saved[3].state["best_step"] == 2, "what a checkpoint says of itself includes its own evaluation"
    assert keeper.saved[4].state["best_step"] == 4


@pytest.mark.parametrize(("patience", "last"), [(1, 3), (2, 4), (3, 6), (0, 6)])
def test_patience(tmp_path: Path, patience: int, last: int):
    ranks = [5.0, 3.0, 4.0, 4.0, 2.0, 6.0]
    state, _, _ = _run(tmp_path, replace(PLAN, evaluate_every=1, patience=patience), ranks)
    assert state.step == last
    early = "early stop: no improvement in" in state.stop_reason
    assert early == (last < 6)
    assert _lines(tmp_path, "event")[-1]["message"] == f"stopped: {state.stop_reason}"


def test_a_first_evaluation_that_is_no_number_is_not_the_best_for_ever(tmp_path: Path):
    state, keeper, _ = _run(tmp_path, replace(PLAN, evaluate_every=2), [float("nan"), 3.0, 4.0])
    assert (state.best_step, state.best_rank) == (4, [3.0])
    assert keeper.saved[4].is_best


def test_a_later_evaluation_that_is_no_number_is_no_improvement(tmp_path: Path):
    state, _, _ = _run(tmp_path, replace(PLAN, evaluate_every=2), [3.0, float("nan"), 4.0])
    assert (state.best_step, state.evaluations_since_best) == (2, 2)


def test_time_is_up(tmp_path: Path):
    state, keeper, _ = _run(tmp_path, replace(PLAN, max_seconds=0.0))
    assert (state.step, state.stop_reason) == (1, "time limit of 0 s")
    assert list(keeper.saved) == [1], "evaluated and saved before it ends"
    assert keeper.evaluated == 1


def test_evaluations_are_not_on_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    clock = itertools.count()
    monkeypatch.setattr(loop_module.time, "perf_counter", lambda: float(next(clock)))
    state, _, _ = _run(tmp_path, replace(PLAN, evaluate_every=1, max_seconds=3.0))
    assert (state.step, state.seconds) == (3, 3.0)


def test_a_run_that_was_done_takes_no_step(tmp_path: Path):
    loop = tiny_runs.loop(tmp_path)
    before = tiny_runs.weights(loop.forward.model)
    loop.state = State(step=3, stop_reason="early stop")
    assert loop.run().step == 3
    assert tiny_runs.same(tiny_runs.weights(loop.forward.model), before)


# --- bad numbers -----------------------------------------------------------------------------------------------


class BadSometimes(PackedForward):
    """A model whose loss is NaN in the passes counted in `bad`."""

    count = 0
    bad: tuple[int, ...] = ()

    def loss(self, batch: Batch) -> Tensor:
        kind = type(self)
        kind.count += 1
        return super().loss(batch) * (float("nan") if kind.count in kind.bad else 1.0)


def _bad_loop(folder: Path, bad: tuple[int, ...]) -> Loop:
    loop = tiny_runs.loop(folder, replace(PLAN, tokens_per_pass=1000), method=LoRA(rank=2))
    BadSometimes.count, BadSometimes.bad = 0, bad
    loop.learner = Learner(BadSometimes(loop.forward.model), loop.optimizer)
    return loop


def test_a_bad_step_is_left_out_and_told(tmp_path: Path):
    loop = _bad_loop(tmp_path, (2, 3, 5))
    state = loop.run()
    assert (state.step, state.bad_steps) == (6, 0)
    assert [event["step"] for event in _lines(tmp_path, "event")][:3] == [2, 3, 5]
    assert isinstance(loop.watch, Silent)
    assert [w.split(":")[0] for w in loop.watch.warnings] == ["step 2", "step 3", "step 5"]
    assert [line["loss"] is None for line in _lines(tmp_path, "step")] == [False, True, True, False, True, False]


def test_three_bad_steps_in_a_row_end_the_run_with_the_last_good_weights(tmp_path: Path):
    loop = _bad_loop(tmp_path, (3, 4, 5))
    with pytest.raises(TrainingDiverged, match=r"steps 3 to 5\. The weights are those of step 2\."):
        loop.run()
    assert loop.state.step == 5
    expected = tiny_runs.loop(tmp_path, replace(PLAN, num_steps=2, tokens_per_pass=1000), method=LoRA(rank=2))
    expected.run()
    assert tiny_runs.same(tiny_runs.weights(loop.forward.model), tiny_runs.weights(expected.forward.model))


# --- interruption and resumption -------------------------------------------------------------------------------


def test_an_interruption_finishes_the_step_and_saves(tmp_path: Path):
    loop = tiny_runs.loop(tmp_path)
    loop.should_stop = lambda: "SIGTERM" if loop.state.step == 2 else None
    state = loop.run()
    assert isinstance(loop.keeper, FakeKeeper)
    assert (state.step, state.stop_reason) == (2, ""), "no reason: it is to go on"
    assert list(loop.keeper.saved) == [2]
    assert loop.keeper.evaluated == 0


def test_an_interruption_at_an_evaluation_saves_once(tmp_path: Path):
    loop = tiny_runs.loop(tmp_path, replace(PLAN, evaluate_every=1))
    loop.should_stop = lambda: "SIGINT" if loop.state.step else None
    assert loop.run().step == 1
    assert isinstance(loop.keeper, FakeKeeper)
    assert (loop.keeper.evaluated, list(loop.keeper.saved)) == (1, [1])


class Stopping(FakeKeeper):
    """Is stopped in its first evaluation."""

    def evaluate(self) -> Evaluation | None:
        self.evaluated += 1
        return None if self.evaluated == 1 else Evaluation((1.0,), {"loss": 1.0})


@pytest.mark.parametrize("last", [False, True])
def test_an_interrupted_evaluation_is_made_when_the_run_goes_on(tmp_path: Path, last: bool):
    loop = tiny_runs.loop(tmp_path, replace(PLAN, num_steps=3 if last else 6, evaluate_every=3))
    keeper = loop.keeper = Stopping(loop.optimizer)
    loop.should_stop = lambda: "SIGINT" if keeper.evaluated == 1 else None
    assert loop.run().step == 3
    saved = keeper.saved[3]
    assert (saved.state["evaluated_step"], saved.is_best) == (0, False)
    assert not _lines(tmp_path, "evaluation")
    loop.state = State(**saved.state)  # type: ignore[arg-type]
    assert loop.run().stop_reason == "all steps done"
    assert [line["step"] for line in _lines(tmp_path, "evaluation")] == ([3] if last else [3, 6])
    assert keeper.saved[3].is_best


def test_the_end_is_told_once(tmp_path: Path):
    loop = tiny_runs.loop(tmp_path, SHORT)
    loop.run()
    loop.log = MetricsLog(tmp_path, resume_from=4)
    loop.run()
    assert [event["message"] for event in _lines(tmp_path, "event")] == ["stopped: all steps done"]


@pytest.mark.parametrize("method", [LoRA(rank=2, dropout=0.3), Full()], ids=["lora with dropout", "full"])
def test_going_on_from_any_step_is_bitwise_the_same(tmp_path: Path, method: LoRA | Full):
    plan = replace(PLAN, evaluate_every=2, patience=3, checkpoint_every_steps=1)
    ranks = [3.0, 2.0, 4.0]
    whole = tiny_runs.loop(tmp_path, plan, method=method)
    keeper = whole.keeper = FakeKeeper(whole.optimizer, ranks)
    end = whole.run()
    assert list(keeper.saved) == [1, 2, 3, 4, 5, 6]
    losses = [line["loss"] for line in _lines(tmp_path, "step")]
    for step, saved in keeper.saved.items():
        torch.manual_seed(step)  # whatever happened to the generator in between
        folder = tmp_path / str(step)
        folder.mkdir()
        (folder / FILE_NAME).write_text((tmp_path / FILE_NAME).read_text())
        again = tiny_runs.loop(folder, plan, method=method)
        again.optimizer.load_state(saved.tensors)
        again.state = State(**json.loads(json.dumps(saved.state)))
        again.keeper = FakeKeeper(again.optimizer, ranks[step // 2 :] or ranks[-1:])
        again.log = MetricsLog(folder, resume_from=step)
        result = again.run()
        assert tiny_runs.same(again.optimizer.state(), whole.optimizer.state()), step
        assert [line["loss"] for line in _lines(folder, "step")] == losses
        assert replace(result, seconds=0.0) == replace(end, seconds=0.0)
        assert [e["step"] for e in _lines(folder, "evaluation")] == [2, 4, 6]


def test_dropout_is_at_work_in_these_runs(tmp_path: Path):
    """Else the bitwise tests would prove less than they say."""
    losses = []
    for dropout in (0.0, 0.5):
        (folder := tmp_path / str(dropout)).mkdir()
        loop = tiny_runs.loop(folder, method=LoRA(rank=2, dropout=dropout))
        for name, parameter in loop.forward.model.named_parameters():
            if name.endswith(".b"):
                torch.nn.init.normal_(parameter.data)
        loop.run()
        losses.append([line["loss"] for line in _lines(folder, "step")])
    assert all(one != other for one, other in zip(*losses, strict=True))


def test_the_same_run_twice_is_bitwise_the_same(tmp_path: Path):
    loops = []
    for name in "ab":
        (tmp_path / name).mkdir()
        torch.manual_seed(ord(name))
        loops.append(tiny_runs.loop(tmp_path / name))
        loops[-1].run()
    assert tiny_runs.same(loops[0].optimizer.state(), loops[1].optimizer.state())


@pytest.mark.parametrize("num_processes", [1, 2])
def test_what_all_rows_begin_with_is_taken_apart(tmp_path: Path, num_processes: int, monkeypatch: pytest.MonkeyPatch):
    """And the run learns the same."""
    table = tiny_runs.table_that_begins_alike(num_words=40)
    plan = replace(PLAN, rows_per_step=4, tokens_per_pass=60, num_processes=num_processes)
    taken, losses = [], []
    monkeypatch.setattr(loop_module, "take_step", lambda *args: taken.append(args[1]) or take_step(*args))
    for shares in (False, True):
        (folder := tmp_path / str(shares)).mkdir()
        loop = tiny_runs.loop(folder, plan, method=LoRA(rank=2), table=table)
        loop.forward = sharing(loop.forward) if shares else loop.forward
        loop.learner.forward = loop.forward
        loop.run()
        losses.append([line["loss"] for line in _lines(folder, "step")])
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    plain, shared = taken[: len(taken) // 2], taken[len(taken) // 2 :]
    for one, other in zip(plain, shared, strict=True):
        computed = [sum(len(batch.input_ids) for batch in batches) for batches in (one, other)]
        assert computed[0] - computed[1] == 4 * 40
        assert all(batch.beginning is not None for batch in other)
        assert sum(b.num_real_tokens for b in one) == sum(b.num_real_tokens for b in other)
