from __future__ import annotations

import errno
import json
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from tunesmith.commands import main
from tunesmith.errors import DiskFull, RunError
from tunesmith.runs import merge as merging
from tunesmith.runs import predict
from tunesmith.watch import Quiet

TEXTS = ("a bad day", "the river is blue")


@pytest.mark.parametrize(("kind", "method"), [("reviews", "lora"), ("reviews", "full"), ("chats", "lora")])
def test_equal_logits(finished, tmp_path, kind, method):
    run = finished(kind, method)
    folder = run.merge(tmp_path / "merged")
    head = AutoModelForSequenceClassification if kind == "reviews" else AutoModelForCausalLM
    merged, tokenizer = head.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    tuned = predict.load(run.folder).model
    for text in TEXTS:
        inputs = tokenizer(text, return_tensors="pt")
        with torch.no_grad():
            torch.testing.assert_close(merged(**inputs).logits, tuned(**inputs).logits, atol=1e-5, rtol=1e-5)
    assert not [name for name, _ in merged.named_modules() if "lora" in name.lower()]


def test_label_names_are_kept(finished, tmp_path):
    folder = finished("reviews").merge(tmp_path / "merged")
    assert list(json.loads((folder / "config.json").read_text())["id2label"].values()) == ["bad", "fair", "good"]


def test_a_folder_that_is_there_is_left_alone(finished, tmp_path):
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(RunError, match="exists already"):
        finished("reviews").merge(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("words", [["--rows", "missing.csv"], ["--max-divergence", "0.1"]])
def test_limits_of_a_comparison_that_is_not_made(finished, tmp_path, capsys, method, words):
    assert main(["merge", str(finished("reviews", method).folder), "--out", str(tmp_path / "m"), *words]) == 2
    assert "was not quantised" in capsys.readouterr().err
    assert not (tmp_path / "m").exists()


def test_a_copy_that_fails_leaves_nothing(finished, tmp_path, monkeypatch):
    def full(source, place, **_):
        (place / "half").write_text("x")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copytree", full)
    with pytest.raises(DiskFull):
        merging.merge(finished("reviews", "full").folder, tmp_path / "merged", Quiet())
    assert list(tmp_path.iterdir()) == []


def test_another_base_model_is_refused(finished, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished("reviews").folder, folder)
    record = json.loads((folder / "run.json").read_text())
    record["model"]["fingerprint"] = "0" * 64
    (folder / "run.json").write_text(json.dumps(record))
    with pytest.raises(RunError, match="is not the one"):
        merging.merge(folder, tmp_path / "merged", Quiet())
    assert not (tmp_path / "merged").exists()


def test_the_command(finished, tmp_path, capsys):
    assert main(["merge", str(finished("reviews").folder), "--out", str(tmp_path / "m"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["out"] == str(tmp_path / "m")
    assert (tmp_path / "m" / "model.safetensors").exists()
