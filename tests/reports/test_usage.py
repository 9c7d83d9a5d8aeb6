"""What a report advises works with the files that are there."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path

import pytest

import tiny_models
from tunesmith.checkpoint import adapter
from tunesmith.method import Method
from tunesmith.methods.adapter import Adapter
from tunesmith.methods.bitfit import BitFit
from tunesmith.methods.lora import LoRA
from tunesmith.reports.card import render_card
from tunesmith.reports.curves import Curves
from tunesmith.reports.html import render_report
from tunesmith.reports.result import RunResult
from tunesmith.reports.usage import library, other_code, tunesmith_code


def run_of(method: Method, folder: Path) -> Path:
    """A run folder with an adapter as `fit` saves it."""
    model = tiny_models.build("llama", "causal")
    method.attach(model)
    adapter.save(model, method, folder / "adapter", base_model="starter:smollm2")
    return folder


def test_an_adapter_that_peft_reads(chat_result: RunResult, tmp_path: Path):
    folder = run_of(LoRA(rank=2), tmp_path)
    assert library(folder) == "peft"
    assert "library_name: peft" in render_card(chat_result, folder)
    page = render_report(replace(chat_result, stages=[]), Curves(), folder)
    assert "In Python, with peft and transformers" in page


@pytest.mark.parametrize("method", [Adapter(), BitFit()], ids=lambda method: method.name)
def test_an_adapter_in_a_format_of_our_own(chat_result: RunResult, tmp_path: Path, method: Method):
    folder = run_of(method, tmp_path)
    result = replace(chat_result, mergeable=method.mergeable)
    card = render_card(result, folder)
    assert "library_name: tunesmith" in card
    assert "PeftModel" not in card + render_report(replace(result, stages=[]), Curves(), folder)
    assert ("--out DIR" in card) == method.mergeable
    assert "tunesmith's own format" in card


def test_what_transformers_cannot_read_is_said_where_it_is_named(chat_result: RunResult, tmp_path: Path):
    folder = run_of(LoRA(rank=2), tmp_path)
    for name, is_said in (("starter:smollm2", True), ("model.gguf", True), ("someone/some-model", False)):
        found = other_code(replace(chat_result, model=replace(chat_result.model, name=name)), folder, folder)
        assert found is not None
        ast.parse(found[1])
        assert ("# The base model: a hub id, or a folder" in found[1]) == is_said


def test_a_judge_of_pairs_is_asked_about_pairs(classification_result: RunResult, tmp_path: Path):
    assert '.predict(["a text of your own"])' in tunesmith_code(classification_result, tmp_path)
    pairs = replace(classification_result, data=replace(classification_result.data, shape="text pair+label"))
    assert '.predict([("a text", "another")])' in tunesmith_code(pairs, tmp_path)
