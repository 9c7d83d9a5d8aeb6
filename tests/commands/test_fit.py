from __future__ import annotations

import json

import pytest

from tunesmith.settings import FitSettings, TrainingSettings
from tunesmith.watch import Progress, Rehearsal, RehearsedRow


@pytest.fixture
def asked(engine, result) -> list[FitSettings]:
    """Settings that `fit` and `--dry-run` came with."""
    seen: list[FitSettings] = []

    def fit(settings, watch, *, profile):
        seen.append(settings)
        watch.say("reading")
        watch.warn("a warning")
        watch.progress(Progress(phase="training", done=1, total=1))
        return result

    def rehearse(settings, watch):
        seen.append(settings)
        watch.say("read 2 rows")
        rows = (
            RehearsedRow(tokens=("ask", " it", " answer", "\x1b"), learnt=(False, False, True, True)),
            RehearsedRow(tokens=("fine",), learnt=(False,), label="good"),
        )
        return Rehearsal(
            settings={"model": "m", "training": {"epochs": 2, "steps": None}},
            description=("read 2 rows",),
            rows=rows,
            num_steps=1200,
            predicted_seconds=185,
            predicted_memory_bytes=2_000_000_000,
        )

    engine("fit", fit=fit, rehearse=rehearse)
    return seen


def test_every_layer(tunesmith_run, asked, tmp_path):
    (tmp_path / "t.toml").write_text(
        "model = 'm'\n[method]\nname = 'lora'\nrank = 4\nalpha = 8\n"
        "[training]\nepochs = 5\nseed = 7\n[data]\ndata = ['a.csv']\n"
    )
    words = ["fit", "--config", "t.toml", "--epochs", "2.5", "--max-time", "10m", "--method.rank", "8", "--max-rows", "50"]
    assert tunesmith_run(*words).code == 0
    chosen = asked[0]
    assert chosen.method == {"name": "lora", "rank": 8, "alpha": 8}
    assert chosen.training == TrainingSettings(epochs=2.5, seed=7, max_time=600.0)
    assert chosen.data.data == ("a.csv",)
    assert chosen.data.max_rows == 50
    assert chosen.model == "m"


def test_several_files(tunesmith_run, asked):
    assert tunesmith_run("fit", "a.csv", "b.csv", "--model", "org/Some-Model").code == 0
    assert asked[0].data.data == ("a.csv", "b.csv")
    assert asked[0].out == "runs/a-and-1-more-Some-Model-lora-1"


def test_method_settings_are_typed(tunesmith_run, asked):
    words = ["--method.rank=8", "--method.alpha", "1.5", "--method.targets", "q_proj, v_proj", "--method.flag", "true"]
    assert tunesmith_run("fit", "a.csv", "--model", "m", "--method", "lora", *words, "--method.scaling", "-x").code == 0
    assert asked[0].method == {
        "name": "lora",
        "rank": 8,
        "alpha": 1.5,
        "targets": ["q_proj", "v_proj"],
        "flag": True,
        "scaling": "-x",
    }


def test_a_preset_may_stand_for_a_method(tunesmith_run, asked, monkeypatch):
    from tunesmith import settings

    trees = {"quick": {"method": {"name": "full", "x": 1}, "training": {"epochs": 1, "seed": 2}}}
    monkeypatch.setattr(settings, "preset_names", lambda: ["quick"])
    monkeypatch.setattr(settings, "load_preset", trees.__getitem__)
    tunesmith_run("fit", "a.csv", "--model", "m", "--method", "quick", "--method.y", "2", "--epochs", "3")
    tunesmith_run("fit", "a.csv", "--model", "m", "--preset", "quick", "--method", "lora")
    assert asked[0].method == {"name": "full", "x": 1, "y": 2}
    assert (asked[0].training.epochs, asked[0].training.seed) == (3.0, 2)
    assert asked[1].method == {"name": "lora"}
    assert asked[1].training.epochs == 1.0


def test_the_next_free_run_folder(tunesmith_run, asked, tmp_path):
    for number in (1, 2):
        (tmp_path / f"runs/movie-reviews-minilm-lora-{number}").mkdir(parents=True)
    tunesmith_run("fit", "starter:movie-reviews", "--model", "starter:minilm")
    tunesmith_run("fit", "data/My Reviews.jsonl.gz", "--model", "models/x.Q4_1.gguf", "--method", "full")
    tunesmith_run("fit", "a.csv", "--model", "m", "--out", "here")
    assert [chosen.out for chosen in asked] == ["runs/movie-reviews-minilm-lora-3", "runs/My-Reviews-x.Q4_1-full-1", "here"]


def test_the_result_is_on_stdout_and_the_rest_on_stderr(tunesmith_run, asked):
    outcome = tunesmith_run("fit", "a.csv", "--model", "m")
    assert "accuracy" in outcome.out
    assert "reading" in outcome.err
    assert "reading" not in outcome.out
    assert "training" not in outcome.err, "nothing is shown of what is over at once"


def test_json_is_one_object(tunesmith_run, asked):
    outcome = tunesmith_run("fit", "a.csv", "--model", "m", "--json", "--out", "here")
    content = json.loads(outcome.out)
    assert content["run"] == "here"
    assert content["stages"][1]["metrics"]["accuracy"] == {"value": 0.9, "low": 0.85, "high": None, "count": 100}


def test_quiet_keeps_warnings(tunesmith_run, asked):
    outcome = tunesmith_run("fit", "a.csv", "--model", "m", "--quiet")
    assert outcome.err == "warning: a warning\n"


def test_dry_run(tunesmith_run, asked):
    outcome = tunesmith_run("fit", "a.csv", "--model", "m", "--dry-run")
    assert outcome.code == 0
    assert "training.epochs = 2" in outcome.out
    assert "training.steps" not in outcome.out
    assert "row 1, 4 tokens, loss on 2: ask it⟦ answer�⟧\n" in outcome.out
    assert "row 2, 1 token, to be given its label: fine -> ⟦good⟧\n" in outcome.out
    assert "Predicted: 1,200 steps, about 3 min 05 s, about 2 GB of memory." in outcome.out
    assert "Nothing was trained." in outcome.out


def test_dry_run_says_what_was_found_once(tunesmith_run, asked):
    """On a terminal both streams are one text: what was said while the data were read is not said again."""
    loud = tunesmith_run("fit", "a.csv", "--model", "m", "--dry-run")
    assert (loud.out + loud.err).count("read 2 rows") == 1
    quiet = tunesmith_run("fit", "a.csv", "--model", "m", "--dry-run", "--quiet")
    assert quiet.out.count("read 2 rows") == 1


def test_dry_run_as_json(tunesmith_run, asked):
    content = json.loads(tunesmith_run("fit", "a.csv", "--model", "m", "--dry-run", "--json").out)
    assert content["num_steps"] == 1200
    assert content["rows"][0]["learnt"] == [False, False, True, True]


def test_dry_run_in_colour():
    from rich.console import Console

    from tunesmith.commands._result import row_text

    console = Console(force_terminal=True, color_system="standard", width=80)
    row = RehearsedRow(tokens=("ask", " it"), learnt=(False, True))
    with console.capture() as capture:
        console.print(row_text(row, 1, colour=True))
    assert "\x1b[1;32m it\x1b[0m" in capture.get()
    assert "⟦" not in capture.get()
