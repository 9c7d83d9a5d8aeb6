"""A token that the tokenizer knows and the model does not is named before anything is computed with it."""

from __future__ import annotations

import shutil

import pytest
from transformers import AutoTokenizer

import tunesmith as ts
from tunesmith.commands import main
from tunesmith.errors import ModelError

SETTINGS = {"steps": 1, "precision": "float32"}


@pytest.fixture
def larger(bench, tmp_path):
    """A model whose tokenizer was given more tokens than there are embeddings, and rows with the last of them."""
    folder = shutil.copytree(bench.llama, tmp_path / "llama")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([f"<new{number}>" for number in range(30)])
    tokenizer.save_pretrained(folder)
    rows = tmp_path / "rows.jsonl"
    rows.write_text(bench.chats.read_text().replace("red", "<new29>"))
    return folder, rows


def test_a_token_without_an_embedding_is_refused(larger, tmp_path, capsys):
    model, rows = larger
    assert main(["fit", str(rows), "--model", str(model), "--out", str(tmp_path / "run"), "--quiet"]) == 2
    said = capsys.readouterr().err
    assert "'<new29>'" in said
    assert "resize_token_embeddings" in said


def test_so_it_is_when_a_run_is_measured(larger, bench, tmp_path, no_figures):
    model, rows = larger
    run = ts.fit(bench.chats, model=model, out=tmp_path / "run", **SETTINGS)  # no row has one of the new tokens
    with pytest.raises(ModelError, match="'<new29>'"):
        run.evaluate(rows)
    with pytest.raises(ModelError, match=r"token 29\d and the model has"):
        run.predict(["blue <new29>"])
