"""`make new-method` writes a file that the contract takes up at once, and whose open places it names."""

import importlib.util
import sys

import pytest

import method_promises
from method_promises import Case
from source_tree import ROOT


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


def test_with_the_equation_the_contract_holds(new_method, tmp_path, monkeypatch):
    path = new_method.scaffold("shift", tmp_path)
    open_place = 'raise NotImplementedError("TODO: write the equation of shift")'
    text = path.read_text(encoding="utf-8")
    assert open_place in text
    path.write_text(text.replace(open_place, "return self.base(x) + self.change"), encoding="utf-8")
    method = _load(path, "shift", monkeypatch).Shift()
    for promise in method_promises.PROMISES:
        for case in (Case("llama", "causal"), Case("bert", "classification")):
            promise(method, case)


@pytest.mark.parametrize(("name", "message"), [("My_Method", "lower-case"), ("../x", "lower-case"), ("lora", "already")])
def test_a_bad_name_is_refused(new_method, name, message):
    with pytest.raises(ValueError, match=message):
        new_method.scaffold(name)
