"""The project's own source, parsed once, for the tests that look at its shape."""

from __future__ import annotations

import ast
import functools
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "tunesmith"


@dataclass(frozen=True)
class Module:
    """One file of the package."""

    path: Path
    text: str
    tree: ast.Module

    @property
    def name(self) -> str:
        """Path below the package, `methods/lora.py`."""
        return self.path.relative_to(PACKAGE).as_posix()

    @property
    def dotted(self) -> str:
        """Name to import it by."""
        parts = ("tunesmith", *self.path.relative_to(PACKAGE).with_suffix("").parts)
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@dataclass(frozen=True)
class Function:
    """One function or method, also nested ones."""

    module: Module
    node: ast.FunctionDef | ast.AsyncFunctionDef
    qualified_name: str

    @property
    def where(self) -> str:
        """`methods/lora.py:LoRA.attach`."""
        return f"{self.module.name}:{self.qualified_name}"

    @property
    def num_lines(self) -> int:
        """Lines of the body without the docstring."""
        body = self.node.body[1:] if ast.get_docstring(self.node) and len(self.node.body) > 1 else self.node.body
        return (body[-1].end_lineno or 0) - body[0].lineno + 1

    @property
    def num_parameters(self) -> int:
        """Parameters without `self`, `cls` and the context of an autograd function.

        A kernel for a GPU is not counted: it can be given numbers and addresses only, never objects.
        """
        if any(ast.unparse(decorator) == "triton.jit" for decorator in self.node.decorator_list):
            return 0
        arguments = self.node.args
        named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        return len([a for a in named if a.arg not in {"self", "cls", "ctx"}])


@functools.cache
def modules() -> tuple[Module, ...]:
    """All files of the package."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        found.append(Module(path, text, ast.parse(text)))
    assert found, f"no source below {PACKAGE}"
    return tuple(found)


@functools.cache
def functions() -> tuple[Function, ...]:
    """All functions of the package."""
    return tuple(f for module in modules() for f in _functions(module, module.tree, ""))


def _functions(module: Module, parent: ast.AST, prefix: str) -> Iterator[Function]:
    for node in ast.iter_child_nodes(parent):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield Function(module, node, prefix + node.name)
        inner = prefix + f"{node.name}." if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) else prefix
        yield from _functions(module, node, inner)


def docstrings(tree: ast.AST) -> set[int]:
    """Identities of the nodes that are strings standing alone: docstrings of modules, classes, functions and fields."""
    return {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant)}


def tracked_files() -> list[Path]:
    """Every file of the repository, also those not yet added, without what git ignores."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    return [path for name in listing.stdout.split("\0") if name and (path := ROOT / name).is_file()]
