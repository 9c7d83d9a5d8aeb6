"""A run in bfloat16 leaves nothing rounded that exists in float32."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

import tunesmith as ts
from tunesmith.checkpoint import folder as checkpoints
from tunesmith.model import load, trial
from tunesmith.model.forward import PaddedForward
from tunesmith.reports.result import RunResult

Weights = dict[str, torch.Tensor]


def _tuned(bench, out, method: str) -> Weights:
    ts.fit(bench.reviews, model=bench.bert, method=method, out=out, steps=2, precision="bfloat16", learning_rate=0.01)
    return load_file(out / "model" / "model.safetensors")


def _is_rounded(weight: torch.Tensor) -> bool:
    return torch.equal(weight, weight.bfloat16().float())


@pytest.mark.usefixtures("no_figures")
def test_weights_that_learnt_are_saved_as_they_learnt(bench, tmp_path):
    weights = _tuned(bench, tmp_path / "run", "full")
    progress = RunResult.load(tmp_path / "run").progress
    assert progress is not None
    state = checkpoints.load(tmp_path / "run" / "checkpoints", progress.best_step).tensors["optimizer"]
    learnt = torch.cat([values for name, values in state.items() if name.endswith(".values")])
    assert torch.equal(learnt.sort().values, torch.cat([weight.flatten() for weight in weights.values()]).sort().values)
    assert not any(_is_rounded(weight) for weight in weights.values())


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize("is_packed", [True, False], ids=["packed", "padded"])
def test_a_frozen_base_is_read_in_the_format_it_is_computed_in(bench, tmp_path, monkeypatch, is_packed):
    """Padded batches are computed in float32 on a processor: then the weights are read again, whole."""
    read, load_base = [], load.load
    choose = trial.choose if is_packed else lambda model, **_: (PaddedForward(model), "it is told to be")
    monkeypatch.setattr(trial, "choose", choose)
    monkeypatch.setattr(load, "load", lambda *args, **facts: read.append(facts.get("dtype")) or load_base(*args, **facts))
    ts.fit(bench.chats, model=bench.llama, method="lora", out=tmp_path / "run", steps=1, precision="bfloat16")
    assert read == ([torch.bfloat16] if is_packed else [torch.bfloat16, torch.float32])
    settings = RunResult.load(tmp_path / "run").settings
    assert settings["training"]["precision"] == ("bfloat16" if is_packed else "float32")


@pytest.mark.usefixtures("no_figures")
def test_weights_that_did_not_learn_are_those_of_the_base(bench, tmp_path):
    weights, base = _tuned(bench, tmp_path / "run", "bitfit"), load_file(bench.bert / "model.safetensors")
    same = {name for name, weight in base.items() if torch.equal(weight, weights[name])}
    head = {name for name in base if name.startswith("classifier.")}
    assert same == {name for name in base if not name.endswith(".bias")} - head
