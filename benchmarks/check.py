"""The checks around the timing: without them a speed says nothing, because a broken training is fast.

Before: everyone trains a few rows again and again in float32 and with as many bits a weight as the reference; losses and
gradient norms must be those of the reference.
Then, at the precision that is timed, the first loss must agree, and tunesmith's first gradient; how much is learnt after
it is recorded. After: the timed runs must have followed one curve, too. A peer whose own rounding takes it elsewhere is
shown, not refused. Over weights in fewer bits than the reference's the losses must agree, and not the gradients.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from benchmarks import agreement, launch
from benchmarks.job import Measurement
from benchmarks.suites import Suite


@dataclass(frozen=True)
class Checking:
    """How much is checked before timing."""

    num_steps: int
    own_precision: bool
    """Whether also as it will be timed."""


@dataclass
class Checked:
    """What the check before timing found."""

    reference: str
    """The contestant that all are compared with."""
    problems: list[str] = field(default_factory=list)
    float32: dict[str, Measurement] = field(default_factory=dict)
    own_precision: dict[str, Measurement] = field(default_factory=dict)

    @property
    def learnt_shares(self) -> dict[str, float]:
        """Of the reference's fall in loss, for those that were checked at their own precision."""
        reference = self.float32[self.reference]
        return {name: agreement.learnt_share(found, reference) for name, found in self.own_precision.items()}

    @property
    def first_norm_gaps(self) -> dict[str, float]:
        """How far from the reference the first gradient is, for the same."""
        reference = self.float32[self.reference]
        return {name: agreement.first_norm_gap(found, reference) for name, found in self.own_precision.items()}

    def record(self) -> dict[str, object]:
        """Everything for the result file."""
        return {
            "float32": {name: asdict(found) for name, found in self.float32.items()},
            "own_precision": {name: asdict(found) for name, found in self.own_precision.items()},
            "learnt_shares": self.learnt_shares,
            "first_norm_gaps": self.first_norm_gaps,
        }


def before_timing(suite: Suite, names: Sequence[str], folder: Path, how: Checking, num_threads: int) -> Checked:
    """Train everyone on the same rows again and again, first in float32, then (if asked) as it will be timed."""
    sections = [("check", suite.work.rows_per_step, how.num_steps)]
    first = suite.reference
    checked = Checked(first)
    for name in dict.fromkeys([first, *names]):
        configuration = suite.contestants[name]
        job = replace(launch.job_of(suite, name, folder, sections), order="given")
        plain = replace(job, precision="float32", base_bits=suite.contestants[first].base_bits)
        checked.float32[name] = launch.start(configuration, plain, num_threads).measurement
        _show(name, "float32", checked.float32[name])
        if how.own_precision and name in names and configuration.precision != "float32":
            checked.own_precision[name] = launch.start(configuration, job, num_threads).measurement
            _show(name, configuration.precision, checked.own_precision[name])
    reference = checked.float32[first]
    if not agreement.sees_something(reference):
        checked.problems.append(f"{first}: the loss does not fall on repeated rows: {reference.losses}.")
    for name, found in checked.float32.items():
        checked.problems += agreement.problems(f"{name} in float32", found, reference, "curves")
    for name, found in checked.own_precision.items():
        gradient_too = _is_ours(suite, name) and _has_its_gradients(suite, name)
        checked.problems += agreement.problems(name, found, reference, "first step" if gradient_too else "first loss")
    return checked


def after_timing(suite: Suite, measurements: dict[str, list[Measurement]]) -> list[str]:
    """What is wrong with the timed runs."""
    reference = _reference(suite, measurements)
    return [
        problem
        for name, found in measurements.items()
        for measurement in found
        for problem in agreement.problems(name, measurement, reference, _comparison(suite, name))
    ]


def timed_gap(suite: Suite, name: str, measurements: dict[str, list[Measurement]]) -> float:
    """The largest distance of a contestant's timed loss curves from the reference's, NaN where its steps hold other rows."""
    if _comparison(suite, name) == "nothing":
        return math.nan
    reference = _reference(suite, measurements)
    return max(agreement.largest_gap(measurement.losses, reference.losses) for measurement in measurements[name])


def _reference(suite: Suite, measurements: dict[str, list[Measurement]]) -> Measurement:
    """The suite's, or if it was not timed the first whose steps hold the same rows."""
    same_rows = (name for name in measurements if _comparison(suite, name) != "nothing")
    name = suite.reference if suite.reference in measurements else next(same_rows, next(iter(measurements)))
    return measurements[name][0]


def _comparison(suite: Suite, name: str) -> agreement.Compare:
    if suite.contestants[name].order == "grouped":
        return "nothing"
    if not _is_ours(suite, name):
        return "first loss"
    return "rounded curves" if _has_its_gradients(suite, name) else "losses"


def _is_ours(suite: Suite, name: str) -> bool:
    return suite.contestants[name].module == "tunesmith"


def _has_its_gradients(suite: Suite, name: str) -> bool:
    """Whether gradients in 16 bits must be the reference's: not over weights that are rounded further than its own."""
    has_fewer_bits = suite.contestants[name].base_bits < suite.contestants[suite.reference].base_bits
    return not has_fewer_bits and not suite.rounding_decides_norms


def _show(name: str, precision: str, found: Measurement) -> None:
    losses, norms = (" ".join(f"{value:.4f}" for value in values) for values in (found.losses, found.gradient_norms))
    print(f"check {name} in {precision}: losses {losses}; gradient norms {norms}", flush=True)
