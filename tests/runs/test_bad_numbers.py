"""A loss or gradient that is not a number never reaches the weights and is reported at its step."""

from __future__ import annotations

import json

import pytest

from tunesmith.checkpoint import folder as checkpoints
from tunesmith.model.safe_files import read_tensors
from tunesmith.reports.result import RunResult
from tunesmith.reports.usage import next_commands

NAN, INFINITE = "nan_loss", "infinite_gradient"
SLOW = pytest.mark.slow  # each fault is tried once without these


def _lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("fault", [pytest.param(NAN, marks=SLOW), INFINITE])
def test_one_bad_step_is_left_out(server, fit_words, tmp_path, fault):
    child = server.run(fit_words("run"), tmp_path, fault=(fault, "3"))
    assert child.code == 0, child.err
    (line,) = [line for line in child.err.splitlines() if "left out" in line]
    assert line.startswith("warning: step 3: loss ")
    assert {"kind": "event", "step": 3, "message": line.removeprefix("warning: ")} in _lines(tmp_path / "run")
    tensors = read_tensors(tmp_path / "run" / "adapter" / "adapter_model.safetensors")
    assert all(tensor.isfinite().all() for tensor in tensors.values())
    assert line.removeprefix("warning: ") in RunResult.load(tmp_path / "run").warnings


@pytest.mark.parametrize("fault", [NAN, pytest.param(INFINITE, marks=SLOW)])
def test_three_in_a_row_end_the_run(server, fit_words, tmp_path, fault):
    child = server.run(fit_words("run"), tmp_path, fault=(fault, "4", "99"))
    assert child.code == 1
    message = child.err.splitlines()[-1]
    assert "not finite in steps 4 to 6. The weights are those of step 3." in message
    assert "--learning-rate" in message
    folder = tmp_path / "run"
    result = RunResult.load(folder)
    assert (result.status, result.has_diverged) == ("failed", True)
    assert [command.line for command in next_commands(result, folder)] == [f"tunesmith show {folder}"], (
        "resume would fail again"
    )
    parent = folder / "checkpoints"
    good, bad = (checkpoints.load(parent, step).tensors["optimizer"] for step in checkpoints.steps(parent)[-2:])
    for name, tensor in bad.items():
        assert tensor.isfinite().all(), name
        assert tensor.equal(good[name]), f"{name} moved in a bad step"
    child = server.run(["resume", "run", "--quiet"], tmp_path)
    assert child.code == 0, child.err
    result = RunResult.load(folder)
    assert (result.status, result.has_diverged) == ("finished", False)
