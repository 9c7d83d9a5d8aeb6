"""How alike two models answer: the distance of their predictions, and how often they would say the same."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """What a comparison of two models on the same rows found."""

    divergence: float
    """Mean KL divergence of the second model's predictions from the first one's, nats a prediction."""
    same_choice: float
    """Share of predictions in which both find the same token or class likeliest."""
    num_predictions: int

    def __str__(self) -> str:
        """The finding in words."""
        return (
            f"KL {self.divergence:.2g} nats a prediction, the same likeliest choice in {100 * self.same_choice:.2f} % "
            f"of {self.num_predictions:,} predictions"
        )


def compare(logits: Iterable[tuple[Tensor, Tensor]]) -> Agreement:
    """The agreement of two models, from blocks of the logits of both, `(predictions, choices)` each.

    Raises:
        ValueError: If there is no prediction.
    """
    divergence, same, count = 0.0, 0, 0
    for first, second in logits:
        ours, theirs = (block.double().log_softmax(1) for block in (first, second))
        divergence += float((ours.exp() * (ours - theirs)).sum())
        same += int((ours.argmax(1) == theirs.argmax(1)).sum())
        count += len(ours)
    if not count:
        raise ValueError("two models cannot be compared on no predictions.")
    return Agreement(divergence=max(divergence / count, 0.0), same_choice=same / count, num_predictions=count)
