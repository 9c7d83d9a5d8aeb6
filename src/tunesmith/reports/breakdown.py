"""The profile of a step as rows of text, for the terminal and the page."""

from __future__ import annotations

from collections.abc import Iterator

from tunesmith.quantity import format_bytes, format_percent
from tunesmith.reports.result import Cost, StepPart, StepProfile

TIME_COLUMNS = ("part of a step", "time", "share", "GFLOP", "GFLOP/s", "of the limit")
_TITLES = {
    "data": "packing rows",
    "forward": "forward, body",
    "head": "head and loss",
    "backward": "backward",
    "optimizer": "optimizer",
    "rest": "the rest",
}


def heading(profile: StepProfile) -> str:
    """Which step it was, and what its speed is measured against."""
    speed = f"{profile.num_tokens / profile.seconds:,.0f} tokens/s"
    limit = f"{profile.limit_flop_per_second / 1e9:,.0f} GFLOP/s"
    if profile.has_rounded_products:
        limit += ", which whole numbers of eight bits may pass"
    elif profile.leaves_out_words:
        limit += ", which the head may pass, because it leaves out products with unlikely words"
    return (
        f"Step {profile.step:,}, the one of median speed among {profile.num_timed}: {profile.num_tokens:,} tokens in "
        f"{_milliseconds(profile.seconds)}, {speed}. The limit is what its largest matrix products reach alone here: {limit}."
    )


def time_rows(profile: StepProfile) -> Iterator[tuple[str, ...]]:
    """One row a part and one for the whole step, in the order of `TIME_COLUMNS`."""
    for part in profile.parts:
        yield _row(part, _TITLES.get(part.name, part.name), profile)
    whole = StepPart(name="step", seconds=profile.seconds, flop=sum(part.flop for part in profile.parts))
    yield _row(whole, "the whole step", profile)


def _row(part: StepPart, title: str, profile: StepProfile) -> tuple[str, ...]:
    times = (title, _milliseconds(part.seconds), f"{100 * part.seconds / profile.seconds:.1f} %")
    if not part.flop or not part.seconds:
        return (*times, "–", "–", "–")
    rate = part.flop / part.seconds
    share = format_percent(rate / profile.limit_flop_per_second, 0) if profile.limit_flop_per_second else "–"
    return (*times, f"{part.flop / 1e9:,.1f}", f"{rate / 1e9:,.1f}", share)


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:,.1f} ms"


def memory_rows(profile: StepProfile, cost: Cost | None) -> Iterator[tuple[str, str]]:
    """What holds memory during a step, and the most that the process ever held."""
    yield "weights", format_bytes(profile.weights_bytes)
    yield "values that learn, gradients, moments", format_bytes(profile.learned_bytes)
    yield "kept for the backward pass", format_bytes(profile.kept_bytes)
    if cost:
        yield "peak of all", format_bytes(cost.peak_memory_bytes)
