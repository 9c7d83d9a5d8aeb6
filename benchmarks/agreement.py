"""Whether contestants did the same work: without this, a speed says nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from benchmarks.job import Measurement

LOSS_TOLERANCE = 0.01
GRADIENT_TOLERANCE = 0.10
"""AdamW forgives gradients that are wrong by a factor, and the loss curve does not show it; the norms do."""
LEAST_FALL = 0.02
"""Share by which the loss must fall on rows seen again and again, or the comparison of curves would be blind."""


def largest_gap(curve: Sequence[float], reference: Sequence[float]) -> float:
    """The largest relative difference of two curves over their steps; infinite if their lengths differ."""
    if len(curve) != len(reference) or not reference:
        return math.inf
    gaps = [abs(value - expected) / abs(expected) if expected else math.inf for value, expected in zip(curve, reference, strict=True)]
    return max(gaps) if all(map(math.isfinite, gaps)) else math.inf


def problems(name: str, found: Measurement, reference: Measurement, *, same_steps: bool = True) -> list[str]:
    """What is wrong with a contestant's training, in sentences; empty if nothing is.

    Args:
        name: Of the contestant.
        found: Its measurement.
        reference: That of the reference on the same rows.
        same_steps: Whether its steps hold the same rows; if not, only its own soundness is judged.
    """
    wrong = []
    if not found.gradient_norms or not all(math.isfinite(norm) and norm > 0 for norm in found.gradient_norms):
        wrong.append(f"{name}: a gradient norm is zero, missing or not finite: {found.gradient_norms}.")
    if found.num_unmoved or not found.movement > 0:
        wrong.append(f"{name}: {found.num_unmoved} tensors of the adapter did not move.")
    if found.num_trainable != reference.num_trainable:
        wrong.append(f"{name}: trains {found.num_trainable:,} numbers, the reference {reference.num_trainable:,}.")
    if not same_steps:
        return wrong
    loss_gap = largest_gap(found.losses, reference.losses)
    if loss_gap > LOSS_TOLERANCE:
        wrong.append(f"{name}: the loss curve is off by {loss_gap:.2%}: {found.losses} against {reference.losses}.")
    gradient_gap = largest_gap(found.gradient_norms, reference.gradient_norms)
    if gradient_gap > GRADIENT_TOLERANCE:
        norms = f"{found.gradient_norms} against {reference.gradient_norms}"
        wrong.append(f"{name}: the gradient norms are off by {gradient_gap:.0%}: {norms}.")
    return wrong


def sees_something(reference: Measurement) -> bool:
    """Whether the reference learnt enough in the check for a wrong learning rate to show."""
    return len(reference.losses) > 1 and reference.losses[-1] < reference.losses[0] * (1 - LEAST_FALL)


def gaps(measurements: Mapping[str, Measurement], reference: Measurement) -> dict[str, dict[str, float]]:
    """How far everyone is from the reference, for the record."""
    return {
        name: {
            "loss_gap": largest_gap(found.losses, reference.losses),
            "gradient_norm_gap": largest_gap(found.gradient_norms, reference.gradient_norms),
            "movement": found.movement,
        }
        for name, found in measurements.items()
    }
