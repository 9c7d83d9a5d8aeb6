"""A saved model is a transformers folder: whole or absent, tied weights once, sharded if large, with its tokenizer."""

from __future__ import annotations

import json
import resource
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

import tiny_models
import tiny_tokenizer
from tunesmith.errors import DiskFull
from tunesmith.model.model_folder import check_model_folder
from tunesmith.model.save_model import save_model


def _logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model(input_ids=torch.arange(8, 40).view(2, 16)).logits


@pytest.mark.parametrize("name", tiny_models.DECODERS)
def test_reload_gives_equal_logits(name: str, tmp_path: Path) -> None:
    model = tiny_models.build(name)
    save_model(model, None, tmp_path / "m")
    assert torch.equal(_logits(AutoModelForCausalLM.from_pretrained(tmp_path / "m").eval()), _logits(model))
    assert check_model_folder(tmp_path / "m").num_bytes > 0


def test_labels_and_tokenizer_come_along(tmp_path: Path) -> None:
    model = tiny_models.build("bert", "classification")
    model.config.id2label = {0: "bad", 1: "good", 2: "so-so"}
    tokenizer = tiny_tokenizer.build("encoder")
    save_model(model, tokenizer, tmp_path / "m")
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "m").eval()
    assert torch.equal(_logits(again), _logits(model))
    assert again.config.id2label == {0: "bad", 1: "good", 2: "so-so"}
    assert AutoTokenizer.from_pretrained(tmp_path / "m")("what a film").input_ids == tokenizer("what a film").input_ids


def test_tied_weights_are_written_once_and_tied_again(tmp_path: Path) -> None:
    model = tiny_models.build("llama", tie_word_embeddings=True)
    save_model(model, None, tmp_path / "m")
    (header,) = check_model_folder(tmp_path / "m").weights.values()
    assert "lm_head.weight" not in header
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "m").eval()
    assert again.lm_head.weight is again.model.embed_tokens.weight
    assert torch.equal(_logits(again), _logits(model))


def test_large_models_are_sharded(tmp_path: Path) -> None:
    model = tiny_models.build("llama")
    save_model(model, None, tmp_path / "m", max_shard_bytes=50_000)
    files = check_model_folder(tmp_path / "m")
    assert len(files.weights) > 1
    index = json.loads((tmp_path / "m" / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == {path.name for path in files.weights}
    assert torch.equal(_logits(AutoModelForCausalLM.from_pretrained(tmp_path / "m").eval()), _logits(model))


def test_bfloat16_stays_bfloat16(tmp_path: Path) -> None:
    model = tiny_models.build("llama").bfloat16()
    save_model(model, None, tmp_path / "m")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "m").eval()
    assert all(p.dtype == torch.bfloat16 and torch.equal(p, model.get_parameter(n)) for n, p in again.named_parameters())


def test_settings_of_generation_that_transformers_refuses_to_write(tmp_path: Path) -> None:
    model = tiny_models.build("llama")
    model.generation_config.temperature = 0.6
    save_model(model, None, tmp_path / "m")
    assert json.loads((tmp_path / "m" / "generation_config.json").read_text())["temperature"] == 0.6


def test_an_old_folder_stays_if_the_new_one_has_no_room(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = tiny_models.build("llama")
    save_model(model, None, tmp_path / "m")
    before = {path.name: path.read_bytes() for path in (tmp_path / "m").iterdir()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(DiskFull, match=r"m: it needs"):
            save_model(tiny_models.build("llama", seed=1), None, tmp_path / "m")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {path.name: path.read_bytes() for path in (tmp_path / "m").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
    assert capfd.readouterr() == ("", "")
