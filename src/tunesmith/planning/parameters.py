"""How many numbers each method trains in a model: found by attaching it to the model without weights."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from transformers import PretrainedConfig

from tunesmith.checkpoint import trained
from tunesmith.errors import InputError
from tunesmith.model import anatomy, load, surgery
from tunesmith.planning.catalogue import Entry

TRAINING_BYTES = 16
"""Of each number that learns: value, gradient and AdamW's two moments in float32."""


@dataclass(frozen=True)
class Count:
    """What a method does to the size of a model."""

    num_trainable: int
    """A new classification head included."""
    num_base: int
    """Numbers of the base model."""
    num_added: int
    """Numbers that the tuned model has more."""
    num_positions: int
    """Positions that it takes from every row."""

    @property
    def training_bytes(self) -> int:
        """Memory of what learns while training; frozen weights and activations come on top."""
        return TRAINING_BYTES * self.num_trainable


def count(config: PretrainedConfig, entries: Iterable[Entry]) -> dict[str, Count | InputError]:
    """By name of each method or preset what it comes to in a model of this configuration, or why it does not fit it.

    Raises:
        ModelError: If the configuration describes no model.
    """
    model = load.without_weights(config)
    before = anatomy.count_parameters(model)[0]
    found: dict[str, Count | InputError] = {}
    for entry in entries:
        try:
            method = trained.method_from(entry.method, entry.name)
            method.attach(model)
            total, trainable = anatomy.count_parameters(model)
            found[entry.name] = Count(trainable, before, total - before, method.num_positions)
        except InputError as error:
            found[entry.name] = error
        surgery.detach(model)
    return found
