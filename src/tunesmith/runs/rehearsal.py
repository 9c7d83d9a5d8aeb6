"""`fit --dry-run`: what a run would do, with the first rows exactly as they would be trained."""

from __future__ import annotations

from pathlib import Path

from tunesmith import settings
from tunesmith.data.prepared import PreparedData
from tunesmith.data.table import IGNORED
from tunesmith.model.source import Source
from tunesmith.runs import defaults, forecast
from tunesmith.runs.place import Place
from tunesmith.runs.session import prepare_session
from tunesmith.settings import FitSettings
from tunesmith.watch import Rehearsal, RehearsedRow, Watch

NUM_ROWS = 3


def rehearse(chosen: FitSettings, watch: Watch) -> Rehearsal:
    """Everything up to the first step, and a forecast of the rest; no file is written.

    Raises:
        InputError: If settings, data, model or run folder cannot be used.
    """
    if chosen.out:
        Place(Path(chosen.out)).require_new()
    session = prepare_session(chosen, watch)
    plan = defaults.plan(session.settings.training, len(session.data.train.tokens))
    session.load_base()
    optimizer = session.attach()
    expected = forecast.forecast(session, optimizer, plan)
    return Rehearsal(
        settings=settings.to_mapping(session.settings),
        description=(*session.data.description, *session.data.warnings),
        rows=tuple(_row(session.data, session.source, index) for index in range(min(NUM_ROWS, len(session.data.train.tokens)))),
        num_steps=plan.num_steps,
        predicted_seconds=expected.seconds,
        predicted_memory_bytes=expected.memory_bytes,
    )


def _row(data: PreparedData, source: Source, index: int) -> RehearsedRow:
    """One training row as tokens, with what is learnt."""
    ids, labels = data.train.tokens.row(index)
    if data.labels:
        return RehearsedRow(tokens=_texts(source, ids.tolist()), learnt=(False,) * len(ids), label=data.labels[int(labels[0])])
    if data.train.tokens.target_ids is not None:
        tokens = _texts(source, [*ids.tolist(), *labels.tolist()])
        return RehearsedRow(tokens=tokens, learnt=(False,) * len(ids) + (True,) * len(labels))
    return RehearsedRow(tokens=_texts(source, ids.tolist()), learnt=tuple(bool(label != IGNORED) for label in labels))


def _texts(source: Source, ids: list[int]) -> tuple[str, ...]:
    """The text of each token such that they join to the row: what a token adds to the text before it."""
    tokenizer, pieces = source.tokenizer, []
    for end in range(1, len(ids) + 1):
        whole = str(tokenizer.decode(ids[max(0, end - 32) : end]))
        before = str(tokenizer.decode(ids[max(0, end - 32) : end - 1])) if end > 1 else ""
        pieces.append(whole[len(before) :] if whole.startswith(before) else whole)
    return tuple(pieces)
