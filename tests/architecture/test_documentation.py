"""Everything public says what it gives, and the README's file tree is the one on disk."""

from __future__ import annotations

import ast
import importlib
import re
from types import ModuleType

import pytest

import source_tree
from source_tree import ROOT


def _tool(name: str) -> ModuleType:
    return importlib.import_module(name)


def test_every_module_has_a_docstring():
    assert [m.name for m in source_tree.modules() if not ast.get_docstring(m.tree)] == []


def _overrides(class_node: ast.ClassDef, name: str) -> bool:
    """Whether the method is the contract's, whose docstring it inherits; every class here has one parent at most."""
    documented = {f.qualified_name.rsplit(".", 1)[-1] for f in source_tree.functions() if ast.get_docstring(f.node)}
    return bool(class_node.bases) and name in documented


def test_every_public_function_has_a_docstring():
    missing = []
    for module in source_tree.modules():
        for node in module.tree.body:
            missing += _undocumented(module.name, node)
    assert missing == []


def _undocumented(where: str, node: ast.stmt) -> list[str]:
    if not isinstance(node, ast.FunctionDef | ast.ClassDef) or node.name.startswith("_"):
        return []
    missing = [] if ast.get_docstring(node) else [f"{where}:{node.lineno} {node.name}"]
    if isinstance(node, ast.ClassDef):
        for member in node.body:
            if isinstance(member, ast.FunctionDef) and not member.name.startswith("_") and not ast.get_docstring(member):
                own = not (_overrides(node, member.name) or _is_torch_method(node, member.name) or _is_setter(member))
                missing += [f"{where}:{member.lineno} {node.name}.{member.name}"] if own else []
    return missing


def _is_torch_method(node: ast.ClassDef, name: str) -> bool:
    """`forward`, `backward` and the like, documented by torch where the class is a torch class."""
    return bool(node.bases) and name in {"forward", "backward", "extra_repr", "setup_context"}


def _is_setter(member: ast.FunctionDef) -> bool:
    return any(isinstance(d, ast.Attribute) and d.attr in {"setter", "deleter"} for d in member.decorator_list)


def test_a_missing_docstring_is_found():
    tree = ast.parse('class A:\n    """A."""\n    def give(self): ...\ndef take(): ...\ndef _hidden(): ...')
    assert [u for node in tree.body for u in _undocumented("x.py", node)] == ["x.py:3 A.give", "x.py:4 take"]


def test_the_file_tree_in_the_readme_is_the_one_on_disk():
    file_tree = _tool("file_tree")
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text == file_tree.written(text), "run `make fix`"


def test_every_line_of_the_file_tree_says_something():
    silent = [line for line in _tool("file_tree").tree().splitlines()[1:] if len(line.split()) < 2]
    assert silent == []


def test_links_between_pages_lead_somewhere():
    broken = []
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
            if "://" not in target and not target.startswith("mailto:") and not (page.parent / target).exists():
                broken.append(f"{page.relative_to(ROOT)}: {target}")
    assert broken == []


def test_targets_named_in_the_pages_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, flags=re.MULTILINE))
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    named = {name for page in pages for name in re.findall(r"`make ([a-z-]+)", page.read_text(encoding="utf-8"))}
    assert named
    assert named <= targets


def test_at_most_twenty_five_public_names():
    import tunesmith

    assert len(tunesmith.__all__) <= 25
    for name in tunesmith.__all__:
        assert getattr(tunesmith, name) is not None


@pytest.mark.parametrize("page", ["commands.md", "methods.md"])
def test_the_reference_is_what_the_code_says(page):
    made = _tool("reference").pages()[page]
    assert (ROOT / "docs" / "reference" / page).read_text(encoding="utf-8") == made, "run `make docs`"


@pytest.mark.slow
def test_the_table_of_methods_is_what_the_code_says():
    text = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    assert text == _tool("methods_table").written(text), "run `make docs`"


def test_what_the_methods_learnt_is_what_was_measured():
    tool, text = _tool("learning_table"), (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    assert text == tool.written(text, tool.measured()), "run `make docs`"


def test_the_public_names_are_the_same_in_all_three_places():
    """For the interpreter, for `import *`, and for type checkers."""
    import tunesmith

    module = next(m for m in source_tree.modules() if m.name == "__init__.py")
    block = next(node for node in module.tree.body if isinstance(node, ast.If))
    typed = {alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert typed == tunesmith._HOMES
    assert sorted([*typed, "__version__"]) == sorted(tunesmith.__all__)


def test_an_unknown_public_name_says_what_there_is():
    import tunesmith

    with pytest.raises(AttributeError, match="LoRA"):
        _ = tunesmith.Lora
