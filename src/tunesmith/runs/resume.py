"""Go on with an interrupted run to bitwise the weights it would have had."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tunesmith import durable, settings
from tunesmith.checkpoint.lock import RunLock
from tunesmith.errors import RunError
from tunesmith.reports.result import RunResult
from tunesmith.runs.fit import Began, carry_on
from tunesmith.runs.place import Place, located
from tunesmith.runs.session import Session, prepare_session
from tunesmith.runs.signals import Signals
from tunesmith.settings import FitSettings
from tunesmith.training import memory
from tunesmith.watch import Watch


@memory.returned()
def resume(folder: Path, watch: Watch) -> RunResult:
    """Finish the run in `folder` from its last good checkpoint, with its own settings.

    Raises:
        RunError: If the run is finished, or its model or data are no longer what they were.
        TunesmithError: As `fit`.
    """
    began = Began()
    RunResult.load(folder)  # before the lock, which would make a file in a folder that is no run
    place = Place(folder)
    with RunLock(folder), Signals(place.how_to_go_on) as signals:
        result = RunResult.load(folder)
        if result.status == "finished":
            raise RunError(f"{folder} is finished; nothing is left to do. See it with: tunesmith show {folder}")
        chosen = settings.from_mapping(FitSettings, result.settings, f"{folder}/run.json")
        session = prepare_session(located_settings(chosen, result.directory), watch)
        for what, before, now in (
            ("model", result.model.fingerprint, session.source.fingerprint),
            ("data", result.data.fingerprint, session.data.fingerprint),
        ):
            if before != now:
                raise RunError(f"The {what} of {folder} has changed since the run began, so it cannot go on. Start a new run.")
        _tell_of_other_kernels(result, session)
        durable.discard_leftovers(folder)
        result.status, result.error, result.has_diverged = "running", None, False
        return carry_on(session, place, result, signals, began)


def _tell_of_other_kernels(result: RunResult, session: Session) -> None:
    """Warn if other code computes now than before: numbers are rounded elsewhere."""
    before, now = result.machine.get("kernels"), session.machine()["kernels"]
    if before and before != now:
        session.watch.warn(
            f"Kernels were '{before}' when the run began and are '{now}' now: the result will not be the same to the last bit."
        )


def located_settings(chosen: FitSettings, directory: str) -> FitSettings:
    """The settings with the run's files named so that they are found from here."""
    data = replace(
        chosen.data,
        data=tuple(located(name, directory) for name in chosen.data.data),
        eval=None if chosen.data.eval is None else located(chosen.data.eval, directory),
    )
    return replace(chosen, model=located(chosen.model, directory), data=data)
