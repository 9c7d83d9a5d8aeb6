"""tunesmith from Python: `fit` and `load` give a `Run`, on the same engine as the command line."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from tunesmith import settings
from tunesmith.data.examples import Message, Role
from tunesmith.errors import InputError, SettingsError
from tunesmith.evaluation.generate import Generation
from tunesmith.evaluation.sampling import Sampling
from tunesmith.method import Method
from tunesmith.reports.result import RunResult, Stage
from tunesmith.reports.usage import REPORT
from tunesmith.runs import evaluate, layers, merge, naming, predict
from tunesmith.runs.fit import fit as _fit
from tunesmith.runs.fit_many import fit_many as _fit_many
from tunesmith.settings import DEFAULT_METHOD, DataSettings, FitSettings, Task, TrainingSettings
from tunesmith.watch import Logged, Watch

if TYPE_CHECKING:
    from tunesmith.runs.predict import Predictor

_OWN = ("model", "task", "method", "out")
_OF_EACH = ("method", "learning_rate", "seed")  # `fit_many` has them in the plural
Paths = str | Path | Sequence[str | Path]


class Run:
    """A finished run: what came of it, and its model."""

    def __init__(self, folder: Path, result: RunResult) -> None:
        self.folder = folder
        """Where everything of the run lies."""
        self.result = result
        """The whole record, as in `run.json`."""

    def __repr__(self) -> str:
        numbers = ", ".join(f"{name}={value:.4g}" for name, value in self.metrics.items())
        return f"Run({str(self.folder)!r}, {numbers})"

    @property
    def metrics(self) -> dict[str, float]:
        """What the tuned model reaches on the test rows; `result.stages` has the intervals and the base model."""
        stage = next((s for s in self.result.stages if s.kind == "tuned" and s.split == "test"), None)
        return {} if stage is None else {name: measure.value for name, measure in stage.metrics.items()}

    @property
    def report(self) -> Path:
        """The page that shows everything, to open in a browser."""
        return self.folder / REPORT

    def predict(self, texts: Sequence[str | tuple[str, str]], *, max_new_tokens: int = 256) -> list[str]:
        """The label of each text (or pair of texts), or what the model writes to each, at most `max_new_tokens` of it.

        Raises:
            InputError: If the texts are not of the kind that the run was tuned on.
        """
        return self._predictor.predict(texts, Generation(max_new_tokens=max_new_tokens))

    def chat(
        self,
        messages: str | Sequence[Mapping[str, str]],
        *,
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> str:
        """The answer to a question, or to a conversation of `{"role": "user", "content": "..."}` messages.

        Args:
            messages: A question, or the turns so far.
            max_new_tokens: Longest answer in tokens.
            temperature: 0 takes the most probable token; 1 draws by the model's own probabilities.
            top_p: Draws only among the most probable tokens that together have this probability.
            seed: The same seed draws the same answer.

        Raises:
            InputError: If the run is not a chat model, a message has no role and content, or a number is out of range.
        """
        sampling = Sampling(temperature=temperature, top_p=top_p, seed=seed)
        turns = [{"role": "user", "content": messages}] if isinstance(messages, str) else messages
        settings = Generation(max_new_tokens=max_new_tokens, sampling=sampling)
        return "".join(self._predictor.chat([_message(turn) for turn in turns], settings))

    def evaluate(self, data: Paths, *, watch: Watch | None = None) -> list[Stage]:
        """Metrics of the tuned model on other rows, with 95 % intervals.

        Raises:
            InputError: If the rows cannot be read, or have labels that the model does not know.
        """
        return evaluate.evaluate(self.folder, _texts(data), watch or Logged()).stages

    def merge(self, out: str | Path, *, watch: Watch | None = None) -> Path:
        """The folder `out`, with the tuned model written to it as an ordinary transformers model.

        Raises:
            NotMergeable: If the method cannot be expressed as weights, or the model would not answer like a quantised run.
            RunError: If `out` exists or cannot be written.
        """
        merge.merge(self.folder, Path(out), watch or Logged())
        return Path(out)

    @cached_property
    def _predictor(self) -> Predictor:
        return predict.load(self.folder, Logged())


def fit(
    data: Paths,
    *,
    model: str | Path,
    method: Method | str = DEFAULT_METHOD,
    task: Task = "auto",
    out: str | Path | None = None,
    eval: str | Path | None = None,
    max_rows: int | None = None,
    max_length: int | None = None,
    epochs: float | None = None,
    steps: int | None = None,
    max_time: float | str | None = None,
    rows_per_step: int | None = None,
    learning_rate: float | None = None,
    precision: Literal["auto", "float32", "bfloat16"] | None = None,
    seed: int | None = None,
    more: Mapping[str, object] | None = None,
    profile: bool = False,
    watch: Watch | None = None,
) -> Run:
    """Fine-tune a model on data, evaluate, save and report; what is left out is decided by task, method and size.

    Args:
        data: File, folder, hub id or `starter:NAME`, or several that are one data set.
        model: Hub id, folder, `.gguf` file or `starter:NAME`.
        method: A method such as `LoRA(rank=16)`, or the name of a method or preset.
        task: What to learn; 'auto' goes by the shape of the rows and the kind of model.
        out: Run folder, which must be new; `runs/DATA-MODEL-METHOD-N` by default.
        eval: Rows to evaluate on; without it, some of the data are held out.
        max_rows: Use this many rows at most.
        max_length: Longest row in tokens.
        epochs: Passes over the data.
        steps: Stop after this many optimizer steps.
        max_time: Stop training after this time: seconds, or a text such as '10m'.
        rows_per_step: Rows that one optimizer step learns from.
        learning_rate: Peak learning rate.
        precision: Number format of the frozen weights; by default what is measured to be faster here.
        seed: The same seed gives the same run; 0 by default.
        more: Any other setting of the [data] and [training] tables, by name: `{"patience": 0, "label_column": "y"}`.
        profile: Also measure where a training step's time and memory go: `result.profile`.
        watch: Told what happens; by default Python's logger 'tunesmith' is.

    Raises:
        InputError: If settings, data or model cannot be used; nothing was trained.
        TunesmithError: If it failed; the message says why.
    """
    rows = {"data": _texts(data), "eval": None if eval is None else str(eval), "max_rows": max_rows, "max_length": max_length}
    length = {"epochs": epochs, "steps": steps, "max_time": max_time, "rows_per_step": rows_per_step}
    way = {"learning_rate": learning_rate, "precision": precision, "seed": seed}
    tree: settings.Tree = {"model": str(model), "task": task, "method": _method_tree(method)}
    chosen = _complete(tree | _tables({**rows, **length, **way}, more or {}))
    chosen = dataclasses.replace(chosen, out=naming.new_run(chosen) if out is None else str(out))
    return Run(Path(chosen.out or ""), _fit(chosen, watch or Logged(), profile=profile))


def fit_many(
    data: Paths,
    *,
    model: str | Path,
    methods: Sequence[Method | str],
    learning_rates: Sequence[float] | None = None,
    seeds: Sequence[int] | None = None,
    out: str | Path | None = None,
    more: Mapping[str, object] | None = None,
    watch: Watch | None = None,
) -> list[Run]:
    """Fine-tune several LoRA adapters at once over one base model: the frozen weights are held, and read in each pass, once.

    Each adapter becomes what `fit` would make of it alone, up to rounding: it learns from its own order of the rows, by its
    own optimizer, and is evaluated, stopped and saved by itself, as a run like any other.

    Args:
        data: File, folder, hub id or `starter:NAME`, or several that are one data set.
        model: Hub id, folder, `.gguf` file or `starter:NAME`.
        methods: A LoRA such as `LoRA(rank=16)`, or the name of a preset of it, for each adapter.
        learning_rates: Peak learning rate of each; by default that of its method.
        seeds: Seed of each, for its order of the rows and its initial weights; by default all have the same.
        out: New folder that will hold the runs as `1`, `2` and so on; by default each is `runs/DATA-MODEL-METHOD-N`.
        more: Any other setting, the same for all, by name: `{"epochs": 1, "max_rows": 500, "task": "chat"}`.
        watch: Told what happens; by default Python's logger 'tunesmith' is.

    Returns:
        A run for each method. One whose numbers diverged has the status 'failed' in its result; the others are finished.

    Raises:
        InputError: If settings, data or model cannot be used, or cannot go together; nothing was trained.
        TunesmithError: If all failed; the message says why.
    """
    known = dict(more or {})
    tree: settings.Tree = {"model": str(model), "task": known.pop("task", "auto")}
    rates, draws = _of_each("learning_rates", learning_rates, methods), _of_each("seeds", seeds, methods)
    chosen = []
    for method, rate, seed in zip(methods, rates, draws, strict=True):
        own = {name: value for name, value in (("learning_rate", rate), ("seed", seed)) if value is not None}
        tables = _tables({"data": _texts(data), **own}, known, _OF_EACH)
        chosen.append(_complete({**tree, "method": _method_tree(method), **tables}))
    outs = naming.new_runs(chosen) if out is None else [str(Path(out) / str(number + 1)) for number in range(len(chosen))]
    chosen = [dataclasses.replace(own, out=folder) for own, folder in zip(chosen, outs, strict=True)]
    results = _fit_many(chosen, watch or Logged())
    return [Run(Path(folder), result) for folder, result in zip(outs, results, strict=True)]


def _of_each(name: str, given: Sequence[float] | None, methods: Sequence[Method | str]) -> Sequence[float | None]:
    """A value for each method.

    Raises:
        SettingsError: If there are more or fewer values than methods.
    """
    if given is None:
        return [None] * len(methods)
    if len(given) != len(methods):
        raise SettingsError(f"`{name}` has {len(given)} values for {len(methods)} methods. Give one for each, or leave it out.")
    return given


def load(folder: str | Path) -> Run:
    """The run in a folder, finished or not; its model is loaded when it is first asked something.

    Raises:
        RunError: If there is no run, or its record is damaged.
    """
    return Run(Path(folder), RunResult.load(Path(folder)))


def _texts(data: Paths) -> list[str]:
    """One path or several as texts."""
    return [str(data)] if isinstance(data, (str, Path)) else [str(path) for path in data]


def _complete(tree: settings.Tree) -> FitSettings:
    """The settings of a run.

    Raises:
        SettingsError: If one is wrong, or there is no data or no model.
    """
    chosen = layers.resolve(tree, config=None, preset=None)
    if not chosen.data.data or not chosen.model:
        missing = "model" if chosen.data.data else "data"
        raise SettingsError(f"No {missing} was given: fit('reviews.csv', model='starter:minilm').")
    return chosen


def _tables(given: Mapping[str, object], more: Mapping[str, object], plural: Sequence[str] = ()) -> settings.Tree:
    """Settings by name, each in its table; one that belongs to none stays on top, where it is refused with the nearest name.

    Raises:
        SettingsError: If `more` holds what has an argument of its own.
    """
    if own := [name for name in more if name in given or name in _OWN]:
        argument = f"{own[0]}s" if own[0] in plural else own[0]
        raise SettingsError(f"`{own[0]}` is an argument of its own, `{argument}=...`, and no key of `more`.")
    tables = {"data": DataSettings, "training": TrainingSettings}
    homes = {field.name: table for table, layout in tables.items() for field in dataclasses.fields(layout)}
    known = {name: value for name, value in {**given, **more}.items() if value is not None}
    tree: settings.Tree = {table: {n: v for n, v in known.items() if homes.get(n) == table} for table in tables}
    return {**{name: value for name, value in known.items() if name not in homes}, **tree}


def _method_tree(method: Method | str) -> settings.Tree:
    """A method with all its settings, or a name to be looked up.

    Raises:
        SettingsError: If it is neither.
    """
    if isinstance(method, str):
        return {"name": method}
    if not isinstance(method, Method):
        found = f"the class; write {method.__name__}()" if isinstance(method, type) else repr(method)
        raise SettingsError(f"`method` must be a method such as LoRA(rank=16), or a name; found {found}.")
    return {"name": method.name, **settings.to_mapping(method)}


def _message(turn: Mapping[str, str]) -> Message:
    """One turn of a conversation.

    Raises:
        InputError: If it is not one.
    """
    role, content = turn.get("role"), turn.get("content")
    if role not in get_args(Role) or not isinstance(content, str):
        found = dict(turn)
        raise InputError(f'A message is {{"role": {" or ".join(get_args(Role))}, "content": TEXT}}, found {str(found)[:80]}.')
    return Message(role, content)  # pyright: ignore[reportArgumentType]  # it was looked up among the roles
