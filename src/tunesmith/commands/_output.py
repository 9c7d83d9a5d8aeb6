"""Everything that reaches the terminal: results to stdout, messages to stderr, one JSON object if that was asked for."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

_CONTROL = {code: "�" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"}


def clean(text: str) -> str:
    """The text without control characters, so that no row or file name can steer the terminal."""
    return text.translate(_CONTROL)


def console(*, stderr: bool = False) -> Console:
    """A console on stdout or stderr that prints text as it is: nothing in it is markup."""
    from rich.console import Console

    return Console(stderr=stderr, markup=False, highlight=False, emoji=False, soft_wrap=True)


def say(text: str) -> None:
    """Print a result as text."""
    print(clean(text))


def stream(text: str) -> None:
    """Print a piece of a text that goes on, at once."""
    print(clean(text), end="", flush=True)


def show(*renderables: RenderableType | str) -> None:
    """Print results: tables and coloured text; a plain string is cleaned."""
    output = console()
    for renderable in renderables:
        output.print(clean(renderable) if isinstance(renderable, str) else renderable)


def emit_json(content: Mapping[str, object]) -> None:
    """Print one JSON object; numbers that JSON does not know become null."""
    print(json.dumps(_finite(content), ensure_ascii=False, indent=2, default=str))


def _finite(value: object) -> object:
    """A copy in which NaN and infinities are None."""
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def fail(message: str, exit_code: int, words: Sequence[str]) -> None:
    """Print an error message on stderr, and as JSON on stdout if the command line asked for JSON."""
    from rich.text import Text

    label = Text("tunesmith: ", style="bold red")
    console(stderr=True).print(label.append(Text(clean(message), style="not bold default")))
    if "--json" in words:
        emit_json({"error": clean(message), "exit_code": exit_code})


def accept_every_character() -> None:
    """Let a question mark stand for a character that the terminal's encoding lacks, and for bytes that are none."""
    for terminal in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(terminal, io.TextIOWrapper):
            with contextlib.suppress(io.UnsupportedOperation):  # an input that was read from already, by who calls `main`
                terminal.reconfigure(errors="replace")


def close_stdout() -> None:
    """Let nothing more be written to a stdout that nobody reads."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
