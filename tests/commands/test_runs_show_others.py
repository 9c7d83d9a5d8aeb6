from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from tunesmith.checkpoint.lock import RunLock
from tunesmith.reports.result import Measure, Stage


def test_no_runs_yet(tunesmith_run):
    outcome = tunesmith_run("runs")
    assert outcome.code == 0
    assert "No runs in runs yet." in outcome.out
    assert json.loads(tunesmith_run("runs", "--json").out) == {"runs": []}


def test_runs(tunesmith_run, saved_run, tmp_path):
    (tmp_path / "runs/broken").mkdir()
    (tmp_path / "runs/broken/run.json").write_text("{")
    (tmp_path / "runs/other").mkdir()
    outcome = tunesmith_run("runs")
    assert "runs/first" in outcome.out
    assert "damaged" in outcome.out
    assert "other" not in outcome.out
    rows = {row["run"]: row for row in json.loads(tunesmith_run("runs", "--json").out)["runs"]}
    assert rows["runs/first"]["result"].startswith("accuracy 90.0 %")
    assert rows["runs/first"]["method"] == "lora"
    assert rows["runs/broken"]["status"] == "damaged"
    assert tunesmith_run("runs", "runs").code == 0
    assert tunesmith_run("runs", "nowhere").code == 2


def test_a_run_that_was_killed(tunesmith_run, saved_run, tmp_path):
    folder = tmp_path / "runs" / "first"
    saved_run.status = "running"
    saved_run.save(folder)
    with RunLock(folder):
        assert json.loads(tunesmith_run("show", "first", "--json").out)["status"] == "running"
        assert json.loads(tunesmith_run("runs", "--json").out)["runs"][0]["status"] == "running"
    killed = json.loads(tunesmith_run("show", "first", "--json").out)
    assert (killed["status"], killed["next"][0]) == ("killed", "tunesmith resume runs/first")
    assert json.loads(tunesmith_run("runs", "--json").out)["runs"][0]["status"] == "killed"
    shown = " ".join(tunesmith_run("runs").out.split())
    assert "runs/first killed" in shown
    assert "Go on with: tunesmith resume runs/first" in shown
    assert "The run was killed; everything up to its last checkpoint is saved" in " ".join(
        tunesmith_run("show", "first").out.split()
    )
    assert json.loads((folder / "run.json").read_text())["status"] == "running", "looking changes nothing"


@pytest.mark.parametrize("status", ["running", "interrupted"])
def test_a_run_that_stopped_before_training(tunesmith_run, saved_run, tmp_path, status):
    saved_run.status, saved_run.stages = status, []
    saved_run.model = replace(saved_run.model, num_trainable=0)
    saved_run.save(tmp_path / "runs" / "first")
    shown = " ".join(tunesmith_run("show", "first").out.split())
    assert "before training started; `tunesmith resume` starts it." in shown
    assert "trained nothing: not started" in shown
    assert "0.00 %" not in shown
    assert "checkpoint" not in shown


def test_the_command_to_go_on_can_be_copied_from_a_narrow_terminal(tunesmith_run, saved_run, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    folder = tmp_path / "runs" / ("a-rather-long-name-of-a-data-set-" * 3 + "1")
    folder.mkdir()
    saved_run.status = "interrupted"
    saved_run.save(folder)
    command = f"tunesmith resume runs/{folder.name}"
    assert command in [line.strip() for line in tunesmith_run("runs").out.splitlines()]
    rows = {row["run"]: row for row in json.loads(tunesmith_run("runs", "--json").out)["runs"]}
    assert rows[f"runs/{folder.name}"]["resume"] == command
    assert "resume" not in rows["runs/first"]


@pytest.mark.parametrize("name", ["first", "runs/first", "runs/first/"])
def test_show(tunesmith_run, saved_run, name):
    outcome = tunesmith_run("show", name)
    assert outcome.code == 0
    assert "90.0 %" in outcome.out
    assert json.loads(tunesmith_run("show", name, "--json").out)["data"]["labels"] == ["bad", "good"]


def test_show_names_the_nearest(tunesmith_run, saved_run, tmp_path):
    outcome = tunesmith_run("show", "frist")
    assert outcome.code == 2
    assert "Did you mean runs/first?" in outcome.err
    (tmp_path / "empty").mkdir()
    assert "empty is not a run folder: it has no run.json" in tunesmith_run("show", "empty").err


def test_resume(tunesmith_run, engine, saved_run):
    asked = []
    engine("resume", resume=lambda folder, watch: asked.append(folder) or saved_run)
    outcome = tunesmith_run("resume", "first")
    assert outcome.code == 0
    assert asked == [Path("runs/first")]
    assert "accuracy" in outcome.out


def test_evaluate(tunesmith_run, engine, saved_run):
    stage = Stage(
        name="best checkpoint",
        kind="tuned",
        split="new.csv",
        metrics={"accuracy": Measure(value=0.8, low=0.7, high=0.9, count=1200)},
    )
    found = SimpleNamespace(stages=[stage], description=["read 1,200 rows"], warnings=["many are cut"])
    engine("evaluate", evaluate=lambda folder, data, watch: found if data == ("new.csv", "b.csv") else None)
    outcome = tunesmith_run("evaluate", "first", "new.csv", "b.csv")
    assert outcome.code == 0
    assert " ".join(outcome.out.split()).endswith("best checkpoint new.csv, 1,200 rows accuracy 80.0 % 70.0 to 90.0 %")
    content = json.loads(tunesmith_run("evaluate", "first", "new.csv", "b.csv", "--json").out)
    assert content["stages"][0]["metrics"]["accuracy"]["low"] == 0.7
    assert (content["description"], content["warnings"]) == (["read 1,200 rows"], ["many are cut"])


def test_merge(tunesmith_run, engine, saved_run):
    asked = []
    engine("merge", merge=lambda folder, out, watch, **given: asked.append((folder, out)))
    assert "The merged model is in there" in tunesmith_run("merge", "first", "--out", "there").out
    assert asked == [(Path("runs/first"), Path("there"))]
    assert json.loads(tunesmith_run("merge", "first", "--out", "there", "--json").out)["out"] == "there"
