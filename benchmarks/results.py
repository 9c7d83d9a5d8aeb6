"""Medians, ratios, the table, and the files that keep them."""

from __future__ import annotations

import csv
import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.job import Measurement

MB = 1e6
NOISY_CORES = 0.1
"""More than this much of a core used by others makes a run noisy."""
HISTORY_COLUMNS = (
    "date", "commit", "machine", "suite", "contestant", "tokens_per_second", "train_peak_mb", "load_peak_mb", "load_seconds",
    "first_step_seconds", "loss_gap", "num_rows", "num_repeats", "noisy",
)  # fmt: skip


@dataclass(frozen=True)
class Summary:
    """The medians of a contestant's runs; memory is above that of its import-only process."""

    tokens_per_second: float
    """Real tokens, no padding, of the steps after warm-up."""
    slowest_tokens_per_second: float
    fastest_tokens_per_second: float
    first_step_seconds: float
    load_seconds: float
    load_peak_bytes: float
    train_peak_bytes: float
    import_bytes: int
    num_real_tokens: int
    num_labelled_tokens: int
    num_padded_tokens: int
    """What was computed on, padding included."""
    loss_gap: float
    """Largest relative distance of its timed loss curve from that of the reference; NaN where steps hold other rows."""
    learnt_share: float
    """Of the reference's fall in loss in the check, at the contestant's own precision; NaN where that was not measured."""
    most_other_cores: float
    """The busiest that others were in any of the runs."""

    @property
    def is_noisy(self) -> bool:
        """Whether something else was running."""
        return self.most_other_cores > NOISY_CORES


@dataclass(frozen=True)
class TokenCounts:
    """Of the timed rows."""

    real: int
    labelled: int
    padded: int


@dataclass(frozen=True)
class Facts:
    """What is known of a contestant besides its times; the fields are those of `Summary`."""

    loss_gap: float
    learnt_share: float
    most_other_cores: float


def speed(measurement: Measurement, num_tokens: int, num_warmup_steps: int) -> float:
    """Tokens per second over the steps after warm-up.

    Raises:
        ValueError: No step is left.
    """
    timed = measurement.step_seconds[num_warmup_steps:]
    if not timed:
        raise ValueError(f"{len(measurement.step_seconds)} steps, of which {num_warmup_steps} are warm-up: nothing to time.")
    return num_tokens / sum(timed)


def summarise(
    runs: Sequence[Measurement], counts: TokenCounts, num_warmup_steps: int, import_bytes: int, facts: Facts
) -> Summary:
    """The medians over the repeats of one contestant."""
    speeds = [speed(run, counts.real, num_warmup_steps) for run in runs]
    return Summary(
        tokens_per_second=statistics.median(speeds),
        slowest_tokens_per_second=min(speeds),
        fastest_tokens_per_second=max(speeds),
        first_step_seconds=statistics.median(run.step_seconds[0] for run in runs),
        load_seconds=statistics.median(run.load_seconds for run in runs),
        load_peak_bytes=statistics.median(run.load_peak_bytes for run in runs) - import_bytes,
        train_peak_bytes=statistics.median(run.train_peak_bytes for run in runs) - import_bytes,
        import_bytes=import_bytes,
        num_real_tokens=counts.real,
        num_labelled_tokens=counts.labelled,
        num_padded_tokens=counts.padded,
        loss_gap=facts.loss_gap,
        learnt_share=facts.learnt_share,
        most_other_cores=facts.most_other_cores,
    )


def ratios(summaries: dict[str, Summary]) -> dict[str, float]:
    """tunesmith against the fastest peer and against the newcomer's settings; empty if either side is missing."""
    peers = {name: summary for name, summary in summaries.items() if not name.startswith("tunesmith")}
    own = [summary for name, summary in summaries.items() if name.startswith("tunesmith")]
    if not own or not peers:
        return {}
    ours = own[0]
    best = max(peers.values(), key=lambda summary: summary.tokens_per_second)
    found = {
        "speed_against_best_peer": ours.tokens_per_second / best.tokens_per_second,
        "memory_against_best_peer": ours.train_peak_bytes / best.train_peak_bytes,
    }
    if "peft-default" in peers:
        found["speed_against_default"] = ours.tokens_per_second / peers["peft-default"].tokens_per_second
        found["memory_against_default"] = ours.train_peak_bytes / peers["peft-default"].train_peak_bytes
    return found


def table(summaries: dict[str, Summary]) -> str:
    """The summaries as a Markdown table."""
    lines = [
        "| contestant | real tokens/s (min-max) | peak MB | peak MB loading | load s | first step s "
        "| padding | loss gap | learnt | others |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name, found in summaries.items():
        spread = f"{found.slowest_tokens_per_second:,.0f}-{found.fastest_tokens_per_second:,.0f}"
        padding = 1 - found.num_real_tokens / found.num_padded_tokens
        others = f"{found.most_other_cores:.2f} cores" + (" (noisy)" if found.is_noisy else "")
        lines.append(
            f"| {name} | {found.tokens_per_second:,.0f} ({spread}) | {found.train_peak_bytes / MB:,.0f} "
            f"| {found.load_peak_bytes / MB:,.0f} | {found.load_seconds:.1f} | {found.first_step_seconds:.1f} "
            f"| {padding:.0%} | {_percent(found.loss_gap, 2)} | {_percent(found.learnt_share, 0)} | {others} |"
        )
    return "\n".join(lines)


def _percent(share: float, num_digits: int) -> str:
    return "" if math.isnan(share) else f"{share:.{num_digits}%}"


def write_json(record: dict[str, object], folder: Path, stem: str) -> Path:
    """Write a record beside earlier ones of the same day and machine, never over them."""
    folder.mkdir(parents=True, exist_ok=True)
    path, number = folder / f"{stem}.json", 1
    while path.exists():
        number += 1
        path = folder / f"{stem}-{number}.json"
    path.write_text(json.dumps(without_nan(record), indent=1, allow_nan=False) + "\n")
    return path


def without_nan(value: object) -> object:
    """The value with null for what was not measured: JSON has no NaN."""
    if isinstance(value, dict):
        return {name: without_nan(item) for name, item in value.items()}
    if isinstance(value, list):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def append_history(path: Path, common: dict[str, str | int], summaries: dict[str, Summary]) -> None:
    """Add one line per contestant to the history."""
    is_new = not path.exists()
    with path.open("a", newline="") as file:
        writer: csv.DictWriter[str] = csv.DictWriter(file, HISTORY_COLUMNS)
        if is_new:
            writer.writeheader()
        for name, found in summaries.items():
            writer.writerow(
                {
                    **common,
                    "contestant": name,
                    "tokens_per_second": f"{found.tokens_per_second:.1f}",
                    "train_peak_mb": f"{found.train_peak_bytes / MB:.0f}",
                    "load_peak_mb": f"{found.load_peak_bytes / MB:.0f}",
                    "load_seconds": f"{found.load_seconds:.2f}",
                    "first_step_seconds": f"{found.first_step_seconds:.2f}",
                    "loss_gap": f"{found.loss_gap:.4f}",
                    "noisy": "yes" if found.is_noisy else "no",
                }
            )
