"""From data to an evaluated, saved, explained fine-tune: the whole story of `tunesmith fit`."""

from __future__ import annotations

import contextlib
import datetime
import platform
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path

import torch
from transformers import PreTrainedModel

from tunesmith import settings
from tunesmith.checkpoint import adapter
from tunesmith.errors import TrainingDiverged
from tunesmith.model import anatomy, load
from tunesmith.model.save_model import save_model
from tunesmith.reports.card import write_card
from tunesmith.reports.html import write_report
from tunesmith.reports.result import Cost, DataFacts, ModelFacts, Progress, RunResult
from tunesmith.runs import baseline, defaults, outcome, rehearsal
from tunesmith.runs.keeper import RunKeeper, require_room, restored
from tunesmith.runs.place import Place
from tunesmith.runs.profile import Profiler, Unprofiled
from tunesmith.runs.session import Session, prepare_session
from tunesmith.runs.signals import Signals, Stopped
from tunesmith.settings import FitSettings
from tunesmith.training import memory
from tunesmith.training.log import MetricsLog
from tunesmith.training.loop import Loop, State
from tunesmith.watch import Watch

_PACKAGES = ("tunesmith", "torch", "transformers", "tokenizers", "safetensors", "numpy")
rehearse = rehearsal.rehearse


@dataclass(frozen=True)
class Began:
    """How things were at the beginning of a run, whose peak of memory is measured from here on."""

    seconds: float = field(default_factory=time.monotonic)
    resident_bytes: int = field(default_factory=memory.resident_bytes)
    """What the process held before anything was loaded."""

    def __post_init__(self) -> None:
        memory.forget_peak()


@memory.returned()
def fit(chosen: FitSettings, watch: Watch, *, profile: bool = False) -> RunResult:
    """Run the whole story in the folder `chosen.out`, which must be new; `profile` measures where a step's time goes.

    Raises:
        InputError: If settings, data or model cannot be used; nothing was trained.
        Interrupted: If a signal stopped it; everything is saved.
        TunesmithError: If it failed; the message says why, `run.json` too.
    """
    assert chosen.out is not None
    began = Began()
    place = Place(Path(chosen.out))
    place.require_new()
    with Signals("nothing was begun.") as signals:
        session = prepare_session(chosen, watch)
        session.profiler = Profiler() if profile else Unprofiled()
        result = record(session)
        with place.claim():
            with place.disk_errors_said():
                result.save(place.folder)
            signals.advice = place.how_to_go_on
            return carry_on(session, place, result, signals, began)


def carry_on(session: Session, place: Place, result: RunResult, signals: Signals, began: Began) -> RunResult:
    """The run from wherever its folder says it is to its end; the caller holds the run's lock.

    Args:
        session: The run's parts, the base model not yet loaded.
        place: The run's folder.
        result: The record so far.
        signals: Whose block this is in.
        began: How things were before anything was loaded.

    Raises:
        TunesmithError: As `fit`.
    """
    try:
        with place.disk_errors_said(), session.kernels():
            _train_and_tell(session, place, result, signals)
            finish(session, place, result, began)
    except BaseException as error:
        give_up(session, place, result, began, error)
        raise
    return result


def finish(session: Session, place: Place, result: RunResult, began: Began) -> None:
    """Write everything that a run shows when nothing is left to do."""
    result.status = "finished"
    _complete(result, session, began)
    write_report(result, place.folder)
    write_card(result, place.folder)
    result.save(place.folder)  # last: what says that it is finished has everything


def give_up(session: Session, place: Place, result: RunResult, began: Began, error: BaseException) -> None:
    """Write down why a run ended before it was finished."""
    stopped = isinstance(error, (Stopped, KeyboardInterrupt))
    result.status = "interrupted" if stopped else "failed"
    result.error = None if stopped else str(error) or type(error).__name__
    result.has_diverged = isinstance(error, TrainingDiverged)
    _complete(result, session, began)
    with contextlib.suppress(OSError):  # on a full disk the record of before stands
        result.save(place.folder)


def _complete(result: RunResult, session: Session, began: Began) -> None:
    """Fill in what was warned of and what it took."""
    result.warnings = list(dict.fromkeys([*result.warnings, *session.watch.warnings]))
    if result.cost is not None:
        peak = memory.peak_bytes() + session.worker_bytes
        result.cost = replace(
            result.cost,
            total_seconds=time.monotonic() - began.seconds,
            peak_memory_bytes=peak,
            memory_above_import_bytes=max(0, peak - began.resident_bytes),
        )


def _train_and_tell(session: Session, place: Place, result: RunResult, signals: Signals) -> None:
    """Measure the base, train, keep the best, measure again, save."""
    session.load_base()
    result.settings = settings.to_mapping(session.settings)
    result.save(place.folder)  # with the number format that was measured to be the faster one: a resumed run must take the same
    plan = defaults.plan(session.settings.training, len(session.data.train.tokens))
    require_room(session, place, plan)
    base = baseline.measure(session, place)
    result.stages = list(base.stages)
    with made_ready(session, place, result, signals) as (loop, keeper), signals.finishing():
        loop.run()
    result.profile = session.profiler.result(session, loop.optimizer, plan)
    keeper.restore(loop.state.best_step)
    outcome.measure(session, place, base, result)
    save(keeper)


@contextlib.contextmanager
def made_ready(session: Session, place: Place, result: RunResult, signals: Signals) -> Iterator[tuple[Loop, RunKeeper]]:
    """Attach the method and give the loop that trains it; on leaving, the record says how far it came."""
    optimizer = session.attach()
    total, trainable = anatomy.count_parameters(session.model)
    result.model = replace(result.model, num_parameters=total, num_trainable=trainable, precision=session.storage)
    result.save(place.folder)  # a run that is killed from here on was started
    plan = defaults.plan(session.settings.training, len(session.data.train.tokens))
    keeper = RunKeeper(session, optimizer, place, signals)
    state = restored(session, keeper, place)
    with MetricsLog(place.folder, resume_from=state.step) as log:
        loop = Loop(
            session.forward,
            session.data.train.tokens,
            optimizer,
            plan,
            keeper,
            log,
            session.watch,
            state,
            should_stop=signals.reason,
            measuring=session.profiler.measuring,
        )
        try:
            yield loop, keeper
        finally:
            session.worker_bytes = loop.learner.worker_bytes
            result.progress, result.cost = _progress(state, plan.num_steps, session), _cost(state)


def save(keeper: RunKeeper) -> None:
    """Write what a user takes away: an adapter, or the whole model where its own weights were trained."""
    session, place = keeper.session, keeper.place
    if session.method.trains_base_weights:
        save_model(_unrounded(keeper), session.source.tokenizer, place.model)
    else:
        adapter.save(session.model, session.method, place.adapter, base_model=session.settings.model)


@torch.no_grad()
def _unrounded(keeper: RunKeeper) -> PreTrainedModel:
    """The tuned model of a method that trains base weights, in float32, with the values that learnt.

    A model that computes in 16 bit holds all weights rounded: those that did not learn come from the base's files again.
    """
    session = keeper.session
    if session.dtype == torch.float32:
        return session.model
    model = load.load(session.source, session.data.task, labels=session.data.labels)
    for name, value in keeper.optimizer.trained().items():
        model.get_parameter(name).copy_(value)
    return model


def record(session: Session) -> RunResult:
    """The record of a run that begins."""
    data, source = session.data, session.source
    license_name = source.license
    return RunResult(
        task=data.task,
        method=session.settings.method,
        mergeable=session.method.mergeable,
        command=["tunesmith", *sys.argv[1:]] if Path(sys.argv[0]).stem in ("tunesmith", "__main__") else [],
        directory=str(Path.cwd()),
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        settings=settings.to_mapping(session.settings),
        versions={"python": platform.python_version(), **{name: metadata.version(name) for name in _PACKAGES}},
        machine=session.machine(),
        seed=session.settings.training.seed,
        model=ModelFacts(
            name=source.name,
            fingerprint=source.fingerprint,
            architecture=type(source.config).__name__.removesuffix("Config"),
            num_parameters=source.num_parameters,
            num_trainable=0,
            precision="",
            license=license_name,
        ),
        data=DataFacts(
            name=data.name,
            fingerprint=data.fingerprint,
            shape=data.shape,
            description=" ".join(f"{sentence[:1].upper()}{sentence[1:]}." for sentence in data.description),
            num_train=data.train.num_origins,
            num_validation=data.validation.num_origins,
            num_test=data.test.num_origins,
            num_skipped=len(data.skipped),
            train_tokens=data.train.tokens.num_tokens,
            labelled_tokens=data.train.tokens.num_labelled,
            max_length=data.max_length,
            labels=list(data.labels),
        ),
    )


def _progress(state: State, planned_steps: int, session: Session) -> Progress:
    rows_per_step = session.settings.training.rows_per_step
    assert rows_per_step is not None
    steps_per_epoch = -(-len(session.data.train.tokens) // rows_per_step)
    return Progress(
        steps=state.step,
        planned_steps=planned_steps,
        epochs=state.step / steps_per_epoch,
        best_step=state.best_step,
        best_metric="macro_f1" if session.data.labels else "loss",
        stop_reason=state.stop_reason or "interrupted",
    )


def _cost(state: State) -> Cost:
    return Cost(
        train_seconds=state.seconds,
        total_seconds=0.0,
        real_tokens_per_second=state.tokens / state.seconds if state.seconds else 0.0,
        peak_memory_bytes=0,
    )
