"""What a run was and what came of it: the typed, versioned content of `run.json`.

Everything that a report, a model card or `tunesmith show` says is read from here and from `metrics.jsonl`.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from tunesmith import durable
from tunesmith.checkpoint import lock
from tunesmith.errors import RunError
from tunesmith.measure import Measure

SCHEMA_VERSION = 1
FILE_NAME = "run.json"
Status = Literal["running", "finished", "interrupted", "failed", "killed"]
"""'killed' is never written: it is what 'running' means when no process holds the folder."""
StageKind = Literal["majority", "base", "tuned", "difference"]
_KINDS_BY_NAME: dict[str, StageKind] = {
    "majority class": "majority",
    "base model": "base",
    "base model, untrained head": "base",
    "paired difference": "difference",
}
"""What a stage without a kind is, if it is not of the tuned model."""


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """Which model was tuned."""

    name: str
    """As the user wrote it: hub id, folder, file or `starter:` name."""
    fingerprint: str
    """SHA-256 over the weights' files."""
    architecture: str
    num_parameters: int
    num_trainable: int
    precision: str
    """Data type of the frozen weights while training."""
    license: str | None = None


@dataclass(frozen=True, kw_only=True)
class DataFacts:
    """Which data it was tuned on."""

    name: str
    fingerprint: str
    """SHA-256 over the files' bytes."""
    shape: str
    """How the rows were understood, e.g. 'instruction/input/output'."""
    description: str
    """The sentence that was said aloud about reading and splitting."""
    num_train: int
    num_validation: int
    num_test: int
    num_skipped: int
    train_tokens: int
    labelled_tokens: int
    max_length: int
    labels: list[str] = field(default_factory=list)
    """Class names in the order of their ids; empty if the task has none."""

    @property
    def has_pairs(self) -> bool:
        """Whether each row is a pair of texts with a label."""
        return self.shape == "text pair+label"


@dataclass(frozen=True, kw_only=True)
class Stage:
    """All metrics of one state of the model on one part of the data."""

    name: str
    """What a reader calls it: 'majority class', 'base model', 'best checkpoint', 'tuned model', ..."""
    kind: StageKind
    """What it is; 'difference' is tuned minus base model, measured row by row."""
    split: str
    """'validation', 'test', or the names of other data."""
    metrics: dict[str, Measure]

    @property
    def is_baseline(self) -> bool:
        """Whether nothing was tuned yet."""
        return self.kind in ("majority", "base")


def read_stage(raw: dict[str, Any]) -> Stage:
    """A stage from its JSON form, also from one that was written before stages had a kind.

    Raises:
        KeyError: If a field is missing.
        TypeError: If a field is of another type.
    """
    return _build(Stage, {"kind": _KINDS_BY_NAME.get(raw["name"], "tuned"), **raw})


@dataclass(frozen=True, kw_only=True)
class BeforeAfter:
    """One held-out row as the base model and as the tuned model answer it."""

    prompt: str
    expected: str
    before: str
    after: str


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What the run took."""

    train_seconds: float
    total_seconds: float
    real_tokens_per_second: float
    peak_memory_bytes: int
    """Peak resident memory of the process (CPU) or of the device (GPU)."""
    memory_above_import_bytes: int | None = None
    """The same, less what a process holds that has only imported the libraries."""


@dataclass(frozen=True, kw_only=True)
class StepPart:
    """One part of a training step."""

    name: str
    """'data', 'forward', 'head', 'backward', 'optimizer' or 'rest'."""
    seconds: float
    flop: int
    """Floating-point operations of its matrix products."""


@dataclass(frozen=True, kw_only=True)
class StepProfile:
    """Where the time and memory of a training step go: the step of median speed among those that were timed."""

    step: int
    """Its number, counted from 1."""
    num_timed: int
    """How many steps were timed."""
    num_tokens: int
    """Real tokens of its rows."""
    parts: list[StepPart]
    """They add up to the whole step."""
    limit_flop_per_second: float
    """What this machine reaches in the step's largest matrix products and nothing else."""
    weights_bytes: int
    """Of the model as it is stored, without what learns in float32."""
    learned_bytes: int
    """Of what learns: values, gradients and the optimizer's moments."""
    kept_bytes: int
    """Most that a forward pass keeps for its backward pass."""
    has_rounded_products: bool = False
    """Whether products with frozen weights are of whole numbers of eight bits, which may be faster than the limit."""
    leaves_out_words: bool = False
    """Whether the head leaves out products with unlikely words, which are counted all the same."""

    @property
    def seconds(self) -> float:
        """Of the whole step."""
        return sum(part.seconds for part in self.parts)


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far training went and why it ended."""

    steps: int
    planned_steps: int
    epochs: float
    best_step: int
    """0 until the first evaluation."""
    best_metric: str
    stop_reason: str
    """'all steps done', 'early stop: ...', 'time limit of ...', ..."""


@dataclass(kw_only=True)
class RunResult:
    """One run, from its command to its results. Fields that a running run does not have yet are None."""

    task: str
    method: dict[str, Any]
    """The method's name under 'name', and its settings."""
    command: list[str]
    directory: str = ""
    """Where the command was given; relative names of files are looked for there, too."""
    created: str
    """Start in ISO 8601, UTC."""
    settings: dict[str, Any]
    """The resolved settings tree."""
    versions: dict[str, str]
    machine: dict[str, str]
    """'cpu', 'cores', 'memory', 'accelerator', 'kernels'."""
    seed: int
    model: ModelFacts
    data: DataFacts
    mergeable: bool = True
    """Whether the method's change can be folded into the base weights."""
    status: Status = "running"
    error: str | None = None
    has_diverged: bool = False
    """Whether it failed by numbers that were not finite: the same steps, taken again, lead there again."""
    progress: Progress | None = None
    stages: list[Stage] = field(default_factory=list)
    retention: dict[str, Measure] = field(default_factory=dict)
    """What the model forgot: each gauge by name; 'kl_to_base', 'general_perplexity_ratio', 'representation_similarity', ..."""
    forgotten: str = ""
    """What these gauges say together, in one sentence."""
    examples: list[BeforeAfter] = field(default_factory=list)
    cost: Cost | None = None
    profile: StepProfile | None = None
    """Where a step's time and memory go, if that was asked for."""
    warnings: list[str] = field(default_factory=list)
    """Everything the user was warned of on the way."""
    schema_version: int = SCHEMA_VERSION

    @property
    def was_started(self) -> bool:
        """Whether training was reached: before it, nothing is trainable."""
        return self.model.num_trainable > 0

    @property
    def measured_stages(self) -> list[Stage]:
        """The stages of the models themselves, without differences, which have other units."""
        return [stage for stage in self.stages if stage.kind != "difference"]

    def save(self, folder: Path) -> None:
        """Write `run.json` into `folder`, whole or not at all."""
        durable.write_file(folder / FILE_NAME, json.dumps(asdict(self), indent=2, ensure_ascii=False))

    @classmethod
    def load(cls, folder: Path) -> RunResult:
        """Read `run.json` from a run folder.

        Raises:
            RunError: If there is none, it is damaged, or a newer tunesmith wrote it.
        """
        path = folder / FILE_NAME
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise RunError(f"{folder} is not a run folder: it has no {FILE_NAME}. `tunesmith runs` lists the runs.") from None
        except ValueError as error:
            raise RunError(f"{path} is damaged ({error}).") from None
        if not isinstance(raw, dict) or raw.get("schema_version") != SCHEMA_VERSION:
            found = raw.get("schema_version") if isinstance(raw, dict) else type(raw).__name__
            raise RunError(f"{path} has schema version {found}; this tunesmith reads {SCHEMA_VERSION}. Update tunesmith.")
        try:
            stages = [read_stage(stage) for stage in raw.pop("stages", [])]
            result = _build(cls, raw)
        except (TypeError, KeyError) as error:
            raise RunError(f"{path} is damaged ({error}).") from None
        result.stages = stages
        if result.status == "running" and not lock.is_held(folder):
            result.status = "killed"
        return result


def _build(kind: Any, raw: Any) -> Any:
    """Rebuild nested dataclasses, lists and dictionaries of them from plain JSON values."""
    if is_dataclass(kind) and isinstance(kind, type):
        hints = get_type_hints(kind)
        return kind(**{f.name: _build(hints[f.name], raw[f.name]) for f in fields(kind) if f.name in raw})
    arguments = [a for a in get_args(kind) if a is not type(None)]
    if kind is Any:
        return raw
    if get_origin(kind) is UnionType:
        return None if raw is None else _build(arguments[0], raw)
    _require(kind, raw)
    if get_origin(kind) is list:
        return [_build(arguments[0], item) for item in raw]
    if get_origin(kind) is dict:
        return {key: _build(arguments[1], value) for key, value in raw.items()}
    return raw


def _require(kind: Any, raw: Any) -> None:
    """Fail if a plain JSON value is of another type: a report would take a text for a number.

    Raises:
        TypeError: Naming the value and the type.
    """
    accepted = {str: str, int: (int, float), float: (int, float), list: list, dict: dict}.get(get_origin(kind) or kind, object)
    if not isinstance(raw, accepted) or (get_origin(kind) is Literal and raw not in get_args(kind)):
        raise TypeError(f"{str(raw)[:60]!r} where {getattr(kind, '__name__', kind)} is expected")
