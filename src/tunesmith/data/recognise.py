"""What the rows are: which of the known shapes fits the columns, and which task follows from it."""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass, field, fields, replace

from tunesmith.data.examples import Task
from tunesmith.data.raw import RawTable
from tunesmith.errors import DataError

SAMPLE_ROWS = 200
MAX_LABEL_CHARACTERS = 80


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


SHAPES: dict[str, tuple[dict[str, tuple[str, ...]], Task]] = {
    "messages": ({"messages": _words("messages conversation conversations dialogue dialog chat turns")}, "chat"),
    "conversations": ({"messages": _words("conversations conversation")}, "chat"),
    "instruction/input/output": (
        {
            "prompt": _words("instruction instructions"),
            "context": _words("input context"),
            "answer": _words("output response answer completion"),
            "system": _words("system system_prompt"),
        },
        "chat",
    ),
    "text pair+label": (
        {
            "text": _words("premise sentence1 question1 text1 text_a sentence_a query text sentence"),
            "pair": _words("hypothesis sentence2 question2 text2 text_b sentence_b passage text_pair pair document"),
            "label": _words("label labels gold_label class is_duplicate entailment"),
        },
        "classification",
    ),
    "prompt/completion": (
        {
            "prompt": _words("prompt question query input instruction user"),
            "context": _words("context input"),
            "answer": _words("completion response answer output chosen assistant reply"),
            "system": _words("system system_prompt"),
        },
        "chat",
    ),
    "source/target": (
        {
            "prompt": _words("source src document article input_text original input"),
            "answer": _words("target tgt summary highlights target_text translation output_text"),
        },
        "chat",
    ),
    "text+label": (
        {
            "text": _words("text sentence review content comment tweet message body utterance title document question"),
            "label": _words("label labels class category sentiment intent topic emotion target stars rating label_text"),
        },
        "classification",
    ),
    "text": ({"text": _words("text content document body article")}, "text"),
}
"""Each shape: the columns of each role under their usual names, and the task it is for."""
_OPTIONAL = {"context", "system"}
_NEEDS_ALL = {"instruction/input/output": ("context",)}
_FITTING: dict[str, tuple[str, ...]] = {
    "chat": ("messages", "conversations", "instruction/input/output", "prompt/completion", "source/target"),
    "seq2seq": ("source/target", "instruction/input/output", "prompt/completion"),
    "classification": ("text pair+label", "text+label"),
    "text": ("text",),
}


@dataclass(frozen=True, kw_only=True)
class ColumnChoice:
    """Columns that the user named; they overrule what would be recognised."""

    prompt: str | None = None
    answer: str | None = None
    text: str | None = None
    pair: str | None = None
    label: str | None = None

    @property
    def named(self) -> dict[str, str]:
        """The columns by role."""
        return {f.name: value for f in fields(self) if (value := getattr(self, f.name)) is not None}


@dataclass(frozen=True, kw_only=True)
class Shape:
    """How rows are understood."""

    name: str
    """One of SHAPES."""
    task: Task
    columns: dict[str, str] = field(default_factory=dict)
    """Column by role: 'messages'; 'prompt', 'context', 'answer', 'system'; 'text', 'pair', 'label'."""

    def say(self) -> str:
        """What is learnt from which columns, in words."""
        c = self.columns
        if self.task == "classification":
            pair = f" with `{c['pair']}`" if "pair" in c else ""
            return f"learning `{c['label']}` from `{c['text']}`{pair}"
        if "messages" in c:
            return "training on the assistant's turns"
        if self.task == "seq2seq":
            context = f" and `{c['context']}`" if "context" in c else ""
            return f"learning to write `{c['answer']}` from `{c['prompt']}`{context}"
        prompt = f" after `{c['prompt']}` and `{c['context']}`" if "context" in c and self.name == "prompt/completion" else ""
        return f"training on `{c.get('answer') or c['text']}`{prompt}"


def recognise(table: RawTable, task: str = "auto", columns: ColumnChoice | None = None, shape: str = "auto") -> Shape:
    """The shape that fits the table's columns, the user's choice first.

    Raises:
        DataError: If nothing fits, a named column or shape does not exist, or the shape is not for the task.
    """
    chosen = (columns or ColumnChoice()).named
    for role, name in chosen.items():
        if name not in table.values:
            raise DataError(_no_column(f"--{role}-column", name, table.columns))
    names = [_asked_shape(shape)] if shape != "auto" else list(SHAPES) if task == "auto" else list(_FITTING[task])
    if chosen and shape == "auto":
        names = _shapes_with(set(chosen), names)
    for name in names:
        found = _match(table, name, chosen)
        if found is not None:
            return _with_task(found, task, table)
    guessed = _guess_labelled(table, chosen) if task in ("auto", "classification") and shape == "auto" else None
    if guessed is None:
        raise _not_recognised(table, task, shape)
    return guessed


def from_source_to_target(shape: Shape) -> Shape:
    """The shape for a model that writes a target to a source: what asks is the source of what answers."""
    return replace(shape, task="seq2seq") if shape.name in _FITTING["seq2seq"] else shape


def _asked_shape(shape: str) -> str:
    if shape not in SHAPES:
        near = difflib.get_close_matches(shape, SHAPES, n=1, cutoff=0.4)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise DataError(f"Unknown shape {shape!r}.{hint} Known: {', '.join(SHAPES)}.")
    return shape


def _shapes_with(roles: set[str], names: list[str]) -> list[str]:
    """Those shapes that have all the roles the user named a column for."""
    fitting = [name for name in names if roles <= SHAPES[name][0].keys()]
    if "pair" not in roles:
        fitting = [name for name in fitting if name != "text pair+label"] or fitting
    if "prompt" in roles:
        fitting = [name for name in fitting if name != "instruction/input/output"] or fitting
    if not fitting:
        wanted = ", ".join(f"--{role}-column" for role in sorted(roles))
        looked = ", ".join(names)
        raise DataError(f"No shape of rows takes {wanted} together (of {looked}). Leave one out, or name --task or --shape.")
    return fitting


def _match(table: RawTable, name: str, chosen: dict[str, str]) -> Shape | None:
    """The shape with its columns if the table has them all."""
    usual, task = SHAPES[name]
    lower = {column.lower(): column for column in reversed(table.columns)}
    found: dict[str, str] = {}
    for role, known in usual.items():
        free = [lower[column] for column in known if column in lower and lower[column] not in chosen.values()]
        if role == "context" and "prompt" in chosen and name not in _NEEDS_ALL:
            continue  # Who names the prompt means that column, and not another one beside it.
        column = chosen.get(role) or next((column for column in free if column not in found.values()), None)
        if column is not None:
            found[role] = column
        elif role not in _OPTIONAL or role in _NEEDS_ALL.get(name, ()):
            return None
    if "messages" in found and not _holds_messages(table, found["messages"], "role" if name == "messages" else "from"):
        return None
    return Shape(name=name, task=task, columns=found)


def _holds_messages(table: RawTable, column: str, key: str) -> bool:
    """Whether the column holds lists of objects with `key` (possibly written as JSON text)."""
    for value in table.values[column][:SAMPLE_ROWS]:
        if isinstance(value, str) and value.lstrip().startswith("["):
            try:
                value = json.loads(value)
            except (ValueError, RecursionError):
                continue
        if isinstance(value, list) and value and isinstance(value[0], dict):
            return key in value[0]
    return False


def _with_task(shape: Shape, task: str, table: RawTable) -> Shape:
    """The shape for the asked task."""
    if task == "auto":
        return shape
    if shape.name not in _FITTING[task]:
        raise DataError(
            f"The rows of {table.name} are {shape.name}, which is for the task {shape.task}, not {task}. "
            f"The task {task} takes {', '.join(_FITTING[task])}: name the columns, or leave out --task."
        )
    return replace(shape, task=task)  # type: ignore[arg-type]


def _guess_labelled(table: RawTable, chosen: dict[str, str]) -> Shape | None:
    """Text and label by content: two columns of which one repeats few short values and the other is long and varied."""
    if not set(chosen) <= {"text", "label"}:
        return None
    names = [name for name in table.columns if name not in chosen.values()]
    labels = [chosen["label"]] if "label" in chosen else [name for name in names if _is_label(table.values[name])]
    texts = (
        [chosen["text"]]
        if "text" in chosen
        else [name for name in names if name not in labels and _is_text(table.values[name])]
    )
    if len(labels) != 1 or len(texts) != 1:
        return None
    if table.kind in ("csv", "tsv") and labels[0] in set(map(str, table.values[labels[0]])):
        table.notes.append(
            f"the first line was taken for the names of the columns, but {labels[0]!r} is also a value of its column: "
            "if the file has no header, put one in front, such as text,label"
        )
    return Shape(name="text+label", task="classification", columns={"text": texts[0], "label": labels[0]})


def _is_label(values: list[object]) -> bool:
    seen = {str(value) for value in values if value is not None}
    return 2 <= len(seen) <= min(200, len(values) // 4) and max(map(len, seen)) <= MAX_LABEL_CHARACTERS


def _is_text(values: list[object]) -> bool:
    sample = [value for value in values[:SAMPLE_ROWS] if isinstance(value, str)]
    return (
        len(sample) > len(values[:SAMPLE_ROWS]) // 2
        and len(set(sample)) > len(sample) // 2
        and any(" " in text for text in sample)
    )


def _no_column(flag: str, name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name.lower(), [column.lower() for column in known], n=1, cutoff=0.5)
    hint = next((f" Did you mean {column!r}?" for column in known if near and column.lower() == near[0]), "")
    return f"{flag}: the data have no column {name!r}.{hint} Columns: {', '.join(known[:20])}."


def _not_recognised(table: RawTable, task: str, shape: str) -> DataError:
    wanted = f"the shape {shape}" if shape != "auto" else f"the task {task}" if task != "auto" else "a known shape"
    columns = ", ".join(repr(name) for name in table.columns[:20]) or "none"
    talk = next((name for name in table.columns if name.lower() in SHAPES["messages"][0]["messages"]), None)
    if talk is not None and len(table.columns) == 1:
        return DataError(
            f"The rows of {table.name} have the column `{talk}` alone, but `{talk}` holds no list of objects with 'role' and "
            "'content' (or 'from' and 'value')."
        )
    return DataError(
        f"The rows of {table.name} have the columns {columns}, which fit {wanted} by no usual names. Name them: "
        "--prompt-column and --answer-column, or --text-column and --label-column (and --pair-column), or --text-column "
        "alone with --task text."
    )
