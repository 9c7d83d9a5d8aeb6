"""Every way to use the command line wrongly: one clear message, the right exit code, nothing on stdout, no traceback."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tunesmith.commands import main

FIT = ("fit", "a.csv", "--model", "m")


@dataclass(frozen=True)
class Case:
    """A command line, and what its message must say."""

    words: tuple[str, ...]
    message: str
    files: dict[str, str] = field(default_factory=dict)
    """Files to put into the working folder first."""
    code: int = 2


CASES = {
    "unknown command": Case(("fti", "a.csv"), "Unknown command 'fti'. Did you mean 'fit'?"),
    "flag before the command": Case(("--json", "fit"), "The command comes first"),
    "unknown flag": Case((*FIT, "--epoch", "3"), "Unknown flag --epoch. Did you mean --epochs?"),
    "unknown flag like no other": Case((*FIT, "--nosuch", "3"), "Unknown flag --nosuch. `tunesmith fit --help`"),
    "unknown flag with a value": Case((*FIT, "--learning_rat=3"), "Unknown flag --learning_rat. Did you mean --learning-rate?"),
    "flag of another command": Case(("show", "x", "--quiet"), "Unknown flag --quiet."),
    "too many arguments": Case(("show", "a", "b"), "Unexpected argument 'b'."),
    "missing run": Case(("show",), "Missing: RUN."),
    "missing run and folder": Case(("merge",), "Missing: RUN, --out DIR."),
    "missing value": Case((*FIT, "--epochs"), "--epochs needs a value."),
    "no data": Case(("fit", "--model", "m"), "No data was given."),
    "no model": Case(("fit", "a.csv"), "No model was given."),
    "no data to evaluate": Case(("evaluate", "x"), "No data was given."),
    "unknown method": Case((*FIT, "--method", "lroa"), "Unknown method 'lroa'. Did you mean 'lora'?"),
    "unknown preset": Case((*FIT, "--preset", "nope"), "Unknown preset 'nope'."),
    "unknown task": Case((*FIT, "--task", "clasification"), "Did you mean 'classification'?"),
    "unknown schedule": Case((*FIT, "--schedule", "cosin"), "--schedule must be one of cosine, linear, constant"),
    "unknown precision": Case(
        (*FIT, "--precision", "fp16"), "--precision must be one of auto, float32, bfloat16; found 'fp16'."
    ),
    "epochs are no number": Case((*FIT, "--epochs", "two"), "--epochs must be a number, found 'two'."),
    "no epochs": Case((*FIT, "--epochs", "0"), "--epochs must be above 0, found '0'."),
    "negative steps": Case((*FIT, "--steps", "-3"), "--steps must be at least 1, found '-3'."),
    "half a step": Case((*FIT, "--steps", "2.5"), "--steps must be a whole number, found '2.5'."),
    "endless learning rate": Case((*FIT, "--learning-rate", "inf"), "--learning-rate must be a number, found 'inf'."),
    "no rows": Case((*FIT, "--max-rows", "0"), "--max-rows must be at least 1"),
    "rows too short": Case((*FIT, "--max-length", "2"), "--max-length must be at least 8"),
    "share over one": Case((*FIT, "--test-share", "10"), "--test-share must be at least 0 and at most 1, found '10'."),
    "time without a unit that exists": Case((*FIT, "--max-time", "5 parsecs"), "--max-time: '5 parsecs' is not a time"),
    "no time": Case((*FIT, "--max-time", "0s"), "--max-time must be above 0"),
    "method setting without a value": Case((*FIT, "--method.rank"), "--method.rank needs a name and a value"),
    "method setting before a flag": Case((*FIT, "--method.rank", "--json"), "--method.rank needs a name and a value"),
    "method setting without a name": Case((*FIT, "--method.", "8"), "--method. needs a name and a value"),
    "method setting elsewhere": Case(("show", "x", "--method.rank", "8"), "`tunesmith show` takes no method"),
    "no settings file": Case((*FIT, "--config", "t.toml"), "The settings file t.toml cannot be read: No such file"),
    "settings file is a folder": Case((*FIT, "--config", "."), "cannot be read: Is a directory"),
    "settings file is not TOML": Case((*FIT, "--config", "t.toml"), "t.toml is not valid TOML", {"t.toml": "a = = 1"}),
    "unknown key": Case(
        (*FIT, "--config", "t.toml"),
        "t.toml: unknown key `training.epocs`. Did you mean `training.epochs`?",
        {"t.toml": "[training]\nepocs = 1"},
    ),
    "key in the wrong place": Case(
        (*FIT, "--config", "t.toml"), "unknown key `seed`. Did you mean `training.seed`?", {"t.toml": "seed = 1"}
    ),
    "wrong type in the file": Case(
        (*FIT, "--config", "t.toml"),
        "`training.epochs` must be a number, found 'two'",
        {"t.toml": "[training]\nepochs = 'two'"},
    ),
    "unknown method in the file": Case(
        ("fit", "a.csv", "--config", "t.toml"), "Unknown method 'fulll'. Did you mean 'full'?", {"t.toml": "method = 'fulll'"}
    ),
    "no such run": Case(("show", "nowhere"), "There is no run folder 'nowhere'."),
    "no such run to resume": Case(("resume", "nowhere"), "There is no run folder 'nowhere'."),
    "no such run to chat with": Case(("chat", "nowhere"), "There is no run folder 'nowhere'."),
    "no such run to merge": Case(("merge", "nowhere", "--out", "x"), "There is no run folder 'nowhere'."),
    "no such run to evaluate": Case(("evaluate", "nowhere", "a.csv"), "There is no run folder 'nowhere'."),
    "a folder that is no run": Case(("show", "."), ". is not a run folder: it has no run.json."),
    "a damaged run": Case(("show", "x"), "x/run.json is damaged", {"x/run.json": "{"}),
    "a run of a newer version": Case(("show", "x"), "schema version 99", {"x/run.json": '{"schema_version": 99}'}),
    "a file in place of a folder of runs": Case(("runs", "a.csv"), "There is no folder 'a.csv'."),
    "json without a prompt": Case(("chat", "x", "--json"), "--json needs --prompt"),
    "no tokens": Case(("chat", "x", "--max-new-tokens", "0"), "--max-new-tokens must be at least 1, found 0."),
    "tokens are no number": Case(("chat", "x", "--max-new-tokens", "z"), "--max-new-tokens must be a whole number, found 'z'"),
}


@pytest.mark.parametrize("name", CASES)
def test_bad_input(name, tmp_path, monkeypatch, capsys):
    case = CASES[name]
    monkeypatch.chdir(tmp_path)
    Path("a.csv").write_text("text,label\ngood,1\n")
    for path, content in case.files.items():
        Path(path).parent.mkdir(exist_ok=True)
        Path(path).write_text(content)
    before = sorted(Path().rglob("*"))
    assert main(case.words) == case.code
    seen = capsys.readouterr()
    assert case.message in seen.err
    assert seen.err.startswith("tunesmith: ")
    assert seen.err.count("\n") == 1
    assert seen.out == "" or "--json" in case.words
    assert sorted(Path().rglob("*")) == before, "a wrong command line leaves nothing behind"
