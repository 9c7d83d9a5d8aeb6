"""Runs trained together are the runs that `fit` makes one after the other, in folders like any other's."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import tunesmith as ts
from tunesmith.errors import Interrupted, SettingsError
from tunesmith.methods.bitfit import BitFit
from tunesmith.runs import fit_many as runs_fit_many
from tunesmith.training import common_loop, workers

METHODS = [ts.LoRA(rank=4), ts.LoRA(rank=8, alpha=8.0), ts.LoRA(rank=2, scaling="rank-stabilized")]
RATES = [0.01, 0.003, 0.002]
MORE = {"steps": 4, "precision": "float32", "max_length": 64, "patience": 0}

pytestmark = pytest.mark.usefixtures("no_figures")


def _fit_many(bench, out: Path, kind: str = "chats", methods=METHODS, rates=RATES, **more) -> list[ts.Run]:
    model = bench.bert if kind == "reviews" else bench.llama
    return ts.fit_many(getattr(bench, kind), model=model, methods=methods, learning_rates=rates, out=out, more={**MORE, **more})


def _fit(bench, out: Path, number: int, kind: str = "chats", methods=METHODS) -> ts.Run:
    model = bench.bert if kind == "reviews" else bench.llama
    settings = {"steps": 4, "precision": "float32", "max_length": 64, "more": {"patience": 0}}
    return ts.fit(getattr(bench, kind), model=model, method=methods[number], learning_rate=RATES[number], out=out, **settings)


def _adapter(run: ts.Run) -> dict[str, Tensor]:
    return load_file(run.folder / "adapter" / "adapter_model.safetensors")


def _assert_same(run: ts.Run, alone: ts.Run) -> None:
    found, expected = _adapter(run), _adapter(alone)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-5)
    assert run.result.progress == alone.result.progress
    assert run.result.model == alone.result.model
    assert run.result.data == alone.result.data
    assert run.result.settings == {**alone.result.settings, "out": str(run.folder)}
    assert run.metrics == pytest.approx(alone.metrics, rel=1e-4)


@pytest.mark.parametrize("kind", ["chats", "reviews"])
def test_each_is_the_run_that_fit_makes_alone(bench, tmp_path, kind):
    """Also with a new head, which every run has for itself."""
    runs = _fit_many(bench, tmp_path / "many", kind)
    assert [run.folder for run in runs] == [tmp_path / "many" / str(number) for number in (1, 2, 3)]
    for number, run in enumerate(runs):
        _assert_same(run, _fit(bench, tmp_path / str(number), number, kind))


@pytest.mark.parametrize("kind", ["chats", "reviews"])
def test_several_processes_find_what_one_finds(bench, tmp_path, kind, monkeypatch):
    hired, real = [], workers._hire
    monkeypatch.setattr(workers, "_hire", lambda *given: hired.append(real(*given)) or hired[-1])
    one, two = (_fit_many(bench, tmp_path / str(n), kind, workers=n, tokens_per_pass=60) for n in (1, 2))
    assert len(hired) == 1
    assert hired[0].own_bytes > 0
    for run, other in zip(one, two, strict=True):
        assert run.metrics == pytest.approx(other.metrics, rel=1e-4)
        for name, tensor in _adapter(run).items():
            torch.testing.assert_close(tensor, _adapter(other)[name], rtol=0, atol=1e-5)


def test_each_folder_is_a_run_like_any_other(bench, tmp_path):
    run = ts.load(_fit_many(bench, tmp_path / "many")[1].folder)
    assert run.result.status == "finished"
    assert run.report.exists()
    assert (run.folder / "README.md").exists()
    assert len(run.predict(["red river stone"], max_new_tokens=4)) == 1
    (stage,) = [s for s in run.evaluate(bench.more_chats) if s.name == "tuned model"]
    assert stage.metrics["loss"].value > 0
    assert (run.merge(tmp_path / "merged") / "model.safetensors").exists()
    steps = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in steps if line["kind"] == "step"] == [1, 2, 3, 4]


def test_each_seed_has_its_own_order_and_start(bench, tmp_path):
    model, more = bench.llama, {**MORE, "learning_rate": 0.003}
    runs = ts.fit_many(bench.chats, model=model, methods=[ts.LoRA(rank=4)] * 2, seeds=[0, 1], out=tmp_path / "many", more=more)
    one = ts.fit(
        bench.chats,
        model=model,
        method=ts.LoRA(rank=4),
        learning_rate=0.003,
        out=tmp_path / "1",
        seed=1,
        steps=4,
        precision="float32",
        max_length=64,
        more={"patience": 0},
    )
    _assert_same(runs[1], one)
    assert any(not torch.equal(tensor, _adapter(runs[1])[name]) for name, tensor in _adapter(runs[0]).items())


def test_one_that_diverges_fails_alone(bench, tmp_path):
    runs = _fit_many(bench, tmp_path / "many", methods=METHODS[:2], rates=[0.01, 1e30], steps=8)
    assert [run.result.status for run in runs] == ["finished", "failed"]
    assert "not finite" in str(runs[1].result.error)
    assert runs[1].metrics == {}
    assert ts.load(runs[1].folder).result.status == "failed"


def test_a_signal_saves_all_and_each_can_go_on_alone(bench, tmp_path, monkeypatch):
    real, done = common_loop.take_common_step, []

    def interrupted(*arguments):
        done.append(None)
        if len(done) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*arguments)

    monkeypatch.setattr(common_loop, "take_common_step", interrupted)
    with pytest.raises(Interrupted, match="tunesmith resume .*1; tunesmith resume .*2; tunesmith resume .*3"):
        _fit_many(bench, tmp_path / "many")
    assert [ts.load(tmp_path / "many" / name).result.status for name in "123"] == ["interrupted"] * 3
    from tunesmith.runs.resume import resume
    from tunesmith.watch import Quiet

    resume(tmp_path / "many" / "2", Quiet())
    _assert_same(ts.load(tmp_path / "many" / "2"), _fit(bench, tmp_path / "alone", 1))


@pytest.mark.parametrize(
    ("methods", "more", "reason"),
    [
        ([], {}, "No method was given"),
        ([ts.LoRA(), BitFit()], {}, r"\(LoRA\) can be trained together; number 2, 'bitfit', learns"),
        ([ts.LoRA(), ts.LoRA(dropout=0.1)], {}, "number 2, 'lora', has dropout"),
        ([ts.LoRA(), "qlora"], {}, "base_bits is 16 for number 1 and 4 for number 2"),
        ([ts.LoRA()], {"model_dropout": "on"}, "model_dropout"),
        ([ts.LoRA()], {"model_dropuot": "on"}, "Did you mean"),
    ],
)
def test_what_cannot_go_together_leaves_nothing_behind(bench, tmp_path, methods, more, reason):
    with pytest.raises(ts.TunesmithError, match=reason) as error:
        _fit_many(bench, tmp_path / "many", methods=methods, rates=None, **more)
    assert error.value.exit_code == 2
    assert not (tmp_path / "many").exists()


def test_one_rate_for_each(bench, tmp_path):
    with pytest.raises(SettingsError, match="`learning_rates` has 2 values for 3 methods"):
        _fit_many(bench, tmp_path / "many", rates=[0.1, 0.2])


def test_classifiers_share_the_seed_of_their_head(bench, tmp_path):
    with pytest.raises(SettingsError, match="must have the same"):
        ts.fit_many(bench.reviews, model=bench.bert, methods=METHODS, seeds=[0, 1, 2], out=tmp_path / "many", more=MORE)


def test_new_folders_are_free_and_different(bench, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "chats-llama-lora-2").mkdir(parents=True)
    asked = []
    monkeypatch.setattr("tunesmith.api._fit_many", lambda chosen, watch: asked.extend(chosen) or [None] * len(chosen))
    runs = ts.fit_many(bench.chats, model=bench.llama, methods=["lora", "rslora"])
    assert (
        [str(run.folder) for run in runs]
        == [own.out for own in asked]
        == [
            "runs/chats-llama-lora-1",
            "runs/chats-llama-lora-3",
        ]
    )
    assert [own.method["name"] for own in asked] == ["lora", "lora"]


def test_the_base_is_loaded_and_measured_once(bench, tmp_path, monkeypatch):
    counts = {"load": 0, "measure": 0}
    for module, name in ((runs_fit_many.baseline, "measure"), (runs_fit_many.prepare_session.__globals__["load"], "load")):
        real = getattr(module, name)

        def counting(*arguments, real=real, name=name, **more):
            counts[name] += 1
            return real(*arguments, **more)

        monkeypatch.setattr(module, name, counting)
    runs = _fit_many(bench, tmp_path / "many")
    assert counts == {"load": 1, "measure": 1}
    assert all(run.result.stages[0] == runs[0].result.stages[0] for run in runs)
