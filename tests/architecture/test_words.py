"""Words that must not be in the source: what runs code from data, what prints, what names a method where none is known."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

import allowed_exceptions
import source_tree
from source_tree import Module
from tunesmith import registry

FORBIDDEN_FILE_NAMES = {"utils", "util", "helpers", "helper", "common", "misc", "base"}
FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "yaml"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__", "torch.load", "torch.save", "numpy.load", "np.load", "os.system"}
PLACES_FOR_METHOD_NAMES = ("methods/", "presets/", "commands/")


def _dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def _calls(module: Module) -> Iterator[tuple[str, str]]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call):
            yield _dotted(node.func), f"{module.name}:{node.lineno}"


def _imports(module: Module) -> Iterator[tuple[str, str]]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, f"{module.name}:{node.lineno}") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or "", f"{module.name}:{node.lineno}"


def _method_names(module: Module, known: set[str]) -> list[str]:
    prose = source_tree.docstrings(module.tree)
    strings = (
        n for n in ast.walk(module.tree) if isinstance(n, ast.Constant) and isinstance(n.value, str) and id(n) not in prose
    )
    return [f"{module.name}:{n.lineno} {n.value!r}" for n in strings if str(n.value).lower() in known]


def test_no_file_is_named_after_nothing():
    assert [m.name for m in source_tree.modules() if m.path.stem in FORBIDDEN_FILE_NAMES] == []


def test_only_commands_print():
    found = [where for m in source_tree.modules() for call, where in _calls(m) if call in {"print", "sys.stdout.write"}]
    assert [where for where in found if not where.startswith("commands/")] == []


def test_nothing_that_is_read_can_run_code():
    imports = [where for m in source_tree.modules() for name, where in _imports(m) if name.split(".")[0] in FORBIDDEN_MODULES]
    calls = [f"{where} {call}" for m in source_tree.modules() for call, where in _calls(m) if call in FORBIDDEN_CALLS]
    assert imports + calls == []


def test_no_shell():
    for module in source_tree.modules():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.keyword) and node.arg == "shell":
                assert isinstance(node.value, ast.Constant), f"{module.name}:{node.value.lineno}"
                assert node.value.value is False, f"{module.name}:{node.value.lineno}"


def test_remote_code_is_never_trusted():
    for module in source_tree.modules():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.keyword) and node.arg == "trust_remote_code":
                assert isinstance(node.value, ast.Constant), f"{module.name}:{node.value.lineno}"
                assert node.value.value is False, f"{module.name}:{node.value.lineno}"


def test_methods_are_named_only_where_they_live():
    known = {name.lower() for name in registry.names("tunesmith.methods")}
    found = {m.name: _method_names(m, known) for m in source_tree.modules() if not m.name.startswith(PLACES_FOR_METHOD_NAMES)}
    assert [use for name, uses in found.items() if name not in allowed_exceptions.METHOD_NAMES for use in uses] == []
    assert [name for name in allowed_exceptions.METHOD_NAMES if not found.get(name)] == [], "not needed, take it out"


@pytest.mark.parametrize("source", ["import pickle", "from yaml import safe_load", "import numpy, joblib.parallel"])
def test_a_forbidden_import_is_found(source):
    module = Module(source_tree.PACKAGE / "planted.py", source, ast.parse(source))
    assert any(name.split(".")[0] in FORBIDDEN_MODULES for name, _ in _imports(module))


def test_a_planted_word_is_found():
    source = '"""full"""\nimport torch\nif name == "LoRA": torch.load(name)'
    module = Module(source_tree.PACKAGE / "planted.py", source, ast.parse(source))
    assert _method_names(module, {"full", "lora"}) == ["planted.py:3 'LoRA'"]
    assert ("torch.load", "planted.py:3") in list(_calls(module))
