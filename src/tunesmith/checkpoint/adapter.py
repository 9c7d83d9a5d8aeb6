"""Saves and loads what a method learnt: in PEFT's format if that can hold it, else in tunesmith's own.

What is another method to PEFT is saved in both: PEFT reads the one, tunesmith the other.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from torch import nn

from tunesmith.checkpoint import peft_format, trained
from tunesmith.errors import ModelError, RunError
from tunesmith.interchange import ForPeft, NotInPeftFormat, PeftFormat
from tunesmith.method import Method


def save(model: nn.Module, method: Method, folder: Path, *, base_model: str) -> None:
    """Write the adapter to `folder`, whole or not at all; `base_model` is the base as the user named it.

    Raises:
        DiskFull: If there is too little room.
        RunError: If the folder cannot be written for another reason.
    """
    forms, is_read_from_peft = [], isinstance(method, PeftFormat)
    if isinstance(method, ForPeft):
        with contextlib.suppress(NotInPeftFormat if is_read_from_peft else RunError):
            forms.append(peft_format.files(model, method, base_model=base_model))
    if not (forms and is_read_from_peft):
        forms.append(trained.files(model, method))
    trained.write(folder, *forms)


def most_bytes(method: Method, trained_bytes: int) -> int:
    """The most that `save` writes: PEFT's form of what is another method to it may be twice as large as what was trained."""
    return trained_bytes * (3 if isinstance(method, ForPeft) and not isinstance(method, PeftFormat) else 1)


def load(model: nn.Module, folder: Path) -> Method:
    """Attach the adapter in `folder` to a bare model, and give the method it is of.

    Raises:
        InputError: If it is no adapter, cannot be read safely, or belongs to another model.
    """
    if (folder / trained.METHOD).exists():
        return trained.load_trained(model, folder)
    if (folder / peft_format.CONFIG).exists():
        return peft_format.load(model, folder)
    raise ModelError(f"{folder} holds no adapter: it has neither {peft_format.CONFIG} nor {trained.METHOD}.")
