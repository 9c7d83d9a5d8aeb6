"""Whether contestants did the same work: without this, a speed says nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from benchmarks.job import Measurement

Compare = Literal["curves", "rounded curves", "losses", "first step", "first loss", "nothing"]

LOSS_TOLERANCE = 0.01
ROUNDED_LOSS_TOLERANCE = LOSS_TOLERANCE + 2**-8
"""A peer that computes in bfloat16 gives its loss in it, too: half a unit in the last place more."""
GRADIENT_TOLERANCE = 0.10
"""AdamW forgives gradients that are wrong by a factor, and the loss curve does not show it; the norms do."""
LEAST_FALL = 0.02
"""Share by which the loss must fall on rows seen again and again, or the comparison of curves would be blind."""


def largest_gap(curve: Sequence[float], reference: Sequence[float], unit: float | None = None) -> float:
    """The largest difference of two curves over their steps, relative to `unit` or, without one, to each step's reference.

    Infinite if their lengths differ.
    """
    if len(curve) != len(reference) or not reference:
        return math.inf
    gaps = [
        abs(value - expected) / abs(unit or expected) if unit or expected else math.inf
        for value, expected in zip(curve, reference, strict=True)
    ]
    return max(gaps) if all(map(math.isfinite, gaps)) else math.inf


def problems(name: str, found: Measurement, reference: Measurement, compare: Compare) -> list[str]:
    """What is wrong with a contestant's training, in sentences; empty if nothing is.

    Args:
        name: Of the contestant.
        found: Its measurement.
        reference: That of the reference on the same rows.
        compare: How far the curves must agree; `nothing` where the steps hold other rows. `rounded curves` are computed in 16
            bit: gradient norms differ in units of the largest, because AdamW's first update is as long for a gradient that
            is nothing but rounding as for any other, so that small norms afterwards say little. `losses` are curves over
            weights in fewer bits than the reference's: another model, whose gradients are others. `first loss` is for a peer
            in a number format of its own choice, whose gradients it may round as it likes.
    """
    wrong = []
    if not found.gradient_norms or not all(math.isfinite(norm) and norm > 0 for norm in found.gradient_norms):
        wrong.append(f"{name}: a gradient norm is zero, missing or not finite: {found.gradient_norms}.")
    if found.num_unmoved or not found.movement > 0:
        wrong.append(f"{name}: {found.num_unmoved} tensors of the adapter did not move.")
    if found.num_trainable != reference.num_trainable:
        wrong.append(f"{name}: trains {found.num_trainable:,} numbers, the reference {reference.num_trainable:,}.")
    if compare == "nothing":
        return wrong
    if len(found.losses) != len(reference.losses):
        wrong.append(f"{name}: took {len(found.losses)} steps, the reference {len(reference.losses)}.")
    end = 1 if compare in ("first step", "first loss") else None
    largest = max(reference.gradient_norms, default=0.0) if compare == "rounded curves" else None
    losses = ("losses", found.losses[:end], reference.losses[:end], None, ROUNDED_LOSS_TOLERANCE if end else LOSS_TOLERANCE)
    norms = ("gradient norms", found.gradient_norms[:end], reference.gradient_norms[:end], largest, GRADIENT_TOLERANCE)
    for what, ours, theirs, unit, tolerance in (losses,) if compare in ("first loss", "losses") else (losses, norms):
        gap = largest_gap(ours, theirs, unit)
        if gap > tolerance:
            wrong.append(f"{name}: the {what} are off by {gap:.2%}, allowed are {tolerance:.2%}: {ours} against {theirs}.")
    return wrong


def sees_something(reference: Measurement) -> bool:
    """Whether the reference learnt enough in the check for a wrong learning rate to show."""
    return len(reference.losses) > 1 and reference.losses[-1] < reference.losses[0] * (1 - LEAST_FALL)


def first_norm_gap(found: Measurement, reference: Measurement) -> float:
    """How far the length of the first gradient is from the reference's, relative to it: what a number format rounds off."""
    return largest_gap(found.gradient_norms[:1], reference.gradient_norms[:1])


def learnt_share(found: Measurement, reference: Measurement) -> float:
    """How much of the reference's fall in loss a contestant reached on the same repeated rows.

    Low where a number format swallows small updates: in bfloat16 an adapter's output that is added to an
    output already rounded is lost wherever it is below half a unit in the last place.
    """
    return (found.losses[0] - found.losses[-1]) / (reference.losses[0] - reference.losses[-1])
