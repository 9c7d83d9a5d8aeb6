"""The contract that every fine-tuning method keeps; `tests/contract/test_methods.py` checks it for all of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tunesmith.errors import NotMergeable

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """A way to fine-tune. The instance *is* its own configuration.

    Whatever `attach` leaves trainable is exactly what is saved, counted and loaded, so a method writes no
    code for any of these.
    """

    name: ClassVar[str]
    """The name on the command line; equal to the name of the file."""
    paper: ClassVar[str]
    """Where the method is defined."""
    starts_as_identity: ClassVar[bool] = True
    """Whether the model computes exactly what it did, right after `attach`."""
    trains_base_weights: ClassVar[bool] = False
    """Whether weights of the base model move, so that `detach` cannot bring them back."""
    trains_all_weights: ClassVar[bool] = False
    """Whether all weights of the base model learn, so that training holds several times the model."""
    mergeable: ClassVar[bool] = True
    """Whether `merge` can fold the change into the base weights."""
    learning_rate: ClassVar[float]
    """Peak rate for AdamW to begin with, for models above 200 million parameters."""
    learning_rate_small: ClassVar[float]
    """The same for models below 200 million parameters."""

    @abstractmethod
    def attach(self, model: nn.Module) -> None:
        """Insert the trainable parts, through `model.surgery` only, and freeze the rest."""

    @property
    def num_positions(self) -> int:
        """How many of the model's positions the method takes from every row."""
        return 0

    def rate_of(self, parameter_name: str) -> float:
        """What the learning rate is multiplied by for one of the parameters that learn."""
        del parameter_name
        return 1.0

    def merge(self, model: nn.Module) -> None:
        """Fold the trained parts into the base weights and take the added modules away.

        Raises:
            NotMergeable: If no change of the base weights can express the method.
        """
        raise NotMergeable(
            f"{self.name!r} cannot be merged: it adds computation, not weights. Keep the adapter beside the base model."
        )
