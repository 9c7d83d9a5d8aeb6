"""A run as an ordinary transformers model."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tunesmith import settings
from tunesmith.checkpoint import adapter
from tunesmith.checkpoint import merge as merging
from tunesmith.data.pack import in_order_of_length, pack
from tunesmith.data.table import TokenTable
from tunesmith.durable import whole_folder
from tunesmith.errors import DataError, NotMergeable, RunError, SettingsError
from tunesmith.evaluation.agreement import Agreement, compare
from tunesmith.model import anatomy, quantize
from tunesmith.model.forward import Forward
from tunesmith.model.save_model import save_model
from tunesmith.model.source import Source
from tunesmith.model.trial import choose
from tunesmith.reports.result import RunResult
from tunesmith.runs import evaluate, predict, resume
from tunesmith.runs.place import Place
from tunesmith.runs.session import prepare_session
from tunesmith.settings import FitSettings
from tunesmith.watch import Progress, Quiet, Watch

MAX_DIVERGENCE = 0.001  # nats a prediction; float32 against float32 gives about 1e-11
_MAX_ROWS = 64
_TOKENS_PER_PASS = 256  # the logits of both models, and their logarithms, are held at once


def merge(
    folder: Path, out: Path, watch: Watch, *, rows: Sequence[str] = (), max_divergence: float | None = None
) -> Agreement | None:
    """Write the tuned model of the run in `folder` to `out`, which must not exist.

    The base of a run that kept it in few bits is dequantised first, and the merged model is compared with the run on rows
    that the run held out, or on the files `rows`. What was measured is given back, None where nothing was quantised.

    Raises:
        NotMergeable: If the method cannot be expressed as weights, or the merged model differs from the run by more than
            `max_divergence` (by default `MAX_DIVERGENCE`) nats a prediction.
        SettingsError: If rows or a divergence are given and nothing is compared.
        RunError: If the run is not finished, its base model has changed, or `out` exists or cannot be written.
        DiskFull: If there is too little room.
    """
    result, trained = predict.finished(folder), Place(folder).model
    if out.exists():
        raise RunError(f"{out} exists already. Choose a new folder with --out.")
    is_quantised = predict.base_bits(result) < 16 and not trained.exists()
    if not is_quantised and (rows or max_divergence is not None):
        raise SettingsError(
            f"{folder} was not quantised, so its merged model is compared with nothing. Leave out --rows and --max-divergence."
        )
    if trained.exists():
        with whole_folder(out, sum(path.stat().st_size for path in trained.rglob("*"))) as place:
            shutil.copytree(trained, place, dirs_exist_ok=True)
        watch.say("the run trained the whole model: copied as it is")
        return None
    if not is_quantised:
        source, model, method = predict.with_adapter(folder, result, watch)
        merging.merge_and_save(model, method, source.tokenizer, out)
        return None
    source, merged = _merged_in_float32(folder, result, watch)
    found = _agreement(folder, result, merged, _held_out(folder, result, source, rows, watch), watch)
    _require_alike(folder, found, MAX_DIVERGENCE if max_divergence is None else max_divergence)
    save_model(merged, source.tokenizer, out)
    return found


def _merged_in_float32(folder: Path, result: RunResult, watch: Watch) -> tuple[Source, PreTrainedModel]:
    """The base with the weights that it computed with while it was trained on, and the change folded into them."""
    source, model = predict.base(folder, result, watch)
    quantize.dequantize(model)
    merging.merge(model, adapter.load(model, Place(folder).adapter))
    watch.say("the base model was dequantised and merged in float32")
    return source, model


def _held_out(folder: Path, result: RunResult, source: Source, rows: Sequence[str], watch: Watch) -> TokenTable:
    """Some rows to compare on, at most `_MAX_ROWS`: those in the files `rows`, or the run's own test rows.

    Raises:
        RunError: If the run's data cannot be read any more.
    """
    if rows:
        table = evaluate.rows_like(result, source, rows, str(folder), watch).part.tokens
    else:
        chosen = settings.from_mapping(FitSettings, result.settings, f"{folder}/run.json")
        try:
            table = prepare_session(resume.located_settings(chosen, result.directory), Quiet()).data.test.tokens
        except DataError as error:
            raise RunError(
                f"The merged model is compared with the run on the rows that {folder} held out, and these cannot be read: "
                f"{error} Give other rows of the same shape: --rows FILE."
            ) from None
    return table.select(range(min(len(table), _MAX_ROWS)))


def _agreement(folder: Path, result: RunResult, merged: PreTrainedModel, table: TokenTable, watch: Watch) -> Agreement:
    """How alike the run, its base in few bits, and the merged model answer."""
    _, tuned, _ = predict.with_adapter(folder, result, watch)
    forwards = [choose(model.eval(), classification=bool(result.data.labels), fast=False)[0] for model in (tuned, merged)]
    return compare(_logits(forwards, table, watch))


@torch.no_grad()
def _logits(forwards: Sequence[Forward], table: TokenTable, watch: Watch) -> Iterator[tuple[Tensor, Tensor]]:
    """What both models answer, a block of predictions at a time."""
    done = 0
    for rows in in_order_of_length(table, _TOKENS_PER_PASS):
        batch = pack(table, rows).to(anatomy.device_of(forwards[0].model))
        if batch.num_targets:
            first, second = (forward.target_logits(batch) for forward in forwards)
            yield first, second
        done += len(rows)
        watch.progress(Progress(phase="comparing with the run", done=done, total=len(table), unit="rows"))


def _require_alike(folder: Path, found: Agreement, max_divergence: float) -> None:
    """Refuse to write a model that is not the run.

    Raises:
        NotMergeable: If the predictions differ by more than is allowed.
    """
    if found.divergence <= max_divergence:
        return
    raise NotMergeable(
        f"The merged model does not answer like {folder}: {found}; at most {max_divergence:g} nats are allowed. Nothing was "
        f"written. Keep the adapter beside its quantised base (tunesmith chat {folder}), or accept the difference with "
        f"--max-divergence {found.divergence * 1.1:.2g}."
    )
