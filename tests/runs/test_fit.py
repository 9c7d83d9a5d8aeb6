from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import run_data
from tunesmith.commands import main
from tunesmith.reports.result import RunResult
from tunesmith.training import memory

KINDS = ("reviews", "pairs", "chats", "documents")
TASKS = {"reviews": "classification", "pairs": "classification", "chats": "chat", "documents": "text"}


_BOTH = [pytest.param(kind, "full", marks=pytest.mark.slow if kind != "reviews" else ()) for kind in KINDS]


@pytest.mark.parametrize(("kind", "method"), [(kind, "lora") for kind in KINDS] + _BOTH)
def test_a_run_leaves_what_the_design_says(finished, kind, method):
    run = finished(kind, method)
    result = RunResult.load(run.folder)
    assert result.status == "finished"
    assert result.task == TASKS[kind]
    assert result.progress is not None
    assert result.progress.steps == 4
    assert [stage.name for stage in result.stages][-2:] != []
    assert {"base model", "tuned model"} & {stage.name.split(",")[0] for stage in result.stages}
    present = {path.name for path in run.folder.iterdir()}
    assert present >= {"run.json", "metrics.jsonl", "checkpoints", "report.html", "README.md"}
    assert ("adapter" in present, "model" in present) == (method != "full", method == "full")
    weights = "adapter/adapter_model.safetensors" if method == "lora" else "model/model.safetensors"
    assert (run.folder / weights).stat().st_size > 0
    assert not [path for path in run.folder.rglob("*") if "tmp" in path.name]


def test_the_report_is_drawn(finished):
    assert (finished("reviews").folder / "report.html").read_text().count("<svg") >= 5


@pytest.mark.parametrize("kind", KINDS)
def test_metrics_hold_every_step(finished, kind):
    lines = [json.loads(line) for line in (finished(kind).folder / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["kind"] == "step"]
    assert [line["step"] for line in steps] == [1, 2, 3, 4]
    assert all(line["loss"] > 0 and line["tokens"] > 0 and line["memory_bytes"] > 0 for line in steps)
    evaluations = [line for line in lines if line["kind"] == "evaluation"]
    assert evaluations[-1]["step"] == 4
    assert lines[-1] == {"kind": "event", "step": 4, "message": "stopped: all steps done"}


def test_training_helps(finished):
    """The same rows are better predicted after than before, so that what is measured is the tuned model."""
    stages = {stage.name: stage.metrics for stage in finished("chats").result.stages}
    assert stages["tuned model"]["loss"].value < stages["base model"]["loss"].value - 0.1


def test_label_names_are_kept(finished):
    assert finished("reviews").result.data.labels == ["bad", "fair", "good"]
    config = json.loads((finished("reviews", "full").folder / "model" / "config.json").read_text())
    assert list(config["id2label"].values()) == ["bad", "fair", "good"]


def test_every_setting_is_resolved_and_recorded(finished):
    settings = finished("reviews").result.settings
    training = settings["training"]
    assert settings["task"] == "classification"
    assert training["precision"] == "float32"
    assert training["threads"] >= 1
    for name in ("epochs", "rows_per_step", "tokens_per_pass", "learning_rate", "weight_decay"):
        assert training[name] is not None, name


def test_the_number_format_is_decided_once(bench, tmp_path, monkeypatch):
    """What `auto` measured is in the record before training begins: a resumed run must not measure again."""
    import tunesmith as ts
    from tunesmith.runs import baseline

    seen = []

    def stop(session, place):
        seen.append(RunResult.load(place.folder).settings["training"]["precision"])
        raise ts.TunesmithError("enough")

    monkeypatch.setattr(baseline, "measure", stop)
    with pytest.raises(ts.TunesmithError, match="enough"):
        ts.fit(bench.reviews, model=bench.bert, out=tmp_path / "run", steps=1)
    assert seen[0] in ("float32", "bfloat16")


def test_the_command_in_a_process_of_its_own(bench, tmp_path):
    program = str(Path(sys.executable).with_name("tunesmith"))
    words = [program, "fit", str(bench.reviews), "--model", str(bench.bert), "--steps", "2", "--precision", "float32"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "accuracy" in done.stdout
    assert "Traceback" not in done.stderr
    assert "3 classes" in done.stderr
    assert RunResult.load(tmp_path / "runs" / "reviews-bert-lora-1").status == "finished"


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak can be forgotten on Linux only")
def test_the_peak_of_memory_is_that_of_the_run(no_figures, bench, tmp_path):
    """Not of what the process did before, as in a notebook with several runs."""
    import tunesmith as ts

    before = torch.ones(2**28)  # a GB
    del before
    run = ts.fit(bench.reviews, model=bench.bert, out=tmp_path / "run", steps=1, precision="float32")
    cost = run.result.cost
    assert cost is not None
    assert cost.peak_memory_bytes < memory.resident_bytes() + 2**29


def test_json(no_figures, bench, tmp_path, capsys):
    words = ["fit", str(bench.reviews), "--model", str(bench.bert), "--steps", "1", "--precision", "float32"]
    assert main([*words, "--json", "--out", str(tmp_path / "run")]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["run"] == str(tmp_path / "run")
    assert content["status"] == "finished"
    assert content["data"]["labels"] == ["bad", "fair", "good"]


def test_other_rows_to_evaluate_on(no_figures, bench, tmp_path):
    import tunesmith as ts

    other = run_data.write_reviews(tmp_path / "other.csv", num_rows=9, seed=5)
    run = ts.fit(bench.reviews, model=bench.bert, eval=other, out=tmp_path / "run", steps=1, precision="float32")
    assert run.result.data.num_test == 9
    assert run.result.data.num_train + run.result.data.num_validation == 60


def test_a_stop_by_time(no_figures, bench, tmp_path):
    import tunesmith as ts

    run = ts.fit(bench.reviews, model=bench.bert, out=tmp_path / "run", max_time=1e-9, precision="float32")
    assert run.result.progress is not None
    assert run.result.progress.steps == 1
    assert "time limit" in run.result.progress.stop_reason


def test_the_same_seed_gives_the_same_weights(no_figures, finished, bench, tmp_path):
    import tunesmith as ts

    first = finished("reviews")
    same = {
        "model": bench.bert,
        "steps": 4,
        "learning_rate": 0.01,
        "precision": "float32",
        "max_length": 64,
        "more": {"patience": 0},
    }
    second = ts.fit(bench.reviews, **same, out=tmp_path / "second")
    other = ts.fit(bench.reviews, **same, seed=1, out=tmp_path / "other")
    weights = [(run.folder / "adapter" / "adapter_model.safetensors").read_bytes() for run in (first, second, other)]
    assert weights[0] == weights[1]
    assert weights[0] != weights[2]


def test_a_long_text_is_shown_by_the_windows_that_were_measured(finished, bench):
    """Not by its beginning again and again, beside the perplexities of its other windows."""
    shown = [example.prompt for example in finished("documents").result.examples]
    assert len(shown) > 1
    assert len(set(shown)) == len(shown)
    texts = [" ".join(path.read_text().split()) for path in bench.documents.iterdir()]
    assert all(any(prompt.strip()[:60] in text for text in texts) for prompt in shown)
