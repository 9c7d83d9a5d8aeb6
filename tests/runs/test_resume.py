from __future__ import annotations

import json
import shutil

import pytest

import run_data
from tunesmith.checkpoint import folder as checkpoints
from tunesmith.commands import main
from tunesmith.reports.result import RunResult


@pytest.fixture(scope="module")
def stopped(server, bench, tmp_path_factory):
    """A run that failed after three good steps, beside its own model and data; every test gets a copy."""
    folder = tmp_path_factory.mktemp("stopped")
    run_data.save_model(folder / "bert")
    shutil.copy(bench.reviews, folder / "reviews.csv")
    words = ["fit", "reviews.csv", "--model", "bert", "--out", "run", "--steps", "6", "--rows-per-step", "8", "--quiet"]
    words += ["--checkpoint-every-steps", "1", "--precision", "float32", "--learning-rate", "0.01"]
    child = server.run(words, folder, fault=("nan_loss", "4", "99"))
    assert child.code == 1, child.err
    return folder


@pytest.fixture
def copied(stopped, tmp_path, monkeypatch, no_figures):
    shutil.copytree(stopped, tmp_path / "copy")
    record = json.loads((tmp_path / "copy" / "run" / "run.json").read_text()) | {"directory": ""}
    (tmp_path / "copy" / "run" / "run.json").write_text(json.dumps(record))
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "copy"


def _resume(capsys, code: int) -> str:
    capsys.readouterr()
    assert main(["resume", "run"]) == code
    error = capsys.readouterr().err
    assert code == 0 or error.splitlines()[-1].startswith("tunesmith: ")
    return error


def test_a_run_that_failed_goes_on(copied, capsys):
    assert RunResult.load(copied / "run").status == "failed"
    assert "going on after step" in _resume(capsys, 0)
    result = RunResult.load(copied / "run")
    assert (result.status, result.error) == ("finished", None)
    assert any("left out" in warning for warning in result.warnings), "what happened before is not forgotten"
    lines = [json.loads(line) for line in (copied / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "step"] == [1, 2, 3, 4, 5, 6]
    assert "run is finished; nothing is left to do" in _resume(capsys, 2)


def test_what_a_killed_writer_left_is_removed(copied, capsys):
    """Half an adapter of a process that was killed while it saved."""
    half = copied / "run" / "adapter.tmp-123"
    half.mkdir()
    (half / "adapter_model.safetensors").write_bytes(b"half")
    _resume(capsys, 0)
    assert not list((copied / "run").glob("*tmp*"))


def test_other_data_are_refused(copied, capsys):
    with (copied / "reviews.csv").open("a") as file:
        file.write("one more day,bad\n")
    record = (copied / "run" / "run.json").read_bytes()
    assert "The data of run has changed since the run began" in _resume(capsys, 2)
    assert (copied / "run" / "run.json").read_bytes() == record


def test_another_model_is_refused(copied, capsys):
    config = json.loads((copied / "bert" / "config.json").read_text())
    (copied / "bert" / "config.json").write_text(json.dumps(config | {"layer_norm_eps": 1e-3}))
    assert "The model of run has changed since the run began" in _resume(capsys, 2)


def test_another_tokenizer_is_refused(copied, capsys):
    """It would read the same rows as other tokens."""
    path = copied / "bert" / "tokenizer.json"
    path.write_text(path.read_text() + " ")
    assert "The model of run has changed since the run began" in _resume(capsys, 2)


def test_data_that_are_gone(copied, capsys):
    (copied / "reviews.csv").unlink()
    assert "reviews.csv" in _resume(capsys, 2)


def test_a_damaged_newest_checkpoint(copied, capsys):
    newest = checkpoints.steps(copied / "run" / "checkpoints")[-1]
    folder = copied / "run" / "checkpoints" / f"step-{newest:08d}"
    (folder / "state.json").write_text("{}")
    error = _resume(capsys, 0)
    assert "state.json has 2 bytes instead of" in error
    assert "going back to the one before" in error
    assert folder.with_name(f"{folder.name}.corrupt").exists()
    assert RunResult.load(copied / "run").status == "finished"


def test_a_damaged_best_checkpoint(server, fit_words, tmp_path):
    """Without the best weights so far, steps are taken again until they are found again; the end is the same."""
    flag, words = tmp_path / "flag", fit_words("run")
    assert server.run(words, tmp_path).code == 0
    whole = tmp_path / "whole"
    (tmp_path / "run").rename(whole)
    stopped_at = 11
    best = _best_until(whole, stopped_at)
    assert best < stopped_at - checkpoints.NUM_KEPT, "else the newest two hold it too; choose another seed"
    child = server.start(words, tmp_path, fault=("wait_at_step", str(stopped_at + 1), str(flag)))
    child.wait_for(flag)
    child.send(9)
    child.wait()
    (tmp_path / "run" / "checkpoints" / f"step-{best:08d}" / "state.json").write_text("{}")
    child = server.run(["resume", "run"], tmp_path)
    assert child.code == 0, child.err
    assert "Steps after it are taken again." in child.err
    weights = [folder / "adapter" / "adapter_model.safetensors" for folder in (tmp_path / "run", whole)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def _best_until(folder, step: int) -> int:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    found = [x for x in lines if x["kind"] == "evaluation" and x["step"] <= step]
    return min(found, key=lambda x: (-x["metrics"]["macro_f1"], x["metrics"]["loss"]))["step"]


@pytest.mark.parametrize("name", ["base.json", "base.safetensors"])
def test_a_damaged_record_of_the_base_model(copied, capsys, name):
    before = RunResult.load(copied / "run").stages
    (copied / "run" / name).write_bytes(b"\0" * 20)
    assert "The base model is measured again." in _resume(capsys, 0)
    assert RunResult.load(copied / "run").stages[:2] == before[:2]


def test_no_run(tmp_path):
    """Looking for a run makes none."""
    from tunesmith.errors import RunError
    from tunesmith.runs.resume import resume
    from tunesmith.watch import Quiet

    with pytest.raises(RunError, match="is not a run folder"):
        resume(tmp_path / "nowhere", Quiet())
    assert list(tmp_path.iterdir()) == []


def test_other_kernels_are_told_of(copied, capsys):
    file = copied / "run" / "run.json"
    record = json.loads(file.read_text())
    record["machine"]["kernels"] = "those of yesterday"
    file.write_text(json.dumps(record))
    assert "Kernels were 'those of yesterday' when the run began" in " ".join(_resume(capsys, 0).split())


def test_the_same_kernels_are_not(copied, capsys):
    assert "Kernels were" not in _resume(capsys, 0)
