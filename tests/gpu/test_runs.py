"""Whole runs on a GPU: from the command line, resumed to bitwise the same weights, and beside the same run on a processor."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import run_data
import tiny_runs
from tunesmith.commands import main
from tunesmith.data.pack import pack
from tunesmith.methods.full import Full
from tunesmith.methods.lora import LoRA
from tunesmith.reports.result import RunResult
from tunesmith.training.gradients import Learner, Pass
from tunesmith.training.loop import Loop, State
from tunesmith.training.precision import store_rest

pytestmark = pytest.mark.gpu


def _fit(folder: Path, data: Path, model: Path, *more: str) -> RunResult:
    words = ["fit", str(data), "--model", str(model), "--out", str(folder / "run"), "--steps", "4", "--quiet"]
    assert main([*words, "--learning-rate", "0.01", "--patience", "0", *more]) == 0
    result = RunResult.load(folder / "run")
    assert result.status == "finished"
    return result


@pytest.mark.parametrize("method", ["lora", "full", "adapter", "prefix", "prompt", "ptuning", "ia3", "qlora"])
def test_every_kind_of_method_from_the_command_line(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tunesmith.reports.figures.draw", lambda *_: "<svg></svg>")
    model, data = run_data.save_model(tmp_path / "llama", "llama"), run_data.write_chats(tmp_path / "chats.jsonl")
    result = _fit(tmp_path, data, model, "--method", method)
    assert result.settings["training"]["precision"] == "bfloat16"
    assert torch.cuda.is_initialized()


@pytest.mark.parametrize(("name", "task"), [("bert", "classification"), ("t5", "seq2seq")])
def test_other_tasks_from_the_command_line(name: str, task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tunesmith.reports.figures.draw", lambda *_: "<svg></svg>")
    model = run_data.save_model(tmp_path / name, name)
    if name == "bert":
        data = run_data.write_reviews(tmp_path / "rows.csv")
    else:
        data = run_data.write_translations(tmp_path / "rows.jsonl")
    _fit(tmp_path, data, model, "--task", task)


def _loop(folder: Path, dtype: torch.dtype) -> Loop:
    folder.mkdir()
    loop = tiny_runs.loop(folder, replace(tiny_runs.PLAN, checkpoint_every_steps=1), device="cuda")
    if dtype != torch.float32:
        store_rest(loop.forward.model, dtype)
    return loop


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("step", [1, 4])
def test_a_resumed_run_is_bitwise_the_undisturbed_one(step: int, dtype: torch.dtype, tmp_path: Path):
    whole = _loop(tmp_path / "whole", dtype)
    whole.run()
    saved = whole.keeper.saved[step]  # type: ignore[attr-defined]
    again = _loop(tmp_path / "again", dtype)
    again.optimizer.load_state({name: tensor.cpu() for name, tensor in saved.tensors.items()})
    again.state = State(**saved.state)
    again.run()
    assert again.state.step == whole.state.step
    assert tiny_runs.same(tiny_runs.weights(again.forward.model), tiny_runs.weights(whole.forward.model))


@pytest.mark.parametrize("method", [LoRA(rank=2), Full()], ids=["lora", "full"])
def test_gradients_are_those_of_a_processor(method: LoRA | Full):
    found = []
    for device in ("cpu", "cuda"):
        forward, optimizer = tiny_runs.attached(method, device=device)
        batch = pack(tiny_runs.language_table(), np.arange(8)).to(torch.device(device))
        loss = Learner(forward, optimizer).accumulate([Pass(batch, 0)]).item()
        found.append((loss, torch.cat([group.gradients for group in optimizer._groups]).cpu()))
    (loss, gradients), (other_loss, other) = found
    assert other_loss == pytest.approx(loss, rel=1e-5)
    assert (other - gradients).norm() <= 1e-4 * gradients.norm()


def test_passes_are_computed_without_waiting():
    forward, optimizer = tiny_runs.attached(LoRA(rank=2), device="cuda")
    store_rest(forward.model, torch.bfloat16)  # or attention goes row by row
    batches = [pack(tiny_runs.language_table(), np.arange(i, i + 4)).to(torch.device("cuda")) for i in (0, 4)]
    learner = Learner(forward, optimizer)
    learner.accumulate([Pass(batches[0], 0)]).item()  # kernels are built
    torch.cuda.set_sync_debug_mode("error")
    try:
        learner.accumulate([Pass(batch, 0) for batch in batches])
    finally:
        torch.cuda.set_sync_debug_mode("default")
