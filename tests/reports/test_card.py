"""The model card: readable by a hub, complete for a person, and without a row of the data."""

from __future__ import annotations

import ast
import re
from dataclasses import replace
from pathlib import Path

from huggingface_hub import ModelCard

from tunesmith.reports.card import render_card, write_card
from tunesmith.reports.result import RunResult


def front_matter(card: str) -> dict[str, object]:
    return ModelCard(card).data.to_dict()


def test_front_matter_of_an_adapter(classification_result: RunResult, adapter_folder: Path):
    assert front_matter(render_card(classification_result, adapter_folder)) == {
        "license": "apache-2.0",
        "library_name": "peft",
        "pipeline_tag": "text-classification",
        "tags": ["tunesmith", "lora"],
        "metrics": ["accuracy", "f1"],
    }


def test_front_matter_of_a_model_of_a_hub(chat_result: RunResult, tmp_path: Path):
    (tmp_path / "model").mkdir()
    result = replace(chat_result, model=replace(chat_result.model, name="someone/some-model", license="Custom (c) X"))
    found = front_matter(render_card(result, tmp_path))
    assert found["base_model"] == "someone/some-model"
    assert found["library_name"] == "transformers"
    assert found["pipeline_tag"] == "text-generation"
    assert "license" not in found


def test_what_a_reader_needs(classification_result: RunResult, adapter_folder: Path):
    card = render_card(classification_result, adapter_folder)
    for text in (
        "accuracy rises from 51.0 %",
        "86.0 % (83.9 to 88.1 %)",
        "cd" * 32,
        "ab" * 32,
        '"learning_rate": 0.001',
        "seed 0",
    ):
        assert text in card
    assert re.findall(r"^## (.*)", card, re.MULTILINE) == [
        "Results", "What it forgot", "How to load it", "Data", "Training", "Limits",
    ]  # fmt: skip


def test_rows_of_the_data_stay_out(classification_result: RunResult, adapter_folder: Path):
    card = render_card(classification_result, adapter_folder)
    for example in classification_result.examples:
        assert example.prompt not in card


def test_code_to_load_is_python(classification_result: RunResult, chat_result: RunResult, adapter_folder: Path):
    for result, auto_class in ((classification_result, "AutoModel"), (chat_result, "AutoModelForCausalLM")):
        blocks = re.findall(r"```python\n(.*?)```", render_card(result, adapter_folder), re.DOTALL)
        assert len(blocks) == 2
        for block in blocks:
            ast.parse(block)
        assert "PeftModel.from_pretrained(base, 'first-film/adapter')" in blocks[1]
        assert auto_class in blocks[1]


def test_a_missing_licence_is_said(chat_result: RunResult, adapter_folder: Path):
    assert "licence of the base model was not recorded" in render_card(chat_result, adapter_folder)


def test_written_into_the_folder(classification_result: RunResult, adapter_folder: Path):
    path = write_card(classification_result, adapter_folder)
    assert path == adapter_folder / "README.md"
    assert path.read_text(encoding="utf-8") == render_card(classification_result, adapter_folder)
