"""A run over a base in few bits, from the command line to the merged model."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import run_data
from tunesmith.commands import main
from tunesmith.errors import NotMergeable, RunError
from tunesmith.model import load, quantize
from tunesmith.model.quantized_linear import QuantizedLinear
from tunesmith.reports.result import RunResult
from tunesmith.runs import merge as merging
from tunesmith.runs import predict
from tunesmith.watch import Quiet

TEXT = "the river is blue"


@pytest.fixture(scope="module")
def quantized(bench, tmp_path_factory):
    """A finished run of `--method qlora`, beside its own model and data."""
    folder = tmp_path_factory.mktemp("quantized")
    words = ["fit", str(bench.chats), "--model", str(bench.llama), "--method", "qlora", "--out", str(folder / "run")]
    words += ["--steps", "4", "--learning-rate", "0.01", "--precision", "float32", "--patience", "0", "--quiet"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tunesmith.reports.figures.draw", lambda *_: "<svg></svg>")
        assert main(words) == 0
    return folder / "run"


def test_the_record(quantized):
    result = RunResult.load(quantized)
    assert result.method["name"] == "lora"
    assert result.settings["training"]["base_bits"] == 4
    assert result.model.precision.startswith("in float32, ")
    assert "bits each" in result.model.precision
    assert '"base_bits": 4' in (quantized / "README.md").read_text()
    assert "load_in_4bit=True" in (quantized / "README.md").read_text()


def test_it_is_loaded_as_it_was_trained(quantized):
    model = predict.load(quantized).model
    assert any(isinstance(module, QuantizedLinear) for module in model.modules())
    assert main(["evaluate", str(quantized), str(RunResult.load(quantized).settings["data"]["data"][0]), "--quiet"]) == 0


def test_the_merged_model_is_the_run(quantized, tmp_path, capsys):
    assert main(["merge", str(quantized), "--out", str(tmp_path / "m"), "--json", "--quiet"]) == 0
    compared = json.loads(capsys.readouterr().out)["compared_with_run"]
    assert compared["divergence"] < 1e-6
    assert compared["same_choice"] == 1
    assert compared["num_predictions"] > 0
    merged, tokenizer = AutoModelForCausalLM.from_pretrained(tmp_path / "m"), AutoTokenizer.from_pretrained(tmp_path / "m")
    inputs = tokenizer(TEXT, return_tensors="pt")
    with torch.no_grad():
        expected = predict.load(quantized).model(**inputs).logits
        torch.testing.assert_close(merged(**inputs).logits, expected, atol=1e-4, rtol=1e-4)
    assert "quantization_config" not in json.loads((tmp_path / "m" / "config.json").read_text())


def test_what_was_measured_is_said(quantized, bench, tmp_path, capsys):
    words = ["merge", str(quantized), "--out", str(tmp_path / "m"), "--quiet", "--rows", str(bench.more_chats)]
    assert main(words) == 0
    assert "Compared with the run: KL " in capsys.readouterr().out


def test_a_merged_model_that_differs_is_refused(quantized, tmp_path, monkeypatch):
    """The mistake that is made: the change was learnt over the base in four bits, and is put on the one in sixteen."""
    base = merging.predict.base

    def in_16_bits(folder, result, watch):
        source, _ = base(folder, result, watch)
        return source, load.load(source, result.task)

    monkeypatch.setattr(merging, "_merged_in_float32", wrong := _merged_over(in_16_bits))
    with pytest.raises(NotMergeable, match=r"does not answer like .*KL .*Nothing was written.*--max-divergence"):
        merging.merge(quantized, tmp_path / "m", Quiet())
    assert wrong.called
    assert not (tmp_path / "m").exists()
    assert merging.merge(quantized, tmp_path / "m", Quiet(), max_divergence=100.0).divergence > merging.MAX_DIVERGENCE


def _merged_over(base):
    from tunesmith.checkpoint import adapter
    from tunesmith.checkpoint import merge as folding

    def merged(folder, result, watch):
        merged.called = True
        source, model = base(folder, result, watch)
        folding.merge(model, adapter.load(model, folder / "adapter"))
        return source, model

    merged.called = False
    return merged


def test_rows_that_are_gone(quantized, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    shutil.copytree(quantized, folder)
    record = json.loads((folder / "run.json").read_text())
    record["settings"]["data"]["data"] = ["gone.jsonl"]
    (folder / "run.json").write_text(json.dumps(record))
    with pytest.raises(RunError, match=r"cannot be read: .*gone\.jsonl.*--rows FILE"):
        merging.merge(folder, tmp_path / "m", Quiet())


@pytest.mark.parametrize("value", ["many", "-1"])
def test_a_limit_that_is_none(quantized, tmp_path, capsys, value):
    assert main(["merge", str(quantized), "--out", str(tmp_path / "m"), f"--max-divergence={value}"]) == 2
    assert "--max-divergence must be" in capsys.readouterr().err


def test_a_method_that_trains_the_base_is_refused(bench, tmp_path, capsys):
    words = ["fit", str(bench.chats), "--model", str(bench.llama), "--out", str(tmp_path / "run"), "--base-bits", "4"]
    for method in ("full", "bitfit"):
        assert main([*words, "--method", method]) == 2
        assert f"and '{method}' trains them. Use a method that adds weights of its own" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_other_bits_are_refused(bench, capsys):
    assert main(["fit", str(bench.chats), "--model", str(bench.llama), "--base-bits", "5"]) == 2
    assert "--base-bits must be 4, 8 or 16, found '5'" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--base-bits", "8"], ["--base-bits", "4", "--method", "adapter"]], ids=" ".join)
def test_other_bits_and_methods(bench, tmp_path, no_figures, words):
    fit = ["fit", str(bench.reviews), "--model", str(bench.bert), "--out", str(tmp_path / "run"), "--steps", "2", "--quiet"]
    assert main([*fit, *words]) == 0
    assert quantize.storage(predict.load(tmp_path / "run").model)[0] > 0


def test_a_killed_run_goes_on_to_the_same_weights(server, bench, tmp_path):
    run_data.write_chats(tmp_path / "chats.jsonl")
    words = ["fit", "chats.jsonl", "--model", str(bench.llama), "--method", "qlora", "--out", "run", "--steps", "4", "--quiet"]
    words += ["--checkpoint-every-steps", "1", "--precision", "float32", "--patience", "0", "--method.dropout", "0.1"]
    assert server.run(words, tmp_path).code == 0
    whole = tmp_path / "whole"
    (tmp_path / "run").rename(whole)
    flag = tmp_path / "flag"
    child = server.start(words, tmp_path, fault=("wait_at_step", "3", str(flag)))
    child.wait_for(flag)
    child.send(9)
    child.wait()
    child = server.run(["resume", "run"], tmp_path)
    assert child.code == 0, child.err
    weights = [folder / "adapter" / "adapter_model.safetensors" for folder in (tmp_path / "run", whole)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
