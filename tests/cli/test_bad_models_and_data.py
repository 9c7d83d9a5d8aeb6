"""Wrong models, data and folders, on the real engine: one message, the right exit code, nothing left behind."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import hostile_texts
import run_data
import tiny_models
import tiny_tokenizer
from tunesmith import durable
from tunesmith.commands import main
from tunesmith.reports.result import RunResult

CHAT = '{"prompt": "%s", "completion": "%s"}\n'


@pytest.fixture(scope="module")
def stock(tmp_path_factory):
    """Models that work and models that do not, data files, a finished run and an unfinished one."""
    folder = tmp_path_factory.mktemp("stock")
    for name in ("bert", "llama", "t5", "gemma2"):
        run_data.save_model(folder / name, name)
    run_data.write_reviews(folder / "reviews.csv")
    run_data.write_chats(folder / "chats.jsonl")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tunesmith.reports.figures.draw", lambda *_: "<svg></svg>")
        words = ["fit", str(folder / "reviews.csv"), "--model", str(folder / "bert"), "--steps", "1", "--precision", "float32"]
        assert main([*words, "--quiet", "--out", str(folder / "done")]) == 0
    result = RunResult.load(folder / "done")
    for status in ("killed", "interrupted", "failed"):
        result.status = status  # type: ignore[assignment]
        (folder / status).mkdir()
        result.save(folder / status)
    for name in ("empty", "text", "pickle", "no-tokenizer", "damaged", "strange", "code"):
        shutil.copytree(folder / "bert", folder / f"bert-{name}")
    (folder / "bert-empty" / "model.safetensors").unlink()
    (folder / "bert-text" / "model.safetensors").write_text("not a tensor in it")
    (folder / "bert-pickle" / "model.safetensors").unlink()
    (folder / "bert-pickle" / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    for path in (folder / "bert-no-tokenizer").glob("tokenizer*"):
        path.unlink()
    with (folder / "bert-damaged" / "model.safetensors").open("r+b") as file:
        file.truncate(5000)
    config = json.loads((folder / "bert" / "config.json").read_text())
    (folder / "bert-strange" / "config.json").write_text(json.dumps(config | {"model_type": "nonesuch"}))
    (folder / "bert-code" / "config.json").write_text(
        json.dumps(config | {"architectures": ["EvilModel"], "auto_map": {"AutoModel": "evil.Model"}})
    )
    (folder / "bert-code" / "evil.py").write_text("raise SystemExit('ran')")
    return folder


@dataclass(frozen=True)
class Case:
    """A command line in the folder of `stock`, what its message must say, and a file to write first."""

    words: str
    message: str
    file: tuple[str, str] | None = None
    code: int = 2


def fit(message: str, words: str = "reviews.csv --model bert", *, file: tuple[str, str] | None = None, code: int = 2) -> Case:
    return Case(f"fit {words} --out new/run", message, file, code)


def data(message: str, name: str, content: str, words: str = "--model bert") -> Case:
    return fit(message, f"{name} {words}", file=(name, content))


def _chats(answer: str, num_rows: int = 40, *, long: int = 0) -> str:
    asked = [f"what is {i} {run_data.WORDS[i % 13]}" for i in range(num_rows)]
    return "".join(CHAT % (question, "x" * 200 if i < long else answer) for i, question in enumerate(asked))


def _labelled(labels: str, num_rows: int = 40) -> str:
    return "text,label\n" + "".join(f"t {i},{labels.format(i)}\n" for i in range(num_rows))


CASES = {
    # models
    "no such model": fit("There is no model './nowhere'", "reviews.csv --model ./nowhere"),
    "a model out of reach": fit("There is no folder 'nobody/nothing' here", "reviews.csv --model nobody/nothing", code=75),
    "an unknown starter model": fit("Did you mean", "reviews.csv --model starter:minilmm"),
    "a file as the model": fit("reviews.csv is a file, but no .gguf file", "reviews.csv --model reviews.csv"),
    "a false GGUF file": fit("x.gguf is not a GGUF file", "reviews.csv --model x.gguf", file=("x.gguf", "no")),
    "a folder that is no model": fit("is not a model folder: it has no config.json", "reviews.csv --model done"),
    "an adapter as the model": fit("It is an adapter: name the base model", "reviews.csv --model done/adapter"),
    "no weights": fit("bert-empty has no weights: expected model.safetensors", "reviews.csv --model bert-empty"),
    "weights that are none": fit("bert-text/model.safetensors", "reviews.csv --model bert-text"),
    "weights cut short": fit("bert-damaged/model.safetensors", "reviews.csv --model bert-damaged"),
    "a pickle": fit("Such a file can run any code when it is opened", "reviews.csv --model bert-pickle"),
    "no tokenizer": fit("bert-no-tokenizer has no tokenizer", "reviews.csv --model bert-no-tokenizer"),
    "an unknown architecture": fit("nonesuch", "reviews.csv --model bert-strange"),
    "a model that wants to run code": fit("auto_map", "reviews.csv --model bert-code"),
    "an encoder for chats": fit("this model reads text and cannot write any", "chats.jsonl --model bert"),
    "an encoder for plain text": fit("cannot write", "reviews.csv --model bert --task text --text-column text"),
    "an encoder-decoder for chats": fit("--task seq2seq with --prompt-column", "chats.jsonl --model t5 --task chat"),
    # methods
    "an unknown layer": fit("Target 'nope' matches no linear layer", "reviews.csv --model bert --method.targets nope"),
    "an unknown method setting": fit("rnak", "reviews.csv --model bert --method.rnak 8"),
    "a method setting of another type": fit("rank", "reviews.csv --model bert --method.rank many"),
    "a rank of nothing": fit("method.rank must be between 1 and 4096", "reviews.csv --model bert --method.rank 0"),
    "an output head to adapt": fit(
        "The output head 'lm_head' cannot be adapted", "chats.jsonl --model llama --method.targets lm_head"
    ),
    "virtual keys beside a soft cap": fit(
        "Gemma2Attention has a soft cap or sinks", "chats.jsonl --model gemma2 --method prefix"
    ),
    # data
    "no such file": fit("nowhere.csv", "nowhere.csv --model bert"),
    "an unknown starter data set": fit("Did you mean", "starter:movie-review --model bert"),
    "an empty file": data("e.csv", "e.csv", ""),
    "a header alone": data("e.csv", "e.csv", "text,label\n"),
    "no known columns": data("Name them: --prompt-column", "e.csv", "a1,b2,c3\n1,2,3\n4,5,6\n"),
    "an unknown column": fit("Did you mean 'label'?", "reviews.csv --model bert --label-column lable"),
    "broken JSON": data("line 1", "b.jsonl", "{" * 9 + "\n"),
    "an unknown file type": data("x.docx", "x.docx", "PK"),
    "one class": data("All 40 rows have the label 'same'", "o.csv", _labelled("same")),
    "a class for each row": data("too many for classes", "o.csv", _labelled("c{}x")),
    "too few rows": data("too few to hold some out", "o.csv", "text,label\na b,x\nc d,y\n"),
    "all answers empty": data("No row of e.jsonl", "e.jsonl", _chats(""), "--model llama"),
    "most answers cut off": data(
        "are cut off by the maximum length", "l.jsonl", _chats("y", long=10), "--model llama --max-length 64"
    ),
    "longer than the model": fit("is more than the model takes: 128", "reviews.csv --model bert --max-length 4096"),
    "a label that only --eval knows": fit(
        "'bda' in row 1", "reviews.csv --model bert --eval e.csv", file=("e.csv", "text,label\nx,bda\n")
    ),
    "no rows to choose by": fit(
        "is held out to choose the best checkpoint. Give more rows or a larger --validation-share.",
        "reviews.csv --model bert --validation-share 0",
    ),
    "no rows to test on": fit("or rows by --eval", "reviews.csv --model bert --test-share 0"),
    "all rows held out": fit("nothing is left to train on", "reviews.csv --model bert --test-share 0.9 --validation-share 0.2"),
    "another task than the data's": fit(
        "which fit the task classification by no usual names", "chats.jsonl --model bert --task classification"
    ),
    "an unknown shape": fit("Did you mean 'messages'?", "chats.jsonl --model llama --shape mesages"),
    # folders
    "a run is there": Case("fit reviews.csv --model bert --out done", "done holds a run already."),
    "a folder in use for something else": Case("fit reviews.csv --model bert --out bert", "bert is not empty (config.json, "),
    "a file in place of the folder": Case("fit reviews.csv --model bert --out reviews.csv", "reviews.csv cannot be made"),
    "a folder below a file": Case("fit reviews.csv --model bert --out reviews.csv/x", "cannot be made: Not a directory"),
    # finished and unfinished runs
    "an unknown label to evaluate on": Case(
        "evaluate done e.csv --quiet",
        "'goood' in row 1, which the model does not know. Did you mean 'good'? Known: bad, fair, good.",
        ("e.csv", "text,label\nx,goood\n"),
    ),
    "other columns to evaluate on": Case("evaluate done e.csv --quiet", "e.csv", ("e.csv", "a1,b2\nx,y\n")),
    "nothing to evaluate on": Case("evaluate done nowhere.csv --quiet", "nowhere.csv"),
    "to merge into a folder that is there": Case("merge done --out bert --quiet", "bert exists already."),
    "to resume what is finished": Case("resume done", "done is finished; nothing is left to do."),
    **{
        f"to {verb} a run that is {status}": Case(words.format(status), f"{status} is {status}")
        for status in ("killed", "interrupted", "failed")
        for verb, words in (
            ("evaluate", "evaluate {} reviews.csv --quiet"),
            ("chat with", "chat {} --prompt x --quiet"),
            ("merge", "merge {} --out new --quiet"),
        )
    },
}


@pytest.mark.parametrize("name", CASES)
def test_bad_input(name, stock, monkeypatch, capsys):
    case = CASES[name]
    _check(case, stock, monkeypatch, capsys)


def _check(case: Case, stock: Path, monkeypatch, capsys) -> str:
    monkeypatch.chdir(stock)
    if case.file is not None:
        Path(case.file[0]).write_text(case.file[1])
    before = sorted(Path().rglob("*"))
    words = case.words.split()
    code = main([*words, "--quiet", "--precision", "float32"] if words[0] == "fit" else words)
    seen = capsys.readouterr()
    try:
        assert code == case.code, seen.err
        message = seen.err.splitlines()[-1]
        assert message.startswith("tunesmith: ")
        assert case.message in message
        assert [line for line in seen.err.splitlines()[:-1] if not line.startswith("warning: ")] == []
        assert seen.out == ""
        assert sorted(Path().rglob("*")) == before, "a run that never began leaves nothing behind"
        return message
    finally:
        shutil.rmtree("new", ignore_errors=True)
        if case.file is not None:
            Path(case.file[0]).unlink()


def test_a_few_cut_answers_are_warned_of(stock, tmp_path, monkeypatch, capsys):
    (tmp_path / "l.jsonl").write_text(_chats("y", long=4))
    words = ["fit", str(tmp_path / "l.jsonl"), "--model", str(stock / "llama"), "--max-length", "64", "--dry-run", "--quiet"]
    assert main([*words, "--precision", "float32"]) == 0
    warning = next(line for line in capsys.readouterr().err.splitlines() if "cut" in line)
    assert warning.startswith("warning: ")
    assert "4 of 40" in warning or "10 %" in warning


def _refuse(number: int) -> Callable[..., None]:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return refuse


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_no_permission(stock, tmp_path, monkeypatch, capsys):
    tmp_path.chmod(0o500)
    case = Case(f"fit reviews.csv --model bert --out {tmp_path / 'run'}", "cannot be made: Permission denied")
    _check(case, stock, monkeypatch, capsys)


def test_no_permission_as_the_system_says_it(stock, monkeypatch, capsys):
    monkeypatch.setattr(Path, "mkdir", _refuse(errno.EACCES))
    _check(fit("The run folder new/run cannot be made: Permission denied."), stock, monkeypatch, capsys)


def test_a_disk_that_only_reads(stock, monkeypatch, capsys):
    monkeypatch.setattr(Path, "mkdir", _refuse(errno.EROFS))
    _check(fit("The run folder new/run cannot be made: Read-only file system."), stock, monkeypatch, capsys)


def test_too_little_disk(stock, monkeypatch, capsys):
    monkeypatch.setattr(durable.shutil, "disk_usage", lambda _: SimpleNamespace(free=10**5))
    _check(fit("No room to write new/run: it needs ", code=75), stock, monkeypatch, capsys)


def test_too_little_disk_to_merge(stock, monkeypatch, capsys):
    monkeypatch.setattr(durable.shutil, "disk_usage", lambda _: SimpleNamespace(free=10**5))
    _check(Case("merge done --out new --quiet", "No room to write new: ", code=75), stock, monkeypatch, capsys)


def test_a_base_model_that_is_gone(stock, tmp_path, capsys):
    shutil.copytree(stock / "done", tmp_path / "run")
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    record["model"]["name"] = str(tmp_path / "moved")
    (tmp_path / "run" / "run.json").write_text(json.dumps(record))
    assert main(["chat", str(tmp_path / "run"), "--prompt", "x", "--quiet"]) == 2
    assert f"There is no model '{tmp_path / 'moved'}'" in capsys.readouterr().err


def test_a_damaged_adapter(stock, tmp_path, capsys):
    shutil.copytree(stock / "done", tmp_path / "run")
    with (tmp_path / "run" / "adapter" / "adapter_model.safetensors").open("r+b") as file:
        file.truncate(200)
    assert main(["chat", str(tmp_path / "run"), "--prompt", "x", "--quiet"]) == 2
    assert capsys.readouterr().err.startswith("tunesmith: ")


def test_weights_that_are_not_finite(stock, tmp_path, capsys):
    """A base model with NaN in it: nothing that is trained on it can mean anything."""
    model = tiny_models.build("bert", "classification", num_labels=2)
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    model.save_pretrained(tmp_path / "nan")
    tiny_tokenizer.build("encoder").save_pretrained(tmp_path / "nan")
    words = ["fit", str(stock / "reviews.csv"), "--model", str(tmp_path / "nan"), "--precision", "float32", "--quiet"]
    assert main([*words, "--out", str(tmp_path / "run")]) in (1, 2)
    message = capsys.readouterr().err.splitlines()[-1]
    assert "finite" in message
    assert "mistake in tunesmith" not in message


@pytest.mark.parametrize("index", range(len(hostile_texts.PAYLOADS)))
def test_hostile_names(index, stock, tmp_path, monkeypatch, capsys):
    """As names of files, models, labels, columns, methods: one line, no control character, no traceback."""
    monkeypatch.chdir(tmp_path)
    text = hostile_texts.PAYLOADS[index].replace("\0", "")
    reviews, bert = str(stock / "reviews.csv"), str(stock / "bert")
    lines = (
        ("fit", text, "--model", bert),
        ("fit", reviews, "--model", text or "?"),
        ("fit", reviews, "--model", bert, "--label-column", text),
        ("fit", reviews, "--model", bert, f"--method={text}"),
        ("show", text),
    )
    for words in (lines[index % 5], lines[(index + 2) % 5]):  # each text in two places, each place with two fifths of the texts
        assert main([*words, "--quiet"] if words[0] == "fit" else words) in (2, 75)
        seen = capsys.readouterr()
        assert seen.err.startswith("tunesmith: ")
        assert "mistake in tunesmith" not in seen.err
        assert not [c for c in seen.err if ord(c) < 32 and c not in "\n\t"]
        assert "Traceback" not in seen.err
    assert list(tmp_path.iterdir()) == []
