"""From words to a command: tyro reads them by the command's dataclass; every mistake becomes one short message."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import io
import re
from collections.abc import Sequence
from typing import TypeVar, cast

import tyro

from tunesmith.command import Command
from tunesmith.commands import _flags, _output
from tunesmith.errors import InputError

Parsed = TypeVar("Parsed", bound=Command)


def parse(kind: type[Parsed], words: Sequence[str]) -> Parsed | None:
    """The command with its arguments, or None if its help was asked for and shown.

    Raises:
        InputError: If an argument is unknown, missing or cannot be read.
    """
    words, method_settings = _flags.take_method_settings(list(words))
    if {"-h", "--help"} & set(words):
        _output.say(f"Example:\n  {kind.example}\n")
    messages = io.StringIO()
    try:
        with contextlib.redirect_stderr(messages):
            # With return_unknown_args tyro gives a pair, which its type for a class in a variable does not say.
            command, unknown = cast(
                "tuple[Parsed, list[str]]",
                tyro.cli(
                    kind,
                    prog=f"tunesmith {kind.name}",
                    args=words,
                    return_unknown_args=True,
                    registry=_flags.registry(),
                    config=(tyro.conf.FlagCreatePairsOff,),
                ),
            )
    except SystemExit as stop:
        if not stop.code:
            return None
        raise InputError(_reworded(messages.getvalue(), kind.name)) from None
    if unknown:
        raise InputError(_unknown(unknown, kind))
    if method_settings:
        _flags.add_method_settings(command, method_settings)
    return command


def _reworded(box: str, name: str) -> str:
    """Tyro's message without its frame and colours, as one sentence."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", box)
    lines = [line.strip("│| ") for line in plain.strip("\n").splitlines()[1:]]  # the first is the frame's title
    kept = [line for line in lines if set(line) - set("─-╰╯")]
    end = next((i for i, line in enumerate(kept) if line.startswith("For full helptext")), len(kept))
    text = " ".join(kept[:end])
    if text.startswith("Missing from"):
        text = "Missing: " + ", ".join(line for line in kept[1:end] if re.fullmatch(r"--\S+( \S+)?|[A-Z.]+", line))
    text = re.sub(r"Missing value for argument '([^']+)'\. Expected 1 values\.", r"\1 needs a value", text)
    text = re.sub(
        r"Error parsing (\S+): invalid literal for int\(\).*?: ('.*?') .*", r"\1 must be a whole number, found \2", text
    )
    return f"{text.rstrip('.')}. `tunesmith {name} --help` shows all arguments."


def _unknown(words: Sequence[str], kind: type[Command]) -> str:
    """What to say of words that no argument takes."""
    flag = next((word for word in words if word.startswith("-")), None)
    if flag is None:
        return f"Unexpected argument {words[0]!r}. `tunesmith {kind.name} --help` shows all arguments."
    asked, known = flag.split("=")[0], flags_of(kind)
    near = difflib.get_close_matches(asked.lstrip("-"), [name.lstrip("-") for name in known], n=1, cutoff=0.6)
    hint = f" Did you mean --{near[0]}?" if near else ""
    return f"Unknown flag {asked}.{hint} `tunesmith {kind.name} --help` shows all flags."


def flags_of(kind: type[Command]) -> list[str]:
    """All flags that a command knows."""
    own = {f.name for f in dataclasses.fields(kind)} | _flags.setting_names(kind)
    return [*sorted("--" + name.replace("_", "-") for name in own), "--debug", "--help"]
