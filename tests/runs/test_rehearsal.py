from __future__ import annotations

import json

from tunesmith.commands import main


def _rehearse(capsys, *words) -> dict:
    assert main([*map(str, words), "--dry-run", "--json", "--precision", "float32", "--quiet"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_chat_row_shows_where_the_loss_is(bench, capsys, tmp_path):
    content = _rehearse(capsys, "fit", bench.chats, "--model", bench.llama, "--steps", 7, "--out", tmp_path / "run")
    assert content["num_steps"] == 7
    assert content["predicted_seconds"] > 0
    assert content["predicted_memory_bytes"] > 0
    row = content["rows"][0]
    text = "".join(row["tokens"])
    learnt = "".join(token for token, yes in zip(row["tokens"], row["learnt"], strict=True) if yes)
    assert text.startswith("<|im_start|>user\n")
    question = text.split("\n")[1].removesuffix("<|im_end|>")
    assert learnt == f"{question.split()[0]}<|im_end|>"
    assert not (tmp_path / "run").exists()


def test_a_labelled_row_shows_its_label(bench, capsys, tmp_path):
    content = _rehearse(capsys, "fit", bench.reviews, "--model", bench.bert, "--out", tmp_path / "run")
    for row in content["rows"]:
        assert row["label"] in ("bad", "fair", "good")
        assert "".join(row["tokens"]).endswith(f"{row['label']}[SEP]")
    assert content["settings"]["training"]["learning_rate"] is not None
    assert list(tmp_path.iterdir()) == []


def test_what_is_promised_is_what_is_done(bench, capsys, tmp_path, finished):
    words = ("--steps", 4, "--learning-rate", 0.01, "--max-length", 64, "--patience", 0)
    content = _rehearse(capsys, "fit", bench.reviews, "--model", bench.bert, *words)
    promised, done = content["settings"], finished("reviews").result.settings
    assert promised["training"] == done["training"]
    assert promised["method"] == done["method"]
    assert content["num_steps"] == finished("reviews").result.progress.planned_steps


def test_what_a_model_costs_before_it_is_there_is_said(bench, capsys, tmp_path):
    (tmp_path / "torn.gguf").write_bytes(b"GGUF" + b"\x03\0\0\0")
    assert main(["fit", str(bench.chats), "--model", str(tmp_path / "torn.gguf"), "--dry-run"]) == 2
    assert "converting torn.gguf (8 B) to safetensors, once" in capsys.readouterr().err


def test_a_folder_that_the_run_would_refuse(bench, capsys, finished):
    occupied = finished("reviews").folder
    assert main(["fit", str(bench.reviews), "--model", str(bench.bert), "--out", str(occupied), "--dry-run"]) == 2
    assert "holds a run already" in capsys.readouterr().err


def test_nothing_is_measured_where_nothing_is_trained(bench, capsys):
    assert main(["fit", str(bench.reviews), "--model", str(bench.bert), "--dry-run", "--profile"]) == 2
    assert "Leave one of the two out" in capsys.readouterr().err


def test_workers_without_a_row_are_spoken_of(bench, capsys):
    words = ["fit", str(bench.reviews), "--model", str(bench.bert), "--workers", "5", "--rows-per-step", "2", "--dry-run"]
    assert main([*words, "--precision", "float32"]) == 0
    assert "2 workers, not 5: a step has no more rows" in capsys.readouterr().err
