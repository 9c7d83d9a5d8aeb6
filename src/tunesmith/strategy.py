"""The contract of a way against forgetting; it composes with every method and with other strategies."""

from __future__ import annotations

from abc import ABC
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(kw_only=True)
class Strategy(ABC):
    """Hooks around training. With strength 0 a run is bitwise the same as without the strategy."""

    name: ClassVar[str]
    paper: ClassVar[str]

    strength: float = 1.0
    """How much the past counts against the new data; 0 switches the strategy off."""

    def before_task(self, model: nn.Module) -> None:
        """Look at the model before the first step on a task."""

    def loss(self, model: nn.Module) -> Tensor | None:
        """A scalar added to the loss of one optimizer step, or None for nothing."""
        return None

    def after_step(self, model: nn.Module) -> None:
        """Look at the model after an optimizer step."""

    def after_task(self, model: nn.Module) -> None:
        """Look at the model after the last step on a task."""

    def state(self) -> dict[str, Tensor]:
        """The tensors a checkpoint must carry so that a resumed run goes on the same way."""
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take over what `state` gave."""
