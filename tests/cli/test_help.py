"""The help pages, word for word. `UPDATE_GOLDEN=1 pytest tests/cli/test_help.py` writes them anew."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tunesmith import registry, settings
from tunesmith.command import Command
from tunesmith.commands import _flags, main
from tunesmith.commands._main import PACKAGE

GOLDEN = Path(__file__).parents[1] / "golden" / "help"
COMMANDS = registry.names(PACKAGE)
LIMIT_SECONDS = 0.5
NUM_TRIES = 5


def _help(capsys, monkeypatch, *words: str) -> str:
    monkeypatch.setenv("COLUMNS", "100")
    assert main([*words, "--help"]) == 0
    return "\n".join(line.rstrip() for line in capsys.readouterr().out.splitlines()) + "\n"


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_golden(name, capsys, monkeypatch):
    shown = _help(capsys, monkeypatch, *name.split())
    path = GOLDEN / f"{name or 'tunesmith'}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(shown, encoding="utf-8")
    assert shown == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", COMMANDS)
def test_the_example_is_on_top(name, capsys, monkeypatch):
    lines = _help(capsys, monkeypatch, name).splitlines()
    assert lines[:2] == ["Example:", f"  {registry.find(PACKAGE, name, Command).example}"]


def test_every_setting_is_a_flag_with_its_docstring(capsys, monkeypatch):
    shown = " ".join(_help(capsys, monkeypatch, "fit").replace("│", " ").split())
    for layout in (settings.DataSettings, settings.TrainingSettings):
        for name, text in _flags.field_docs(layout).items():
            assert name == "data" or f"--{name.replace('_', '-')} " in shown
            assert name == "data" or text in shown


def test_every_setting_has_a_docstring():
    for layout in (settings.DataSettings, settings.TrainingSettings, settings.FitSettings):
        documented = set(_flags.field_docs(layout)) | {"data", "training"}
        assert set(layout.__dataclass_fields__) <= documented


def test_methods_are_listed(capsys, monkeypatch):
    shown = " ".join(_help(capsys, monkeypatch, "fit").split())  # lines are wrapped
    assert ", ".join(registry.names("tunesmith.methods")) in shown


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help_is_fast_and_light(name):
    code = (
        "import sys; from tunesmith.commands import main; main(sys.argv[1:]);"
        "assert not {'torch', 'transformers', 'numpy', 'typeguard'} & set(sys.modules)"
    )
    best = min(_processor_seconds([sys.executable, "-c", code, *name.split(), "--help"]) for _ in range(NUM_TRIES))
    assert best < LIMIT_SECONDS


def _processor_seconds(command: list[str]) -> float:
    """What a command costs one core: the time it takes on an idle machine, whatever else runs here; waiting is not counted."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=60)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
