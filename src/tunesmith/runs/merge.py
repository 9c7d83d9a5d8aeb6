"""A run as an ordinary transformers model."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from tunesmith.checkpoint import adapter
from tunesmith.checkpoint.merge import merge_and_save
from tunesmith.errors import RunError
from tunesmith.model import load as loading
from tunesmith.reports.result import RunResult
from tunesmith.runs.place import Place
from tunesmith.watch import Watch


def merge(folder: Path, out: Path, watch: Watch) -> None:
    """Write the tuned model of the run in `folder` to `out`, which must not exist.

    Raises:
        NotMergeable: If the method cannot be expressed as weights.
        RunError: If the run is not finished, or `out` exists.
    """
    loading.quiet()
    result, place = RunResult.load(folder), Place(folder)
    if result.status != "finished":
        raise RunError(f"{folder} is {result.status}; finish it first with: tunesmith resume {folder}")
    if out.exists():
        raise RunError(f"{out} exists already. Choose a new folder with --out.")
    if place.model.exists():
        shutil.copytree(place.model, out)
        watch.say("the run trained the whole model: copied as it is")
        return
    source = loading.find(result.model.name)
    torch.manual_seed(result.seed)
    model = loading.load(source, result.task, labels=tuple(result.data.labels))
    method = adapter.load(model, place.adapter)
    merge_and_save(model, method, source.tokenizer, out)
