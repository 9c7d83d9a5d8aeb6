"""Writes what came of a suite: the result file, and the lines of the history."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
from pathlib import Path

from benchmarks import check, limit, machine, peer_environment, results
from benchmarks.timing import Benchmark, Runs

ROOT = peer_environment.ROOT
RESULTS = ROOT / "benchmarks" / "results"


def keep(
    benchmark: Benchmark, checked: check.Checked, runs: Runs, summaries: dict[str, results.Summary], label: str | None
) -> Path:
    """Write the result file and the lines of the history, and say where the file is; `label` names the machine."""
    here, today, suite, size = machine.this_machine(), datetime.date.today().isoformat(), benchmark.suite, benchmark.size
    common: dict[str, str | int] = {
        "date": today,
        "commit": machine.commit(ROOT),
        "machine": label or here.slug,
        "suite": suite.name,
        "num_rows": size.num_timed_steps * suite.work.rows_per_step,
        "num_repeats": size.num_repeats,
    }
    record: dict[str, object] = {
        "schema": 2,
        **common,
        "about": dataclasses.asdict(suite),
        "machine_facts": dataclasses.asdict(here),
        "num_threads": benchmark.num_threads,
        "size": dataclasses.asdict(size),
        "rows_sha256": hashlib.sha256((benchmark.folder / "rows.json").read_bytes()).hexdigest(),
        "check": checked.record(),
        "ratios": results.ratios(summaries),
        "limit": _limit(benchmark, summaries),
        "summaries": {name: dataclasses.asdict(summary) for name, summary in summaries.items()},
        "configurations": {name: dataclasses.asdict(suite.contestants[name]) for name in runs},
        "runs": {name: [dataclasses.asdict(run) for run in found] for name, found in runs.items()},
    }
    path = results.write_json(record, RESULTS, f"{today}-{common['machine']}-{suite.name}")
    results.append_history(RESULTS / "history.csv", common, summaries)
    return path


def _limit(benchmark: Benchmark, summaries: dict[str, results.Summary]) -> dict[str, object] | None:
    """What matrix products reach here, and the share of it that tunesmith reached; None if it took no part, or on a GPU."""
    name = next((name for name in summaries if name.startswith("tunesmith")), None)
    if name is None or benchmark.suite.on_gpu:
        return None
    weights = benchmark.job(name).weights
    rates = limit.measured(benchmark.folder / weights, weights, benchmark.num_threads)
    flop_per_weight = limit.LEARNS if benchmark.suite.method == "full" else limit.FROZEN
    summary = dataclasses.asdict(summaries[name])
    return {**dataclasses.asdict(rates), "share": limit.share(rates, summary, flop_per_weight)}


def keep_other(kind: str, label: str | None, num_threads: int, content: dict[str, object]) -> Path:
    """Write what else was measured as `results/KIND-DATE-MACHINE.json`, with what it was measured on; gives its path."""
    here, today = machine.this_machine(), datetime.date.today().isoformat()
    written: dict[str, object] = {
        "schema": 1,
        "date": today,
        "commit": machine.commit(ROOT),
        "machine": label or here.slug,
        "machine_facts": dataclasses.asdict(here),
        "num_threads": num_threads,
        **content,
    }
    return results.write_json(written, RESULTS, f"{kind}-{today}-{label or here.slug}").relative_to(ROOT)
