"""Starting costs nothing: what prints a help page or reads a setting loads neither torch nor transformers."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

import source_tree

HEAVY = ("torch", "transformers", "numpy", "pyarrow", "matplotlib")
CONTRACTS = ("method", "strategy", "check", "command")
LIGHT_MODULES = (
    "errors",
    "settings",
    "quantity",
    "registry",
    "reports.result",
    "commands",
    "command",
    "method",
    "strategy",
    "check",
)
NUM_TRIES = 12
"""On a loaded machine most tries are slow; the fastest one tells what the work costs."""


def _best_seconds(command: list[str], limit_seconds: float) -> float:
    """The fastest of several runs; stops as soon as one keeps the limit."""
    best = float("inf")
    for _ in range(NUM_TRIES):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        best = min(best, time.perf_counter() - start)
        if best < limit_seconds:
            break
    return best


def _loaded_after(statement: str) -> set[str]:
    """Top-level packages in memory after `statement` in a fresh interpreter."""
    code = f"import json, sys\n{statement}\nprint(json.dumps(sorted({{name.split('.')[0] for name in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_import_is_fast():
    bare = _best_seconds([sys.executable, "-c", "pass"], 0.01)
    assert _best_seconds([sys.executable, "-c", "import tunesmith"], bare + 0.2) < bare + 0.2


def test_import_loads_nothing_heavy():
    assert _loaded_after("import tunesmith").isdisjoint(HEAVY)


@pytest.mark.parametrize("name", LIGHT_MODULES)
def test_light_modules_load_neither_torch_nor_transformers(name):
    assert _loaded_after(f"import tunesmith.{name}").isdisjoint({"torch", "transformers"})


def test_every_command_loads_neither_torch_nor_transformers():
    commands = [m.dotted for m in source_tree.modules() if m.name.startswith("commands/")]
    assert commands
    assert _loaded_after(f"import {', '.join(commands)}").isdisjoint({"torch", "transformers"})


def test_help_is_fast():
    program = Path(sys.executable).with_name("tunesmith")
    assert _best_seconds([str(program), "--help"], 0.5) < 0.5


def test_heavy_imports_would_be_seen():
    assert "numpy" in _loaded_after("import numpy")
