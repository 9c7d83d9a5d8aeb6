"""The file tree with one line per file, made from the first line of each module's docstring.

python tools/file_tree.py              print it
python tools/file_tree.py README.md    write it between the markers in README.md
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

from section import Section, print_or_write

SECTION = Section("file tree")
ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "tunesmith"
_COLUMN = 26
_DATA = {".toml": "settings", ".jinja": "template", ".css": "style sheet", ".txt": "text", ".json": "data"}
"""Files of the package that are not code, and what they are called where their first line is no comment."""


def tree() -> str:
    """The tree of the package as text, one line per file."""
    return "\n".join(["src/tunesmith/", *_lines(PACKAGE, depth=1)])


def written(text: str) -> str:
    """`text` with what stands between the markers replaced by the tree.

    Raises:
        ValueError: If a marker is missing.
    """
    return SECTION.put(text, f"```text\n{tree()}\n```")


def _lines(folder: Path, depth: int) -> list[str]:
    lines = []
    for path in sorted(folder.iterdir(), key=lambda p: (p.is_dir(), p.name != "__init__.py", p.name)):
        indent = "  " * depth
        if path.is_dir() and path.name != "__pycache__":
            if any(path.rglob("*.*")):
                lines += [_line(indent, f"{path.name}/", _summary(path / "__init__.py")), *_lines(path, depth + 1)]
        elif path.suffix == ".py" and (path.name != "__init__.py" or depth == 1):
            lines.append(_line(indent, path.name, _summary(path)))
        elif path.suffix in _DATA:
            lines.append(_line(indent, path.name, _first_comment(path) or _DATA[path.suffix]))
    return lines


def _line(indent: str, name: str, summary: str) -> str:
    return f"{indent}{name:<{_COLUMN - len(indent)}}  {summary}".rstrip()


def _summary(path: Path) -> str:
    """The first sentence of a module's docstring, without its full stop."""
    if not path.exists():
        return "what is not code"
    paragraph = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n\n")[0]
    return " ".join(paragraph.split()).split(". ")[0].rstrip(".")


def _first_comment(path: Path) -> str:
    lines = path.read_text(encoding="utf-8").splitlines()
    return lines[0].lstrip("# ").rstrip(".") if lines and lines[0].startswith("# ") else ""


def main(arguments: list[str]) -> None:
    """Print the tree, or write it into the files named."""
    print_or_write(arguments, tree, written)


if __name__ == "__main__":
    main(sys.argv[1:])
