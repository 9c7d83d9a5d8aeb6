"""`make new-method` writes a file that the contract takes up at once, and whose open places it names."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys

import pytest

import method_promises
import run_data
import tunesmith.methods
from method_promises import Case
from source_tree import ROOT
from tunesmith import registry
from tunesmith.commands import main


def _load(path, name, monkeypatch):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def new_method(monkeypatch):
    return _load(ROOT / "tools" / "new_method.py", "new_method", monkeypatch)


def test_the_contract_fails_where_the_equation_is_missing(new_method, tmp_path, monkeypatch):
    path = new_method.scaffold("my-method", tmp_path)
    assert path.name == "my_method.py"
    method = _load(path, "my_method", monkeypatch).MyMethod()
    assert method.name == "my-method"
    with pytest.raises(NotImplementedError, match="equation of my-method"):
        method_promises.starts_as_the_base_model(method, Case("llama", "causal"))


EDITS = {
    'raise NotImplementedError("TODO: write the equation of shift")': "return self.base(x) + self.change",
    "TODO one sentence that says what is learnt.": "learn what is added to the outputs of linear layers.",
    "y = TODO the equation        TODO the shape of every symbol, and how each starts": "y = W x + c      c: (d_out,), zero",
    "TODO what the method does, in one sentence.": "Learnt shift of the outputs of linear layers.",
    "plus TODO.": "plus a learnt vector.",
    'paper = "TODO"': 'paper = "none: an example"',
}
"""What a person writes into the open places of the scaffold, for a method that learns a bias for every linear layer."""


def _fill(path):
    text = path.read_text(encoding="utf-8")
    for open_place, written in EDITS.items():
        assert text.count(open_place) == 1, open_place
        text = text.replace(open_place, written)
    assert "TODO" not in text
    path.write_text(text, encoding="utf-8")
    return path


def test_with_the_equation_the_contract_holds(new_method, tmp_path, monkeypatch):
    path = _fill(new_method.scaffold("shift", tmp_path))
    method = _load(path, "shift", monkeypatch).Shift()
    for promise in method_promises.PROMISES:
        for case in (Case("llama", "causal"), Case("bert", "classification")):
            promise(method, case)


@pytest.mark.parametrize(("name", "message"), [("My_Method", "lower-case"), ("../x", "lower-case"), ("lora", "already")])
def test_a_bad_name_is_refused(new_method, name, message):
    with pytest.raises(ValueError, match=message):
        new_method.scaffold(name)


@pytest.fixture
def shift(new_method, tmp_path, monkeypatch):
    """The method `shift`, scaffolded and filled in, as if its file were in the package's folder."""
    folder = tmp_path / "methods"
    folder.mkdir()
    _fill(new_method.scaffold("shift", folder))
    locations = tunesmith.methods.__path__
    locations.append(str(folder))
    yield "shift"
    locations.remove(str(folder))
    sys.modules.pop("tunesmith.methods.shift", None)
    vars(tunesmith.methods).pop("shift", None)


def test_one_file_is_all_that_a_method_needs(shift, tmp_path, monkeypatch, capsys):
    """Listed, counted, trained, saved, loaded and evaluated by the command line, which was not told of it."""
    assert shift in registry.names("tunesmith.methods")
    model, rows = run_data.save_model(tmp_path / "bert", "bert"), run_data.write_reviews(tmp_path / "reviews.csv")
    monkeypatch.setattr("tunesmith.reports.figures.draw", lambda *_: "<svg></svg>")
    assert main(["methods", shift, "--model", str(model), "--json"]) == 0
    [row] = json.loads(capsys.readouterr().out)["methods"]
    assert row["equations"] == ["y = W x + c"]
    assert row["num_added"] == 2 * (4 * 32 + 48 + 32)  # the outputs of the linear layers of two layers
    settings = ["--method.targets", "query,value", "--learning-rate", "0.01", "--precision", "float32"]
    folder = tmp_path / "run"
    data = [str(rows), "--model", str(model), "--steps", "3", "--out", str(folder)]
    assert main(["fit", *data, "--method", shift, *settings, "--quiet"]) == 0
    record = json.loads((folder / "run.json").read_text())
    assert record["method"] == {"name": "shift", "targets": ["query", "value"]}
    assert record["model"]["num_trainable"] == 2 * 2 * 32 + 3 * 32 + 3  # and a head for three classes
    capsys.readouterr()
    assert main(["evaluate", str(folder), str(rows), "--json", "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out)["stages"][0]["metrics"]["accuracy"]["count"] == 60
    assert main(["fit", "--help"]) == 0
    assert shift in capsys.readouterr().out


@pytest.mark.slow
def test_the_page_is_true(tmp_path):
    """`docs/how-to/add-a-method.md`, step by step, in a copy of the project."""
    for name in ("src", "tests", "tools", "docs"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "Makefile"):
        shutil.copy(ROOT / name, tmp_path / name)
    page = (ROOT / "docs" / "how-to" / "add-a-method.md").read_text(encoding="utf-8")
    assert "make new-method NAME=my-method" in page
    [recipe] = re.findall(r"tools/new_method.py", (ROOT / "Makefile").read_text(encoding="utf-8"))
    contract = re.search(r"\.venv/bin/python (-m pytest tests/contract) -k my-method", page)
    assert contract is not None

    def python(*words):
        environment = {**os.environ, "PYTHONPATH": str(tmp_path / "src"), "UPDATE_GOLDEN": ""}
        return subprocess.run(
            [sys.executable, *words], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600
        )

    said = python(recipe, "shift").stdout
    assert "src/tunesmith/methods/shift.py" in said
    tests = [*contract[1].split(), "-p", "no:cacheprovider", "-q", "-k", "shift and test_methods"]
    unfinished = python(*tests)
    assert unfinished.returncode == 1
    assert "write the equation of shift" in unfinished.stdout
    _fill(tmp_path / "src" / "tunesmith" / "methods" / "shift.py")
    done = python(*tests)
    assert done.returncode == 0, done.stdout[-3000:]
    assert python("tools/reference.py", "docs/reference").returncode == 0
    assert "## shift" in (tmp_path / "docs" / "reference" / "methods.md").read_text(encoding="utf-8")
    assert "y = W x + c" in python("-m", "tunesmith", "methods").stdout
