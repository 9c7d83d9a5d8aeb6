"""Several adapters over one base model, trained in common passes; each leaves a run folder like that of `fit`."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tunesmith import durable, settings
from tunesmith.errors import SettingsError
from tunesmith.model import many
from tunesmith.model.forward import PackedForward
from tunesmith.reports.result import RunResult
from tunesmith.runs import baseline, defaults, outcome
from tunesmith.runs.fit import Began, finish, give_up, made_ready, record, save
from tunesmith.runs.keeper import bytes_kept
from tunesmith.runs.place import Place
from tunesmith.runs.session import Recorder, Session, method_of, prepare_session
from tunesmith.runs.signals import Signals
from tunesmith.settings import FitSettings
from tunesmith.training import memory
from tunesmith.training.common_loop import CommonLoop
from tunesmith.watch import Progress, Watch

_COMMON = ("tokens_per_pass", "precision", "base_bits", "threads", "workers", "fast_paths")
"""Training settings that decide how the one base model computes."""


class Member(NamedTuple):
    """One of the runs."""

    session: Session
    place: Place
    result: RunResult


@memory.returned()
def fit_many(chosen: Sequence[FitSettings], watch: Watch) -> list[RunResult]:
    """Run `fit` for all settings at once, each in its own new folder `out`; they differ in method and training only.

    A run whose loss or gradient stays infinite ends as failed, with the reason in its record; the others go on.

    Raises:
        InputError: If settings, data or model cannot be used, or cannot go together; nothing was trained.
        Interrupted: If a signal stopped it; everything is saved, and each run can be resumed alone.
        TunesmithError: If all failed; the message says why, and so does each `run.json`.
    """
    began = Began()
    _require_one_base(chosen)
    places = [Place(Path(own.out or "")) for own in chosen]
    for place in places:
        place.require_new()
    with Signals("nothing was begun.") as signals, contextlib.ExitStack() as claims:
        sessions = _sessions(chosen, watch)
        members = [Member(s, place, record(s)) for s, place in zip(sessions, places, strict=True)]
        for member in members:
            claims.enter_context(member.place.claim())
            claims.enter_context(member.place.disk_errors_said())
            member.result.save(member.place.folder)
        signals.advice = f"everything is saved. Go on with each alone: {_resume_commands(places)}"
        untold = list(members)
        try:
            _train_and_tell(members, untold, signals, began)
        except BaseException as error:
            for member in untold:
                give_up(member.session, member.place, member.result, began, error)
            raise
    return [member.result for member in members]


def _train_and_tell(members: Sequence[Member], untold: list[Member], signals: Signals, began: Began) -> None:
    """Load and measure the base once, train all, measure and save each, which takes it out of `untold`."""
    whole = _loaded(members)
    adapters = [many.twin(whole) for _ in members]
    for member, adapter in zip(members, adapters, strict=True):
        member.session.take_base(adapter, members[0].session.dtype)
        member.result.settings = settings.to_mapping(member.session.settings)
        member.result.save(member.place.folder)
    _require_fit(members)
    base = baseline.measure(members[0].session, members[0].place)
    for member in members:
        baseline.hand_on(base, members[0].place, member.place)
        member.result.stages = list(base.stages)
    with contextlib.ExitStack() as stack:
        ready = [stack.enter_context(made_ready(m.session, m.place, m.result, signals)) for m in members]
        loops = [loop for loop, _ in ready]
        common = CommonLoop(many.together(whole, adapters), loops, loops[0].plan.tokens_per_pass)
        stack.enter_context(signals.finishing())
        common.run()
    if len(common.diverged) == len(members):
        raise common.diverged[0]
    for number, (member, (loop, keeper)) in enumerate(zip(members, ready, strict=True)):
        if error := common.diverged.get(number):
            member.session.watch.warn(str(error))
            give_up(member.session, member.place, member.result, began, error)
        else:
            keeper.restore(loop.state.best_step)
            outcome.measure(member.session, member.place, base, member.result)
            save(keeper)
            finish(member.session, member.place, member.result, began)
        untold.remove(member)


def _loaded(members: Sequence[Member]) -> PackedForward:
    """The base model of all."""
    members[0].session.load_base()
    return many.require_packed(members[0].session.forward)


def _require_fit(members: Sequence[Member]) -> None:
    """Check before any time is spent that all can be trained together, and that the disk has room for all.

    Raises:
        InputError: If a method is not of the kind, or does not fit the model.
        DiskFull: If there is too little room.
    """
    needed_bytes = 0
    for number, (session, _, _) in enumerate(members, 1):
        many.require_low_rank(session.attached_weightless(), f"number {number}, {session.method.name!r},")
        plan = defaults.plan(session.settings.training, len(session.data.train.tokens))
        needed_bytes += bytes_kept(session, plan)
    durable.require_room(members[0].place.folder, needed_bytes)


def _sessions(chosen: Sequence[FitSettings], watch: Watch) -> list[Session]:
    """The parts of every run; the model is found and the data are read once."""
    first = prepare_session(chosen[0], watch)
    if first.data.labels and len({own.training.seed for own in chosen}) > 1:
        raise SettingsError("The seed draws the new head of a classifier, so all must have the same. Give one seed.")
    sessions = []
    for own in chosen:
        recorder = Recorder(Named(watch, Path(own.out or "").name))
        recorder.warnings += first.watch.warnings
        session = Session(own, first.source, first.data, method_of(own), first.device, recorder)
        session.decide()
        sessions.append(session)
    return sessions


def _require_one_base(chosen: Sequence[FitSettings]) -> None:
    """Check that all settings want the same base model on the same rows, computed in the same way.

    Raises:
        SettingsError: If there are none, two differ, or two have the same folder.
    """
    if not chosen:
        raise SettingsError("No method was given to train: fit_many(..., methods=[LoRA(rank=8), LoRA(rank=32)]).")
    wanted = [_common(own) for own in chosen]
    for number, own in enumerate(wanted, 1):
        if differing := [name for name, value in own.items() if value != wanted[0][name]]:
            name = differing[0]
            raise SettingsError(
                f"What is trained together shares one base model and its data, but {name} is {wanted[0][name]!r} for number 1 "
                f"and {own[name]!r} for number {number}. Give all the same, or use fit."
            )
    if any(own.training.model_dropout == "on" for own in chosen):
        raise SettingsError("Models that are trained together have no dropout: leave model_dropout 'off', or use fit.")
    if len({own.out for own in chosen}) < len(chosen):
        raise SettingsError("Two of the runs have the same folder; each needs its own.")


def _common(chosen: FitSettings) -> dict[str, object]:
    """The settings that all must have in common, by name."""
    training = {name: getattr(chosen.training, name) for name in _COMMON}
    return {"model": chosen.model, "task": chosen.task, **vars(chosen.data), **training}


def _resume_commands(places: Sequence[Place]) -> str:
    return "; ".join(f"tunesmith resume {place.folder}" for place in places)


@dataclass(frozen=True)
class Named:
    """A watch that says of which run it tells."""

    watch: Watch
    name: str

    def say(self, text: str) -> None:
        """Pass on a fact."""
        self.watch.say(f"{self.name}: {text}")

    def warn(self, text: str) -> None:
        """Pass on a warning."""
        self.watch.warn(f"{self.name}: {text}")

    def progress(self, progress: Progress) -> None:
        """Pass on how far the current phase is."""
        self.watch.progress(dataclasses.replace(progress, phase=f"{self.name}: {progress.phase}"))
