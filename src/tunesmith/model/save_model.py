"""Writes an ordinary transformers folder, whole or not at all."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from tunesmith.durable import whole_folder

MAX_SHARD_BYTES = 5_000_000_000
_TOKENIZER_BYTES = 50_000_000
"""Room kept for the files of the tokenizer, which are not measured."""


def save_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    folder: Path,
    *,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write `config.json`, `model.safetensors` (in shards if it is large) and the tokenizer to `folder`.

    Args:
        model: A model without added parts: detach or merge the method first.
        tokenizer: Saved beside the model, if there is one.
        folder: A folder already there is replaced.
        max_shard_bytes: Largest size of one weights file.

    Raises:
        DiskFull: If there is too little room; nothing is left behind.
        RunError: If the folder cannot be written for another reason.
    """
    with whole_folder(folder, _num_bytes(model)) as place, _quietly(), _as_system_error():
        _repair_generation_config(model)
        model.save_pretrained(place, max_shard_size=max_shard_bytes)
        if tokenizer is not None:
            tokenizer.save_pretrained(place)


def _num_bytes(model: PreTrainedModel) -> int:
    """Size of all weights, tied ones once, and of the tokenizer's files at most."""
    tensors = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return sum(tensor.nbytes for tensor in tensors.values()) + _TOKENIZER_BYTES


def _repair_generation_config(model: PreTrainedModel) -> None:
    """Switch sampling on where a setting of sampling is given: transformers reads such a file but refuses to write it."""
    if not model.can_generate() or (settings := model.generation_config) is None:
        return
    try:
        settings.validate(strict=True)
    except ValueError:
        settings.do_sample = True


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keep transformers' own progress bar away: showing progress is the caller's."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


@contextlib.contextmanager
def _as_system_error() -> Iterator[None]:
    """Turn the error that safetensors makes of a failed write back into the system's own."""
    try:
        yield
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), str(error)) from error
