from __future__ import annotations

import json
import time

import pytest

from tunesmith import registry, settings

LLAMA_8B = {
    "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256, "tie_word_embeddings": False,
}  # fmt: skip


@pytest.fixture
def eight_billion(tmp_path):
    """A model folder with nothing but a configuration."""
    folder = tmp_path / "llama-8b"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(LLAMA_8B))
    return str(folder)


def test_every_method_and_preset_is_listed(tunesmith_run):
    outcome = tunesmith_run("methods")
    assert outcome.code == 0
    shown = {line.split()[0] for line in outcome.out.splitlines() if line and not line.startswith(" ")}
    assert set(registry.names("tunesmith.methods")) <= shown
    rows = {row["name"]: row for row in json.loads(tunesmith_run("methods", "--json").out)["methods"]}
    assert rows["lora"]["equations"] == ["y = W x + s B A x"]
    assert rows["lora"]["mergeable"] is True
    assert rows["pfeiffer"]["preset_of"] == "adapter"
    assert rows["pfeiffer"]["method"]["reduction"] == 16
    assert rows["full"]["memory"] == "16 B a weight"
    assert rows["prefix"]["cost_of_an_answer"] == "positions"
    assert "num_trainable" not in rows["lora"]
    assert {name for name in settings.preset_names() if "method" in settings.load_preset(name)} <= rows.keys()


def test_a_model_without_weights_is_counted(tunesmith_run, eight_billion):
    rows = {row["name"]: row for row in json.loads(tunesmith_run("methods", "--model", eight_billion, "--json").out)["methods"]}
    assert rows["lora"]["num_trainable"] == 41_943_040
    assert rows["full"]["training_bytes"] == 16 * 8_030_261_248
    assert rows["prefix"]["cost_of_an_answer"] == "20 positions"
    assert rows["pfeiffer"]["cost_of_an_answer"] == "+0.837 % weights"
    shown = tunesmith_run("methods", "--model", eight_billion).out
    assert "8,030,261,248 numbers, 16.1 GB in bfloat16" in shown
    assert "41,943,040" in shown
    assert "128 GB" in shown


def test_a_second_look_at_eight_billion_takes_a_second(tunesmith_run, eight_billion):
    tunesmith_run("methods", "--model", eight_billion)
    start = time.process_time()
    assert tunesmith_run("methods", "--model", eight_billion).code == 0
    assert time.process_time() - start < 2.5  # twice what it takes, for a busy machine


def test_one_is_explained(tunesmith_run, eight_billion):
    shown = tunesmith_run("methods", "pfeiffer", "--model", eight_billion).out
    assert shown.index("pfeiffer, a preset of adapter") < shown.index("output: h' = h") < shown.index("reduction = 16")
    assert "https://arxiv.org/abs/2005.00247" in shown
    assert "The width as a share of the hidden size" in shown
    assert "67,248,128" in shown
    assert "trains here" not in tunesmith_run("methods", "full").out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("loar",), "Unknown method 'loar'. Did you mean 'lora'?"),
        (("--model", "nowhere/at/all"), "There is no model 'nowhere/at/all'"),
        (("--model", "."), "it has no config.json"),
    ],
)
def test_what_does_not_exist(tunesmith_run, words, message):
    outcome = tunesmith_run("methods", *words)
    assert outcome.code == 2
    assert message in outcome.err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "nonsense"}, "cannot be used"),
        ({"num_attention_heads": 31, "num_key_value_heads": 7}, "cannot be used"),
        ({"hidden_act": "nonsense"}, "No model can be built from this LlamaConfig"),
        ({"auto_map": {"AutoModel": "evil.Model"}}, "auto_map"),
    ],
)
def test_a_configuration_that_is_none(tunesmith_run, eight_billion, tmp_path, change, message):
    (tmp_path / "llama-8b" / "config.json").write_text(json.dumps(LLAMA_8B | change))
    outcome = tunesmith_run("methods", "--model", eight_billion)
    assert outcome.code == 2
    assert message in outcome.err
