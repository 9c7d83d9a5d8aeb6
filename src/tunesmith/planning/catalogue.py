"""Every method and preset, with what their files say of them; none is imported, so that listing them takes no time."""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import inspect
import re
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from tunesmith import registry, settings
from tunesmith.method import Method

_FACTS = ("paper", "starts_as_identity", "trains_base_weights", "trains_all_weights", "mergeable")
_FACTS += ("learning_rate", "learning_rate_small")
_FOR_PEFT = {"ForPeft", "PeftFormat"}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What can be given as `--method`: a method with its default settings, or a preset of one."""

    name: str
    method: settings.Tree
    """The method's name under `name`, beside the settings that a preset gives it."""
    sentence: str
    """What is learnt."""
    equations: tuple[str, ...]
    """Without the explanation of their symbols."""
    explanation: str
    """The rest of what the file says: symbols, shapes, the start, peculiarities."""
    paper: str
    learning_rate: float
    learning_rate_small: float
    starts_as_identity: bool
    trains_base_weights: bool
    trains_all_weights: bool
    mergeable: bool
    takes_positions: bool
    """Whether virtual tokens take positions of every row."""
    in_peft_format: bool
    """Whether it can be saved in PEFT's format."""

    @property
    def preset_of(self) -> str | None:
        """The method that it is a preset of, None for a method."""
        kind = str(self.method["name"])
        return None if kind == self.name else kind

    @property
    def memory(self) -> str:
        """What training holds beside activations; a number that learns takes 16 bytes: value, gradient and two moments."""
        return "16 B a weight" if self.trains_all_weights else "base + little"


def entries() -> list[Entry]:
    """All methods, then all presets that set up a method."""
    methods = {name: _method(name) for name in registry.names(registry.METHODS)}
    presets = (_preset(name, methods) for name in settings.preset_names())
    return [*methods.values(), *(preset for preset in presets if preset is not None)]


def find(name: str) -> Entry:
    """The method or preset of this name.

    Raises:
        UnknownName: If there is neither; the nearest is named.
    """
    known = {entry.name: entry for entry in entries()}
    if name not in known:
        raise registry.unknown("method", name, known)
    return known[name]


def _method(name: str) -> Entry:
    """What a method's file says."""
    spec = importlib.util.find_spec(f"{registry.METHODS}.{name.replace('-', '_')}")
    assert spec is not None
    assert spec.origin is not None
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    bases, facts, members = _class(tree)
    sentence, *rest = re.split(r"\n\s*\n", inspect.cleandoc(ast.get_docstring(tree) or ""))
    equations = [line for line in (rest[0].splitlines() if rest else []) if "=" in line]
    return Entry(
        name=name,
        method={"name": name},
        sentence=" ".join(sentence.split()),
        equations=tuple(" ".join(re.split(r"\s{3,}", line.strip())[0].split()) for line in equations),
        explanation="\n\n".join(rest),
        takes_positions="num_positions" in members,
        in_peft_format=bool(bases & _FOR_PEFT),
        **facts,  # pyright: ignore[reportArgumentType] (the contract tests hold a method to their types)
    )


def _class(tree: ast.Module) -> tuple[set[str], dict[str, object], set[str]]:
    """Of the method's class the names of its bases, its facts with those it inherits, and the names of its functions."""
    classes = ((node, {ast.unparse(base) for base in node.bases}) for node in tree.body if isinstance(node, ast.ClassDef))
    found, bases = next((node, bases) for node, bases in classes if Method.__name__ in bases)
    facts = {name: vars(Method)[name] for name in _FACTS if name in vars(Method)}
    for node in (node for node in found.body if isinstance(node, ast.Assign)):
        names = [target.id for target in node.targets if isinstance(target, ast.Name) and target.id in _FACTS]
        facts |= {name: ast.literal_eval(node.value) for name in names}
    return bases, facts, {node.name for node in found.body if isinstance(node, ast.FunctionDef)}


def _preset(name: str, methods: dict[str, Entry]) -> Entry | None:
    """What a preset's file says beside the method that it sets up, None if it sets up none."""
    method = settings.merge(settings.load_preset(name)).get("method")
    if method is None:
        return None
    tree = settings.check_method(method, name)
    text = (resources.files("tunesmith") / "presets" / f"{name}.toml").read_text(encoding="utf-8")
    comments = [line.removeprefix("# ") for line in text.splitlines() if line.startswith("# ")]
    paper = next((line for line in comments if line.startswith("https://")), methods[str(tree["name"])].paper)
    return dataclasses.replace(
        methods[str(tree["name"])], name=name, method=tree, sentence=comments[0] if comments else "", paper=paper
    )
