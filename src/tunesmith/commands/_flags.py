"""Command-line flags made from the settings dataclasses: names, help texts and checks are written there, once."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import inspect
import textwrap
import types
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

import tyro
from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructFieldSpec, StructTypeInfo

from tunesmith import registry as plugins
from tunesmith import settings
from tunesmith.command import Command
from tunesmith.errors import InputError, SettingsError
from tunesmith.quantity import Duration, Range

_METHOD_FLAG = "--method."

# tyro checks a default of `str | None` or `tuple[str, ...]` with a library that takes 0.1 s to import; these spare it that.
OptionalText = Union[str, None]  # noqa: UP007
if TYPE_CHECKING:
    Texts = tuple[str, ...]
else:
    Texts = tuple


class Flags(dict[str, object]):
    """The settings of one layout that were given as flags, checked; what was not given is not there."""

    layout: ClassVar[type]
    leave_out: ClassVar[frozenset[str]] = frozenset()


class MainFlags(Flags):
    """Model, task, method and run folder."""

    layout = settings.FitSettings


class DataFlags(Flags):
    """Which rows, how read and split."""

    layout = settings.DataSettings
    leave_out = frozenset({"data"})


class TrainingFlags(Flags):
    """How long, how fast, how exactly."""

    layout = settings.TrainingSettings


def registry() -> ConstructorRegistry:
    """What tyro needs to know to read the `Flags` fields of a command."""
    known = ConstructorRegistry()
    known.struct_rule(_rule)
    return known


def _rule(info: StructTypeInfo) -> StructConstructorSpec | None:
    """Flags as a structure of one optional text for each setting."""
    if not (isinstance(info.type, type) and issubclass(info.type, Flags)):
        return None
    fields = tuple(_field(info.type, name, hint) for name, hint in _leaves(info.type).items())
    return StructConstructorSpec(instantiate=partial(_checked, info.type), fields=fields)


def _leaves(kind: type[Flags]) -> dict[str, object]:
    """The settings of a layout with their types, without the nested tables."""
    hints = get_type_hints(kind.layout, include_extras=True)
    return {name: hint for name, hint in hints.items() if name not in kind.leave_out and not dataclasses.is_dataclass(hint)}


def _field(kind: type[Flags], name: str, hint: object) -> StructFieldSpec:
    """How tyro sees one setting."""
    default = next(f.default for f in dataclasses.fields(kind.layout) if f.name == name)
    shown = None if name == "method" or default in ("", None, dataclasses.MISSING) else default
    text = _method_help() if name == "method" else field_docs(kind.layout)[name]
    argument = tyro.conf.arg(
        metavar=_metavar(name, hint), help_behavior_hint="" if shown is None else f"Default: {_short(shown)}."
    )
    return StructFieldSpec(name=name, type=Annotated[OptionalText, argument], default=None, helptext=text)  # type: ignore[arg-type]


def _short(value: object) -> str:
    """A default as it would be typed: 60, not 60.0."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def _metavar(name: str, hint: object) -> str:
    """What stands for the value in the help: the choices, or what kind of value."""
    if name in ("method", "model"):
        return name.upper()
    inner = next((a for a in get_args(hint) if a is not type(None)), hint) if _is_union(hint) else hint
    marks = get_args(inner)[1:] if get_origin(inner) is Annotated else ()
    kind = get_args(inner)[0] if marks else inner
    if get_origin(kind) is Literal:
        return "|".join(get_args(kind))
    if Duration() in marks:
        return "TIME"
    if choices := [str(number) for mark in marks if isinstance(mark, Range) for number in mark.among]:
        return "|".join(choices)
    return {int: "N", float: "NUMBER"}.get(kind, name.rsplit("_", 1)[-1].upper())  # type: ignore[call-overload]


def _is_union(hint: object) -> bool:
    """Whether the hint is `X | None`."""
    return get_origin(hint) in (Union, types.UnionType)


def _method_help() -> str:
    """The help of `--method`, with the names that exist."""
    names = plugins.names(plugins.METHODS) + settings.preset_names()
    return (
        f"How to fine-tune: {', '.join(names)}. Default: {settings.DEFAULT_METHOD}. "
        "A method's own settings are flags too: --method.NAME VALUE, e.g. --method.rank 8."
    )


@cache
def field_docs(layout: type) -> dict[str, str]:
    """The docstring under each field of a dataclass, on one line."""
    body = ast.parse(textwrap.dedent(inspect.getsource(layout))).body[0]
    assert isinstance(body, ast.ClassDef)
    found = {}
    for field, after in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(after, ast.Expr):
            found[field.target.id] = " ".join(ast.literal_eval(after.value).split())
    return found


def _checked(kind: type[Flags], **texts: str | None) -> Flags:
    """The given flags as typed values.

    A mistake is kept as the value and raised by `tree`, because tyro would take an exception for its own.
    """
    given, hints = kind(), _leaves(kind)
    for name, text in texts.items():
        if text is not None:
            try:
                label = "--" + name.replace("_", "-")
                given[name] = text if name == "method" else settings.check_value(text, hints[name], label, from_text=True)
            except SettingsError as error:
                given[name] = error
    return given


def tree(flags: Flags) -> settings.Tree:
    """The given settings as a tree to merge.

    Raises:
        SettingsError: If one of them has the wrong type or is out of range.
    """
    for value in flags.values():
        if isinstance(value, SettingsError):
            raise value
    return dict(flags)


def setting_names(kind: type[Command]) -> set[str]:
    """Names of all settings that a command takes as flags."""
    hints = get_type_hints(kind).values()
    return {name for hint in hints if isinstance(hint, type) and issubclass(hint, Flags) for name in _leaves(hint)}


def take_method_settings(words: list[str]) -> tuple[list[str], dict[str, object]]:
    """The words without `--method.NAME VALUE`, and these as a dictionary.

    Raises:
        InputError: If one of them has no value.
    """
    rest: list[str] = []
    found: dict[str, object] = {}
    end = words.index("--") if "--" in words else len(words)
    iterator = iter(words[:end])
    for word in iterator:
        if not word.startswith(_METHOD_FLAG):
            rest.append(word)
            continue
        name, equals, text = word.removeprefix(_METHOD_FLAG).partition("=")
        value = text if equals else next(iterator, None)
        if value is None or not name or (not equals and value.startswith("--")):
            raise InputError(f"{word} needs a name and a value, e.g. --method.rank 8.")
        found[name.replace("-", "_")] = _typed(value)
    return rest + words[end:], found


def _typed(text: str) -> object:
    """A number, true/false, a list if there are commas, or the text itself."""
    readers: tuple[Callable[[str], object], ...] = (int, float)
    for read in readers:
        with contextlib.suppress(ValueError):
            return read(text)
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    return [part.strip() for part in text.split(",")] if "," in text else text


def add_method_settings(command: Command, given: Mapping[str, object]) -> None:
    """Hand a method's own settings to a command that has a method.

    Raises:
        InputError: If the command has none.
    """
    if not hasattr(command, "method_settings"):
        raise InputError(f"{_METHOD_FLAG}{next(iter(given))} was given, but `tunesmith {command.name}` takes no method.")
    vars(command)["method_settings"] = dict(given)
