"""The reference pages, made from the code: what the commands take, what the methods are and can be set to.

python tools/reference.py docs/reference
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import os
import subprocess
import sys
from pathlib import Path

from tunesmith import registry
from tunesmith.commands._flags import field_docs
from tunesmith.method import Method

_NOTE = "<!-- Written by `make docs` from the code. -->\n"
_HELP = {"COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"}


def pages() -> dict[str, str]:
    """Every page by its file name."""
    return {"commands.md": commands_page(), "methods.md": methods_page()}


def commands_page() -> str:
    """The help page of every command, as `tunesmith COMMAND --help` prints it."""
    parts = [f"{_NOTE}# Commands\n", _block(_help())]
    for name in registry.names("tunesmith.commands"):
        parts += [f"## tunesmith {name}\n", _block(_help(name))]
    return "\n".join(parts)


def methods_page() -> str:
    """What every method computes, where it comes from and what can be set."""
    parts = [f"{_NOTE}# Methods\n"]
    for name in registry.names(registry.METHODS):
        cls = registry.find(registry.METHODS, name, Method)
        module = importlib.import_module(cls.__module__)
        title, _, equation = inspect.cleandoc(module.__doc__ or "").partition("\n\n")
        parts.append(f"## {name}\n\n{' '.join(title.split())}\n")
        if equation:
            parts.append(_block(equation))
        parts.append(_facts(cls))
        rows = _settings(cls)
        if rows:
            parts.append("\n".join(["| setting | default | what it is |", "|---|---|---|", *rows]) + "\n")
    return "\n".join(parts)


def _facts(cls: type[Method]) -> str:
    small = f"models below 200 million parameters: {cls.learning_rate_small:g}"
    facts = {
        "Paper": cls.paper,
        "Starts as the base model": _yes(cls.starts_as_identity),
        "Moves base weights": _yes(cls.trains_base_weights),
        "Can be merged": _yes(cls.mergeable),
        "Learning rate to begin with": f"{cls.learning_rate:g} ({small})",
    }
    return "".join(f"- {name}: {value}\n" for name, value in facts.items())


def _settings(cls: type[Method]) -> list[str]:
    texts = field_docs(cls)
    rows = []
    for field in dataclasses.fields(cls):
        default = " ".join(field.default) if isinstance(field.default, tuple) else field.default
        rows.append(f"| `{field.name}` | {default} | {texts.get(field.name, '')} |")
    return rows


def _help(*command: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "tunesmith", *command, "--help"],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, **_HELP},
    )
    return "\n".join(line.rstrip() for line in done.stdout.strip().splitlines())


def _block(text: str) -> str:
    return f"```text\n{text}\n```\n"


def _yes(claim: bool) -> str:
    return "yes" if claim else "no"


def main(arguments: list[str]) -> None:
    """Write the pages into the folder named."""
    folder = Path(arguments[0])
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (folder / name).write_text(text, encoding="utf-8")
        print(f"wrote {folder / name}")


if __name__ == "__main__":
    main(sys.argv[1:])
