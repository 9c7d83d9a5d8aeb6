"""A run as an ordinary transformers model."""

from __future__ import annotations

import shutil
from pathlib import Path

from tunesmith.checkpoint.durable import whole_folder
from tunesmith.checkpoint.merge import merge_and_save
from tunesmith.errors import RunError
from tunesmith.runs import predict
from tunesmith.runs.place import Place
from tunesmith.watch import Watch


def merge(folder: Path, out: Path, watch: Watch) -> None:
    """Write the tuned model of the run in `folder` to `out`, which must not exist.

    Raises:
        NotMergeable: If the method cannot be expressed as weights.
        RunError: If the run is not finished, its base model has changed, or `out` exists or cannot be written.
        DiskFull: If there is too little room.
    """
    result, trained = predict.finished(folder), Place(folder).model
    if out.exists():
        raise RunError(f"{out} exists already. Choose a new folder with --out.")
    if trained.exists():
        with whole_folder(out, sum(path.stat().st_size for path in trained.rglob("*"))) as place:
            shutil.copytree(trained, place, dirs_exist_ok=True)
        watch.say("the run trained the whole model: copied as it is")
        return
    source, model, method = predict.with_adapter(folder, result)
    merge_and_save(model, method, source.tokenizer, out)
