"""The way into every command: find it, parse its arguments, run it, and turn what went wrong into one message."""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

from tunesmith import registry
from tunesmith.command import Command
from tunesmith.commands import _output
from tunesmith.errors import InputError, TunesmithError

PACKAGE = "tunesmith.commands"
_ORDER = (
    "fit",
    "compare",
    "plan",
    "methods",
    "check",
    "curate",
    "sequence",
    "resume",
    "evaluate",
    "chat",
    "runs",
    "show",
    "merge",
    "export",
)
_INTERRUPTED, _TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code; `arguments` are those of the process by default."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = _take(words, "--debug")
    _output.accept_every_character()
    try:
        with _cleaning_up():
            return _dispatch(words)
    except _Terminated:
        _output.fail("Stopped by SIGTERM.", _TERMINATED, words)
        return _TERMINATED
    except KeyboardInterrupt:
        _output.fail("Interrupted.", _INTERRUPTED, words)
        return _INTERRUPTED
    except BrokenPipeError:
        _output.close_stdout()
        return 0
    except TunesmithError as error:
        if debug:
            raise
        _output.fail(str(error), error.exit_code, words)
        return error.exit_code
    except Exception as error:
        if debug:
            raise
        _output.fail(_unexpected(error), 1, words)
        return 1


class _Terminated(BaseException):
    """SIGTERM came; no `except Exception` of a library takes it for one of its own."""


@contextlib.contextmanager
def _cleaning_up() -> Iterator[None]:
    """Let SIGTERM unwind the program as Ctrl-C does, so that nothing half-written is left."""

    def terminate(number: int, frame: FrameType | None) -> None:
        raise _Terminated

    if threading.current_thread() is not threading.main_thread():  # only there may a handler be set
        yield
        return
    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _take(words: list[str], flag: str) -> bool:
    """Whether `flag` is among the words before a `--`; it is taken out."""
    end = words.index("--") if "--" in words else len(words)
    if flag not in words[:end]:
        return False
    words.remove(flag)
    return True


def _unexpected(error: Exception) -> str:
    """What to say of an error that nobody foresaw."""
    if isinstance(error, OSError):
        return f"{error}"
    return f"{type(error).__name__}: {error}. This is a mistake in tunesmith; the same command with --debug shows where."


def _dispatch(words: list[str]) -> int:
    """Run the command that the first word names."""
    if not words or words[0] in ("-h", "--help", "help"):
        _output.say(_overview())
        return 0 if words else InputError.exit_code
    if words[0] == "--version":
        from tunesmith import __version__

        _output.say(f"tunesmith {__version__}")
        return 0
    if words[0].startswith("-"):
        raise InputError(f"The command comes first, then its flags; found {words[0]!r}. `tunesmith --help` lists the commands.")
    kind = registry.find(PACKAGE, words[0], Command)
    from tunesmith.commands._parse import parse

    command = parse(kind, words[1:])
    return 0 if command is None else command.run()


def _overview() -> str:
    """The help of `tunesmith` itself: every command with its first line; no command is imported."""
    known = registry.names(PACKAGE)
    ordered = [name for name in _ORDER if name in known] + [name for name in known if name not in _ORDER]
    width = max(map(len, ordered))
    lines = [f"  {name:<{width}}   {_summary(name)}" for name in ordered]
    return "\n".join(
        [
            "Example:",
            "  tunesmith fit starter:movie-reviews --model starter:minilm",
            "",
            "tunesmith fine-tunes a pre-trained model on your data and shows what came of it.",
            "",
            "usage: tunesmith COMMAND [arguments]",
            "",
            *lines,
            "",
            "tunesmith COMMAND --help   shows the arguments of a command, with an example.",
            "--debug                    shows where an error comes from.",
            "--version                  shows the version.",
        ]
    )


def _summary(name: str) -> str:
    """The first line of a command's help, read from its source."""
    spec = importlib.util.find_spec(f"{PACKAGE}.{name.replace('-', '_')}")
    if spec is None or spec.origin is None:
        return ""
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    commands = [n for n in tree.body if isinstance(n, ast.ClassDef) and any(ast.unparse(b) == "Command" for b in n.bases)]
    return (ast.get_docstring(commands[0]) or "").split("\n")[0] if commands else ""
