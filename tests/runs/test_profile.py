"""`fit --profile` tells where a step's time and memory go and changes nothing else."""

from __future__ import annotations

import dataclasses
import json

import pytest

from tunesmith.commands import main
from tunesmith.kernels.cpu import compiled
from tunesmith.reports import breakdown
from tunesmith.reports.result import RunResult, StepPart, StepProfile

WEIGHTS = "adapter/adapter_model.safetensors"


@pytest.fixture
def profiled(bench, no_figures, capsys, tmp_path):
    """A run of chats, or another data set of the bench, by the command line: its folder and its JSON."""

    def fit(*more, data="chats", model="llama", name="run"):
        words = ["fit", getattr(bench, data), "--model", getattr(bench, model), "--steps", 5, "--precision", "float32"]
        assert main([*map(str, [*words, "--out", tmp_path / name, "--json", "--quiet", *more])]) == 0
        return tmp_path / name, json.loads(capsys.readouterr().out)

    return fit


def _profile(folder) -> StepProfile:
    profile = RunResult.load(folder).profile
    assert profile is not None
    return profile


def test_the_weights_and_results_are_bitwise_the_same(profiled):
    dropout = ("--method.dropout", "0.2")
    plain, without = profiled(*dropout, name="plain")
    folder, content = profiled(*dropout, "--profile")
    assert (plain / WEIGHTS).read_bytes() == (folder / WEIGHTS).read_bytes()
    assert [content[part] for part in ("stages", "retention", "examples")] == [
        without[part] for part in ("stages", "retention", "examples")
    ]
    assert without["profile"] is None


def test_what_is_told(profiled):
    folder, content = profiled("--profile")
    profile = _profile(folder)
    assert content["profile"]["step"] == profile.step
    assert profile.step in (3, 4, 5)
    assert profile.num_timed == 3
    assert [part.name for part in profile.parts] == ["data", "forward", "head", "backward", "optimizer", "rest"]
    assert all(part.seconds > 0 for part in profile.parts)
    assert profile.seconds < RunResult.load(folder).cost.train_seconds  # pyright: ignore[reportOptionalMemberAccess]
    assert [part.name for part in profile.parts if part.flop] == ["forward", "head", "backward"]
    assert profile.limit_flop_per_second > 1e6
    parameters = RunResult.load(folder).model
    assert profile.weights_bytes >= 4 * (parameters.num_parameters - parameters.num_trainable)
    assert 4 * 4 * parameters.num_trainable <= profile.learned_bytes <= 4 * 4 * parameters.num_trainable + 64
    assert profile.kept_bytes > profile.num_tokens * 32 * 4, "at least the states of one layer"


def test_it_is_shown(profiled, capsys, monkeypatch):
    folder, _ = profiled("--profile")
    monkeypatch.setenv("COLUMNS", "120")
    assert main(["show", str(folder)]) == 0
    shown, page = capsys.readouterr().out, (folder / "report.html").read_text()
    for text in ("Where a step's time and memory go", "of the limit", "head and loss", "kept for the backward pass"):
        assert text in shown
        assert text.replace("'", "&#39;") in page or text in page
    rows = [line.split() for line in shown.splitlines() if line.startswith(("the whole step", "backward "))]
    assert rows[1][5:7] == ["100.0", "%"]


@pytest.mark.parametrize(("data", "model", "task"), [("reviews", "bert", "classification"), ("translations", "t5", "seq2seq")])
def test_models_of_other_kinds(profiled, data, model, task):
    folder, _ = profiled("--profile", "--task", task, data=data, model=model)
    parts = {part.name: part for part in _profile(folder).parts}
    assert parts["forward"].flop > parts["head"].flop > 0
    assert parts["backward"].flop > 0


@pytest.mark.parametrize(
    ("data", "model", "more", "left_out"),
    [
        ("chats", "llama", ("--precision", "bfloat16"), True),
        ("chats", "llama", ("--precision", "bfloat16", "--fast-paths", "off"), False),
        ("chats", "llama", (), False),
        ("reviews", "bert", ("--precision", "bfloat16", "--task", "classification"), False),
    ],
)
def test_where_the_head_leaves_out_words(profiled, data, model, more, left_out):
    if left_out and not (compiled.is_there() and compiled.pairs_are_fast()):
        pytest.skip("this processor computes with all words")
    folder, _ = profiled("--profile", "--workers", 2, *more, data=data, model=model)
    assert _profile(folder).leaves_out_words == left_out


@pytest.mark.parametrize(
    ("fact", "text"),
    [("has_rounded_products", "whole numbers of eight bits may pass"), ("leaves_out_words", "the head may pass")],
)
def test_the_heading_says_why_the_limit_may_be_passed(fact, text):
    part = StepPart(name="head", seconds=1.0, flop=10**9)
    sizes = dict.fromkeys(("step", "num_timed", "num_tokens", "weights_bytes", "learned_bytes", "kept_bytes"), 1)
    plain = StepProfile(parts=[part], limit_flop_per_second=1e9, **sizes)
    assert text not in breakdown.heading(plain)
    assert text in breakdown.heading(dataclasses.replace(plain, **{fact: True}))
