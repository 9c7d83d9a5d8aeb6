"""Several LoRA adapters trained at once against the same runs one after the other: time, tokens a second, memory.

    python -m benchmarks.many                                   1, 2, 4 and 8 adapters; half an hour on two quiet cores
    python -m benchmarks.many --counts 1,2 --steps 4 --rows 64  a quick look

The starter model and instructions, LoRA of rank 16 on all linear layers, each adapter with a learning rate of its own. Every
measurement is a fresh process that calls `fit_many` once, or `fit` once for each adapter; both read, measure, train, evaluate
and save. Nothing is kept.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.process_memory import status_bytes

MODEL, DATA, RANK = "starter:smollm2", "starter:instructions", 16
FIRST_RATE, RATE_RATIO = 1e-3, 0.8


@dataclass(frozen=True, kw_only=True)
class Task:
    """What one process does."""

    count: int
    """Adapters."""
    at_once: bool
    steps: int
    rows: int
    precision: str
    tokens_per_pass: int | None = None
    """Most tokens computed at once; None is the default of the device."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a task."""

    tokens: int
    """Real tokens that all adapters learnt from."""
    train_seconds: float
    """Spent in optimizer steps."""
    total_seconds: float
    """From reading the data to the last report."""
    peak_bytes: int
    """The most memory the process held beyond its imported libraries; on a GPU, the most that tensors held there."""

    @property
    def tokens_per_second(self) -> float:
        """Real tokens a second while training."""
        return self.tokens / self.train_seconds


def perform(task: Task) -> Outcome:
    """Do the task in this process."""
    import torch

    import tunesmith as ts

    method, rates = ts.LoRA(rank=RANK), [FIRST_RATE * RATE_RATIO**number for number in range(task.count)]
    more: dict[str, Any] = {"patience": 0, "tokens_per_pass": task.tokens_per_pass}
    shared: dict[str, Any] = {"steps": task.steps, "max_rows": task.rows, "precision": task.precision}
    imported, start = status_bytes("VmRSS"), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        if task.at_once:
            runs = ts.fit_many(
                DATA, model=MODEL, methods=[method] * task.count, learning_rates=rates, out=f"{folder}/many", more=more | shared
            )
        else:
            runs = [
                ts.fit(DATA, model=MODEL, method=method, learning_rate=rate, out=f"{folder}/{number}", more=more, **shared)
                for number, rate in enumerate(rates)
            ]
    seconds = time.perf_counter() - start
    costs = [cost for run in runs if (cost := run.result.cost) is not None]
    on_gpu = torch.cuda.is_available()
    return Outcome(
        tokens=round(sum(cost.real_tokens_per_second * cost.train_seconds for cost in costs)),
        train_seconds=sum(cost.train_seconds for cost in costs),
        total_seconds=seconds,
        peak_bytes=torch.cuda.max_memory_allocated() if on_gpu else status_bytes("VmHWM") - imported,
    )


def measured(task: Task) -> Outcome:
    """What the task gives in a fresh process.

    Raises:
        ChildProcessError: It failed; the message ends with what it said last.
    """
    words = [sys.executable, "-m", "benchmarks.many", "--task", json.dumps(dataclasses.asdict(task))]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env={**os.environ, "TQDM_DISABLE": "1"})
    if done.returncode != 0:
        raise ChildProcessError(f"{task} ended with exit code {done.returncode}\n{done.stderr[-4000:]}")
    return Outcome(**json.loads(done.stdout.splitlines()[-1]))


def table(results: Sequence[tuple[Outcome, Outcome, int]]) -> str:
    """The outcomes at once and one after the other, for each number of adapters."""
    lines = [
        "| adapters | tokens/s at once | one by one | gain | total s at once | one by one | gain | MB at once | one by one |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for together, apart, count in results:
        speed = together.tokens_per_second / apart.tokens_per_second
        lines.append(
            f"| {count} | {together.tokens_per_second:.0f} | {apart.tokens_per_second:.0f} | {speed:.2f}x "
            f"| {together.total_seconds:.0f} | {apart.total_seconds:.0f} | {apart.total_seconds / together.total_seconds:.2f}x "
            f"| {together.peak_bytes / 1e6:.0f} | {apart.peak_bytes / 1e6:.0f} |"
        )
    return "\n".join(lines)


def main(words: Sequence[str] | None = None) -> int:
    """Measure all numbers of adapters, or do one task if this is its process."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.many", description=__doc__.splitlines()[0])  # pyright: ignore
    parser.add_argument("--counts", default="1,2,4,8", help="numbers of adapters")
    parser.add_argument("--steps", type=int, default=16, help="optimizer steps of each adapter")
    parser.add_argument("--rows", type=int, default=200, help="rows of the data, some of which are held out")
    parser.add_argument("--precision", default="float32", help="number format of the frozen weights")
    parser.add_argument("--tokens-per-pass", type=int, help="most tokens computed at once; default: by device")
    parser.add_argument("--task", help=argparse.SUPPRESS)
    asked = parser.parse_args(words)
    if asked.task:
        print(json.dumps(dataclasses.asdict(perform(Task(**json.loads(asked.task))))))
        return 0
    results = []
    for count in map(int, asked.counts.split(",")):
        tasks = [
            Task(
                count=count,
                at_once=at_once,
                steps=asked.steps,
                rows=asked.rows,
                precision=asked.precision,
                tokens_per_pass=asked.tokens_per_pass,
            )
            for at_once in (True, False)
        ]
        results.append((*map(measured, tasks), count))
        print(f"{count} adapters measured", file=sys.stderr)
    print(table(results))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
