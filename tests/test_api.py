"""The Python interface, and the examples that show it."""

from __future__ import annotations

import importlib.util
import inspect
import logging
from pathlib import Path
from types import ModuleType

import pytest

import run_data
import tunesmith as ts
from tunesmith import api
from tunesmith.settings import DataSettings, FitSettings, TrainingSettings

EXAMPLES = Path(__file__).parents[1] / "examples"


def _example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def _no_figures(monkeypatch):
    monkeypatch.setattr("tunesmith.reports.figures.draw", lambda *_: "<svg></svg>")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a model and reviews."""
    folder = tmp_path_factory.mktemp("api")
    run_data.save_model(folder / "bert")
    run_data.write_reviews(folder / "reviews.csv")
    return folder


@pytest.fixture(scope="module")
def run(made):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tunesmith.reports.figures.draw", lambda *_: "<svg></svg>")
        method = ts.LoRA(rank=4)
        return ts.fit(made / "reviews.csv", model=made / "bert", method=method, steps=2, precision="float32", out=made / "run")


@pytest.fixture
def asked(monkeypatch) -> list[FitSettings]:
    """Settings that the engine was called with."""
    seen = []
    monkeypatch.setattr(api, "_fit", lambda settings, watch, *, profile: seen.append(settings))
    return seen


def test_what_a_run_gives(run, made):
    assert run.folder == made / "run"
    assert set(run.metrics) == {"accuracy", "macro_f1", "loss"}
    assert all(isinstance(value, float) for value in run.metrics.values())
    assert run.report.read_text().lower().startswith("<!doctype html>")
    assert set(run.predict(["a film", "a bad film"])) <= {"bad", "fair", "good"}
    assert run.result.method["rank"] == 4
    assert repr(run).startswith(f"Run('{made / 'run'}', accuracy=")


def test_a_run_comes_back(run):
    again = ts.load(str(run.folder))
    assert again.result == run.result
    assert again.metrics == run.metrics
    assert again.predict(["a film"]) == run.predict(["a film"])


def test_no_run_to_load(tmp_path):
    with pytest.raises(ts.TunesmithError, match="is not a run folder"):
        ts.load(tmp_path)


def test_every_setting_arrives(asked, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ts.fit(
        ["a.csv", Path("b.csv")],
        model=Path("m"),
        method=ts.LoRA(rank=3, targets=("q_proj",)),
        task="chat",
        eval="e.csv",
        max_rows=5,
        max_length=64,
        epochs=2,
        steps=7,
        max_time="10m",
        rows_per_step=4,
        learning_rate=0.1,
        precision="bfloat16",
        seed=3,
        more={"patience": 0, "label_column": "y"},
    )
    (chosen,) = asked
    assert chosen.data == DataSettings(data=("a.csv", "b.csv"), eval="e.csv", max_rows=5, max_length=64, label_column="y")
    wanted = {"epochs": 2.0, "steps": 7, "max_time": 600.0, "rows_per_step": 4, "learning_rate": 0.1, "precision": "bfloat16"}
    assert chosen.training == TrainingSettings(**wanted, seed=3, patience=0)
    assert (chosen.model, chosen.task, chosen.out) == ("m", "chat", "runs/a-and-1-more-m-lora-1")
    assert (chosen.method["name"], chosen.method["rank"], list(chosen.method["targets"])) == ("lora", 3, ["q_proj"])


def test_what_is_left_out_is_what_the_command_leaves_out(asked):
    ts.fit("a.csv", model="m", out="here")
    assert asked == [FitSettings(model="m", data=DataSettings(data=("a.csv",)), out="here")]


def test_a_method_by_name_or_preset(asked, monkeypatch):
    from tunesmith import settings

    monkeypatch.setattr(settings, "preset_names", lambda: ["quick"])
    monkeypatch.setattr(
        settings, "load_preset", lambda name: {"method": {"name": "lora", "rank": 2}, "training": {"epochs": 3}}
    )
    ts.fit("a.csv", model="m", method="full")
    ts.fit("a.csv", model="m", method="quick")
    assert [chosen.method for chosen in asked] == [{"name": "full"}, {"name": "lora", "rank": 2}]
    assert asked[1].training.epochs == 3.0


def test_what_a_preset_sets_is_not_overruled_by_defaults(asked, monkeypatch):
    from tunesmith import settings

    monkeypatch.setattr(settings, "preset_names", lambda: ["quick"])
    tree = {"method": {"name": "lora"}, "training": {"seed": 5, "precision": "float32"}}
    monkeypatch.setattr(settings, "load_preset", lambda name: tree)
    ts.fit("a.csv", model="m", method="quick")
    assert (asked[0].training.seed, asked[0].training.precision) == (5, "float32")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"method": "lroa"}, "Unknown method 'lroa'. Did you mean 'lora'?"),
        ({"more": {"patienc": 1}}, "unknown key `patienc`. Did you mean `training.patience`?"),
        ({"method": ts.LoRA}, "found the class; write LoRA()"),
        ({"method": 3}, "must be a method such as LoRA(rank=16), or a name; found 3"),
        ({"more": {"model": "other"}}, "`model` is an argument of its own"),
        ({"more": {"data": "b.csv"}}, "`data` is an argument of its own"),
        ({"epochs": -1}, "`training.epochs` must be above 0, found -1"),
        ({"max_time": "soon"}, "'soon' is not a time"),
        ({"task": "clasification"}, "Did you mean 'classification'?"),
        ({"model": ""}, "No model was given"),
        ({"data": []}, "No data was given"),
    ],
)
def test_wrong_settings(asked, wrong, message):
    with pytest.raises(ts.TunesmithError) as error:
        ts.fit(**({"data": "a.csv", "model": "m"} | wrong))
    assert message in str(error.value)
    assert asked == []


@pytest.mark.parametrize("name", ["learning_rate", "seed", "method"])
def test_training_many_names_its_own_arguments(name):
    given = {"learning_rates": [0.1], "seeds": [1]}
    with pytest.raises(ts.TunesmithError, match=f"`{name}` is an argument of its own, `{name}s=...`"):
        ts.fit_many("a.csv", model="m", methods=["lora"], **given, more={name: 1})


def test_wrong_input_leaves_nothing_behind(made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ts.TunesmithError, match="Target 'nope' matches no linear layer"):
        ts.fit(made / "reviews.csv", model=made / "bert", method=ts.LoRA(targets=("nope",)), precision="float32")
    assert list(tmp_path.iterdir()) == []


def test_a_message_must_be_one(run):
    with pytest.raises(ts.TunesmithError, match="A message is"):
        run.chat([{"role": "boss", "content": "x"}])


def test_facts_and_warnings_are_logged(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("tunesmith"), "disabled", False)  # import-linter switches off all loggers it finds
    with caplog.at_level(logging.INFO, "tunesmith"):
        api.Logged().say("read 9 rows, 100 % of them")
        api.Logged().warn("few")
    assert [(record.levelname, record.message) for record in caplog.records] == [
        ("INFO", "read 9 rows, 100 % of them"),
        ("WARNING", "few"),
    ]


def test_every_named_setting_is_one_of_the_command_line():
    known = {field for layout in (FitSettings, DataSettings, TrainingSettings) for field in layout.__dataclass_fields__}
    assert set(inspect.signature(ts.fit).parameters) - known == {"more", "profile", "watch"}


def test_example_of_a_plain_loop(tmp_path, capsys):
    before, after = _example("plain_loop").main(str(run_data.save_model(tmp_path / "llama", "llama")))
    assert after < before - 1
    assert "parameters learn" in capsys.readouterr().out


def test_example_of_the_whole_job(made, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(ts, "fit", lambda *a, **k: api.fit(*a, **(k | {"steps": 2, "max_time": None, "precision": "float32"})))
    run = _example("fit_reviews").main(str(made / "reviews.csv"), str(made / "bert"), str(tmp_path / "run"))
    assert run.result.status == "finished"
    assert (tmp_path / "run-merged" / "model.safetensors").exists()
    assert "'a warm and clever film' is " in capsys.readouterr().out
