"""All settings of a run in one typed tree, and the way into it from presets, TOML files and flags.

A field's docstring is its `--help` text. Layers are merged in the order preset < TOML file < flags, then
checked once: an unknown key, a wrong type or a value out of range is an error that names the key.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import math
import tomllib
import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from tunesmith import quantity, registry
from tunesmith.errors import SettingsError
from tunesmith.quantity import Duration, Range

Layout = TypeVar("Layout")
Tree = dict[str, object]
DEFAULT_METHOD = "lora"
Task = Literal["auto", "chat", "classification", "text", "seq2seq"]

Count = Annotated[int, Range(at_least=1)]
Share = Annotated[float, Range(at_least=0, at_most=1)]
Positive = Annotated[float, Range(above=0)]
NotNegative = Annotated[float, Range(at_least=0)]
Seconds = Annotated[float, Range(above=0), Duration()]


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Which rows to train on, and how to read and split them."""

    data: tuple[str, ...] = ()
    """Files or folders (.jsonl .json .csv .tsv .parquet .txt, also .gz), hub id or starter:NAME; several are one data set."""
    eval: str | None = None
    """Rows to evaluate on; without it, some of DATA are held out."""
    max_rows: Count | None = None
    """Use this many rows at most, of --eval too."""
    max_length: Annotated[int, Range(at_least=8)] | None = None
    """Longest row in tokens; longer ones are cut, plain text is read in windows. Default: by task, as far as the model goes."""
    shape: str = "auto"
    """What the rows are, if it is not recognised: messages, prompt/completion, instruction/input/output, text+label, ..."""
    prompt_column: str | None = None
    """Column with the prompt (the source for seq2seq)."""
    answer_column: str | None = None
    """Column with the answer to learn (the target for seq2seq)."""
    text_column: str | None = None
    """Column with the text."""
    pair_column: str | None = None
    """Column with the second text of a pair."""
    label_column: str | None = None
    """Column with the label."""
    validation_share: Share | None = None
    """Share of the rows held out to choose the best checkpoint."""
    test_share: Share | None = None
    """Share of the rows held out for the final numbers."""
    split_seed: Annotated[int, Range(at_least=0)] = 0
    """Another number holds out other rows."""
    cache: Literal["on", "off"] = "on"
    """Keep prepared rows in TUNESMITH_CACHE (4 GB at most), so that the next run with the same data starts at once."""


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """How long, how fast and how exactly to train."""

    epochs: Positive | None = None
    """Passes over the data. Default: by task and number of rows."""
    steps: Count | None = None
    """Stop after this many optimizer steps."""
    max_time: Seconds | None = None
    """Stop training after this time, e.g. 45s, 10m, 1h30m; the best checkpoint is kept."""
    rows_per_step: Count | None = None
    """Rows that one optimizer step learns from. Default: by task."""
    tokens_per_pass: Count | None = None
    """Most tokens computed at once by each worker; smaller needs less memory, and else changes only rounding and dropout."""
    learning_rate: Positive | None = None
    """Peak learning rate. Default: by method and model size."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the learning rate falls after the warm-up."""
    warmup_share: Share = 0.06
    """Share of the steps over which the learning rate rises."""
    weight_decay: NotNegative = 0.01
    """Pull of the weights to zero (norms and biases excluded)."""
    clip_norm: Positive = 1.0
    """Longest gradient; longer ones are scaled down."""
    patience: Annotated[int, Range(at_least=0)] = 3
    """Stop after this many evaluations without improvement; 0 never stops early."""
    evaluations_per_epoch: Count = 2
    """How often to evaluate in one pass over the data."""
    checkpoint_every_seconds: Seconds = 60.0
    """Longest time that a crash can cost."""
    checkpoint_every_steps: Count | None = None
    """Save after every so many steps, instead of by time."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number format of the frozen weights; auto takes what is measured to be faster here."""
    base_bits: Annotated[int, Range(among=(4, 8, 16))] = 16
    """Bits of each frozen weight of the linear layers: 4 (QLoRA), 8 (fastest where there is VNNI), or 16 for as they are."""
    seed: Annotated[int, Range(at_least=0)] = 0
    """The same seed gives the same run."""
    threads: Count | None = None
    """CPU threads. Default: one per core."""
    workers: Count | None = None
    """Processes that share a step's rows, and the threads, on a CPU. Default: one for two threads, where it pays."""
    model_dropout: Literal["on", "off"] = "off"
    """Use the dropout that the model was pre-trained with, too; a method's own dropout is a setting of the method."""
    fast_paths: Literal["on", "off"] = "on"
    """Compute by tunesmith's kernels where they agree with the model's own modules, and by code compiled for this processor."""


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """Everything that decides what `fit` does."""

    model: str = ""
    """Hub id, folder, .gguf file or starter:NAME."""
    task: Task = "auto"
    """What to learn; auto goes by the shape of the rows and the kind of model."""
    method: dict[str, object] = field(default_factory=lambda: {"name": DEFAULT_METHOD})
    """The method's name under `name`, beside its own settings."""
    data: DataSettings = field(default_factory=DataSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    out: str | None = None
    """Run folder. Default: runs/DATA-MODEL-METHOD-N."""


def from_mapping(layout: type[Layout], mapping: Mapping[str, object], where: str, prefix: str = "") -> Layout:
    """An instance of the settings dataclass `layout`, checked; `where` says in errors where the values come from.

    Raises:
        SettingsError: If a key is unknown, a value has the wrong type or is out of range.
    """
    hints = get_type_hints(layout, include_extras=True)
    values: Tree = {}
    for key, value in mapping.items():
        if key not in hints:
            raise _unknown_key(layout, key, where, prefix)
        hint, name = hints[key], f"{prefix}{key}"
        if not dataclasses.is_dataclass(hint):
            values[key] = check_value(value, hint, f"{where}: `{name}`")
        elif isinstance(value, Mapping):
            values[key] = from_mapping(hint, value, where, f"{name}.")  # type: ignore[arg-type]
        else:
            raise SettingsError(f"{where}: `{name}` must be a table of settings, found {value!r}.")
    return layout(**values)


def check_value(value: object, hint: object, label: str, *, from_text: bool = False) -> object:
    """`value` as the type hint wants it; with `from_text` a number may be given as text, as on the command line.

    Raises:
        SettingsError: If it is of another type or out of range; the message begins with `label`.
    """
    if get_origin(hint) in (Union, types.UnionType):
        if value is None:
            return None
        hint = next(option for option in get_args(hint) if option is not type(None))
    marks = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
    kind = get_args(hint)[0] if marks else hint
    if kind in (int, float):
        number = _number(value, kind is int, label, from_text, Duration() in marks)
        for limits in (mark for mark in marks if isinstance(mark, Range)):
            if number not in limits:
                raise SettingsError(f"{label} must be {limits}, found {value!r}.")
        return number
    return _check_other(value, kind, label)


def _number(value: object, whole: bool, label: str, from_text: bool, duration: bool) -> float:
    """A finite number, an int if `whole`; whole ones fit into 64 bits."""
    if duration and isinstance(value, str):
        try:
            return quantity.parse_seconds(value)
        except SettingsError as error:
            raise SettingsError(f"{label}: {error}") from None
    found = value
    if from_text and isinstance(value, str):
        with contextlib.suppress(ValueError):
            found = int(value) if whole else float(value)
    if isinstance(found, int) and abs(found) >= 2**63:  # torch holds a seed in 64 bits; no other setting means such a number
        raise SettingsError(f"{label}: {value!r} does not fit in 64 bits.")
    if isinstance(found, bool) or not isinstance(found, int if whole else (int, float)) or not math.isfinite(found):
        raise SettingsError(f"{label} must be a {'whole number' if whole else 'number'}, found {value!r}.")
    return found if whole else float(found)


def _check_other(value: object, kind: object, label: str) -> object:
    """A value that is not a number: text, a choice, a list of texts, or a dictionary."""
    if get_origin(kind) is Literal:
        choices = get_args(kind)
        if value not in choices:
            near = difflib.get_close_matches(str(value), choices, n=1, cutoff=0.5)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise SettingsError(f"{label} must be one of {', '.join(choices)}; found {value!r}.{hint}")
        return value
    if get_origin(kind) is tuple:
        items = [value] if isinstance(value, str) else value
        if isinstance(items, (list, tuple)) and all(isinstance(item, str) for item in items):
            return tuple(items)
        raise SettingsError(f"{label} must be a text or a list of texts, found {value!r}.")
    if get_origin(kind) is dict:
        return check_method(value, label)
    wanted = bool if kind is bool else str
    if not isinstance(value, wanted):
        raise SettingsError(f"{label} must be {'true or false' if wanted is bool else 'a text'}, found {value!r}.")
    return value


def check_method(value: object, label: str) -> Tree:
    """A method as a dictionary with its `name` (the default one's if it has none); a bare name means default settings."""
    tree = {"name": value} if isinstance(value, str) else value
    if not isinstance(tree, Mapping) or not isinstance(tree.get("name", DEFAULT_METHOD), str):
        raise SettingsError(f"{label} must be a method's name or a table with `name` and its settings, found {value!r}.")
    return {"name": DEFAULT_METHOD, **tree}


def _unknown_key(layout: type, key: str, where: str, prefix: str) -> SettingsError:
    """An error with the nearest key, looked for in the whole tree, so that a misplaced key is told its place."""
    own = {f.name: f"{prefix}{f.name}" for f in dataclasses.fields(layout)}
    known = {path.rsplit(".", 1)[-1]: path for path in _paths(FitSettings)} | own
    near = difflib.get_close_matches(key, own, n=1, cutoff=0.6) or difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    near = [key] if key in known else near
    hint = f" Did you mean `{known[near[0]]}`?" if near else f" Known: {', '.join(own.values())}."
    return SettingsError(f"{where}: unknown key `{prefix}{key}`.{hint}")


def _paths(layout: type, prefix: str = "") -> list[str]:
    """The dotted names of all settings of a tree."""
    hints = get_type_hints(layout)
    nested = {name: _paths(hint, f"{prefix}{name}.") for name, hint in hints.items() if dataclasses.is_dataclass(hint)}  # type: ignore[arg-type]
    return [path for name in hints for path in nested.get(name, [f"{prefix}{name}"])]


def to_mapping(settings: object) -> Tree:
    """The settings as nested dictionaries of plain JSON values, all resolved."""
    assert dataclasses.is_dataclass(settings)
    assert not isinstance(settings, type)
    return _plain(dataclasses.asdict(settings))


def _plain(tree: Mapping[str, object]) -> Tree:
    """A copy with lists for tuples at every depth."""
    return {k: _plain(v) if isinstance(v, Mapping) else list(v) if isinstance(v, tuple) else v for k, v in tree.items()}


def merge(*layers: Mapping[str, object]) -> Tree:
    """One tree in which a later layer overrules an earlier one; another method's name drops the settings of the one before."""
    merged: Tree = {}
    for layer in layers:
        for key, value in layer.items():
            before = merged.get(key)
            value = {"name": value} if key == "method" and isinstance(value, str) else value
            if not isinstance(value, Mapping) or not isinstance(before, Mapping):
                merged[key] = value
            elif key == "method" and (name := before.get("name", DEFAULT_METHOD)) != value.get("name", name):
                merged[key] = dict(value)
            else:
                merged[key] = merge(before, value)
    return merged


def load_toml(path: Path) -> Tree:
    """The tree in a TOML file, not yet checked.

    Raises:
        SettingsError: If the file cannot be read or is not TOML; the line is named.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise SettingsError(f"The settings file {path} cannot be read: {reason}.") from None
    except ValueError as error:  # TOMLDecodeError, or a number of thousands of digits
        raise SettingsError(f"{path} is not valid TOML: {error}.") from None


def preset_names() -> list[str]:
    """Sorted names of the presets that come with tunesmith."""
    folder = resources.files("tunesmith") / "presets"
    return sorted(item.name.removesuffix(".toml") for item in folder.iterdir() if item.name.endswith(".toml"))


def load_preset(name: str) -> Tree:
    """The tree of a preset, not yet checked.

    Raises:
        UnknownName: If there is no such preset; the nearest is named.
    """
    known = preset_names()
    if name not in known:
        raise registry.unknown("preset", name, known or ["none in this version"])
    return tomllib.loads((resources.files("tunesmith") / "presets" / f"{name}.toml").read_text(encoding="utf-8"))
