"""The base model of a run as it is computed with: in the number format of this machine, in the form that takes batches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from transformers import PreTrainedModel

from tunesmith.model import load as loading
from tunesmith.model import trial
from tunesmith.model.forward import Forward
from tunesmith.model.source import Source
from tunesmith.training import memory, precision


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What is wanted of it."""

    task: str
    labels: tuple[str, ...] = ()
    """Of a classifier; without them it keeps its head."""
    base_bits: int = 16
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    learns: bool = False
    """Whether its own weights are to be trained."""
    fast: bool = True
    """Whether kernels of our own may compute."""
    seed: int = 0
    """Of a new head."""


@dataclass(frozen=True)
class Loaded:
    """A base model on its device."""

    forward: Forward
    dtype: torch.dtype
    """What it computes in."""
    sentence: str
    """Why in this."""
    reason: str | None
    """Why rows are padded, None where they are packed."""

    @property
    def model(self) -> PreTrainedModel:
        """The model itself."""
        return self.forward.model


def device() -> torch.device:
    """Where models are computed with on this machine."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load(source: Source, wish: Wish, device: torch.device) -> Loaded:
    """Load the base model and find out how it takes batches.

    Weights of a decoder that stay as they are, are read in the number format of this machine; all others in float32, to be
    learnt or to be rounded where the new head beside them is not.

    Raises:
        ModelError: If the model has no form for the task, or its weights do not fit its configuration.
    """
    memory.keep_few_kernels()
    memory.return_freed_memory()
    dtype, sentence = precision.choose(wish.precision, device)
    stays = not wish.learns and wish.task != "classification" and source.kind == "decoder" and wish.base_bits == 16
    forward, reason = _load(source, wish, device, dtype if stays else torch.float32)
    if reason and dtype != torch.float32 and device.type == "cpu":
        if stays:
            del forward  # or both would be in memory
            forward, reason = _load(source, wish, device, torch.float32)
        if reason:
            dtype, sentence = torch.float32, "computing in float32, as padded batches do on a processor"
    if not wish.learns and dtype != torch.float32:
        precision.store_frozen(forward.model, dtype)
    return Loaded(forward, dtype, sentence, reason)


def _load(source: Source, wish: Wish, device: torch.device, dtype: torch.dtype) -> tuple[Forward, str | None]:
    torch.manual_seed(wish.seed)
    model = loading.load(source, wish.task, labels=wish.labels, base_bits=wish.base_bits, dtype=dtype)
    nn.Module.to(model, device)
    return trial.choose(model, classification=wish.task == "classification", fast=wish.fast)
