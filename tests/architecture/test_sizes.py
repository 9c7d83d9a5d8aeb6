"""Files and functions stay small enough to be read in one go."""

import pytest

import allowed_exceptions
import source_tree

MAX_FILE_LINES = 300
MAX_PLUGIN_LINES = 150
MAX_FUNCTION_LINES = 40
MAX_PARAMETERS = 6
MAX_P90_FUNCTION_LINES = 30


def _over(sizes: dict[str, int], limit: int, allowed: dict[str, str]) -> None:
    """Fail on what is over the limit and not allowed, and on what is allowed and need not be."""
    over = {name: size for name, size in sizes.items() if size > limit}
    assert {name: size for name, size in over.items() if name not in allowed} == {}, f"over {limit}"
    assert set(allowed) - set(over) == set(), "these keep the limit; take them out of tests/allowed_exceptions.py"


def test_files():
    sizes = {m.name: m.text.count("\n") for m in source_tree.modules()}
    _over(sizes, MAX_FILE_LINES, allowed_exceptions.LONG_FILES)


def test_plugins():
    """A method, a strategy, a check or a command is one page to read; what commands share begins with `_`."""
    folders = ("methods/", "strategies/", "checks/", "commands/")
    plugins = [m for m in source_tree.modules() if m.name.startswith(folders) and not m.path.stem.startswith("_")]
    _over({m.name: m.text.count("\n") for m in plugins}, MAX_PLUGIN_LINES, allowed_exceptions.LONG_PLUGINS)


def test_functions():
    sizes = {f.where: f.num_lines for f in source_tree.functions()}
    _over(sizes, MAX_FUNCTION_LINES, allowed_exceptions.LONG_FUNCTIONS)


def test_nine_of_ten_functions_are_short():
    sizes = sorted(f.num_lines for f in source_tree.functions())
    assert sizes[int(0.9 * (len(sizes) - 1))] <= MAX_P90_FUNCTION_LINES


def test_parameters():
    sizes = {f.where: f.num_parameters for f in source_tree.functions()}
    _over(sizes, MAX_PARAMETERS, allowed_exceptions.MANY_PARAMETERS)


def test_the_limit_can_be_broken():
    with pytest.raises(AssertionError, match="over 3"):
        _over({"a": 4}, 3, {})
    with pytest.raises(AssertionError, match="keep the limit"):
        _over({"a": 3}, 3, {"a": "because"})
