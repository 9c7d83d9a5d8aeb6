"""Folds a trained method into its base model and writes the result as an ordinary transformers folder."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tunesmith.errors import NotMergeable
from tunesmith.method import Method
from tunesmith.model.save_model import save_model


def merge_and_save(model: PreTrainedModel, method: Method, tokenizer: PreTrainedTokenizerBase | None, folder: Path) -> None:
    """Merge `method`, which is attached to `model`, and save the model; the model stays merged.

    Raises:
        NotMergeable: If no change of the base weights can express the method, or it would change a tied weight.
        DiskFull: If there is too little room.
        RunError: If the folder cannot be written for another reason.
    """
    merge(model, method)
    save_model(model, tokenizer, folder)


def merge(model: nn.Module, method: Method) -> None:
    """Fold `method` into the weights of `model`, after which the model holds no part of it.

    Raises:
        NotMergeable: If no change of the base weights can express the method, or the sums are too large for their
            number format.
    """
    method.merge(model)
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and not torch.isfinite(parameter).all():
            raise NotMergeable(
                f"{name!r} is not finite after merging {method.name!r}: the sum is too large for {parameter.dtype}. "
                "Load the base model in float32."
            )
