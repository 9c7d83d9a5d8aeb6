"""Imports point down only, and plug-ins of one folder do not know each other (contracts in pyproject.toml)."""

import ast

import importlinter.cli
import pytest

import source_tree


@pytest.mark.filterwarnings("ignore::DeprecationWarning:importlinter", "ignore::DeprecationWarning:grimp")
def test_the_contracts_hold(capsys, monkeypatch):
    monkeypatch.chdir(source_tree.ROOT)
    code = importlinter.cli.lint_imports(config_filename="pyproject.toml", no_cache=True)
    assert code == 0, capsys.readouterr().out


def test_commands_do_not_know_each_other():
    """Files of the folder whose name starts with `_` are shared parts, the others are one command each."""
    commands = [m for m in source_tree.modules() if m.name.startswith("commands/") and not m.path.stem.startswith("_")]
    names = {m.dotted for m in commands}
    found = []
    for module in commands:
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ImportFrom) and node.module:
                targets = {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
                found += [f"{module.name}:{node.lineno} {target}" for target in sorted(targets & names)]
    assert found == []


def test_only_surgery_and_loading_replace_modules():
    """`setattr` on a model outside `model/` would escape the ledger that undoes a method."""
    found = [
        f"{module.name}:{node.lineno}"
        for module in source_tree.modules()
        if not module.name.startswith("model/")
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Attribute) and node.attr in {"set_submodule", "add_module", "register_module"}
    ]
    assert found == []
