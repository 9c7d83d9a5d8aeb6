"""A full disk: the last good checkpoint stays, the message says what to do, and with room the run goes on."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import pytest

from tunesmith.checkpoint import folder as checkpoints
from tunesmith.commands import main
from tunesmith.reports.result import RunResult

CHECKPOINT_BYTES = 43_000
"""About what one of the run below takes; the tests look at how many there are."""


def _go_on(server, tmp_path, expected_steps):
    """With room, the run is finished from its last good checkpoint."""
    assert checkpoints.steps(tmp_path / "run" / "checkpoints") == expected_steps, "CHECKPOINT_BYTES is no longer right"
    assert not [path for path in (tmp_path / "run").rglob("*") if ".tmp" in path.name]
    child = server.run(["resume", "run"], tmp_path)
    assert child.code == 0, child.err
    if expected_steps:
        assert f"going on after step {expected_steps[-1]}" in child.err
    assert RunResult.load(tmp_path / "run").status == "finished"


@pytest.mark.parametrize("num_checkpoints", [0.5, 2.5])
def test_no_space_for_a_checkpoint(server, fit_words, tmp_path, num_checkpoints):
    child = server.run(fit_words("run"), tmp_path, fault=("full_disk", str(int(num_checkpoints * CHECKPOINT_BYTES))))
    assert child.code == 75
    assert child.err.count("\n") == 1
    assert "No room to write run/checkpoints/step-" in child.err
    assert "What was saved before is untouched" in child.err
    assert RunResult.load(tmp_path / "run").status == "failed"
    _go_on(server, tmp_path, list(range(1, int(num_checkpoints) + 1)))


def test_files_may_not_grow(server, fit_words, tmp_path):
    """A limit that only a checkpoint's tensors exceed."""
    child = server.run(fit_words("run", "--method.rank", "16"), tmp_path, fault=("largest_file", "60000"))
    assert child.code == 75, child.err
    assert child.err.count("\n") == 1
    assert "No room to write run/checkpoints/step-00000001" in child.err
    assert "Traceback" not in child.err


def test_files_may_not_grow_at_all(server, fit_words, tmp_path):
    """Not even the record of the run can be written, nor that it failed."""
    child = server.run(fit_words("run"), tmp_path, fault=("largest_file", "1000"))
    assert child.code == 75, child.err
    assert "No room to write" in child.err
    assert "Traceback" not in child.err
    assert not (tmp_path / "run").exists()


def test_too_little_room_is_said_before_anything_is_measured(bench, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10**6))
    words = ["fit", str(bench.reviews), "--model", str(bench.bert), "--out", str(tmp_path / "runs" / "a"), "--quiet"]
    assert main([*words, "--precision", "float32"]) == 75
    error = capsys.readouterr().err
    assert "No room to write" in error
    assert "1 MB (1000000 bytes) are free" in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
