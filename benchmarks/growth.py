"""How time and memory of a training step grow with the rows of a step, the length of a row, and the vocabulary.

    python -m benchmarks.growth                  all three series, about five minutes on two quiet cores
    python -m benchmarks.growth --series rows    one of them

LoRA of rank 16 on all linear layers of a small random model of Llama's shape, made on the spot; half of the tokens are
labelled. Each point is a fresh process. `results/growth-DATE-MACHINE.json` holds every step of every point.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import random
import statistics
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks import launch, machine, process_memory, record
from benchmarks.peer_environment import ROOT

if TYPE_CHECKING:
    from benchmarks.workload import Row

HIDDEN, LAYERS, FEED_FORWARD, HEADS, KEY_HEADS = 256, 8, 768, 4, 2
TOKENS_PER_STEP = 4096
NUM_WARMUP_STEPS, NUM_TIMED_STEPS = 2, 5


@dataclass(frozen=True, kw_only=True)
class Point:
    """One measurement."""

    rows: int
    """Of a step."""
    length: int
    """Tokens of a row."""
    vocabulary: int

    @property
    def tokens(self) -> int:
        """Of a step."""
        return self.rows * self.length


@dataclass(frozen=True, kw_only=True)
class Grown:
    """What came of a point."""

    point: Point
    step_seconds: list[float]
    """After warm-up."""
    model_bytes: int
    """Held when training begins: weights and adapter, besides imported libraries."""
    step_bytes: int
    """The most that training held besides that, all processes together."""
    num_processes: int
    other_cores: float

    @property
    def seconds(self) -> float:
        """The median step."""
        return statistics.median(self.step_seconds)


SERIES = {
    "rows": [Point(rows=rows, length=128, vocabulary=8192) for rows in (4, 8, 16, 32, 64, 128, 256)],
    "length": [
        Point(rows=TOKENS_PER_STEP // length, length=length, vocabulary=8192) for length in (128, 256, 512, 1024, 2048, 4096)
    ],
    "vocabulary": [Point(rows=16, length=128, vocabulary=1024 * size) for size in (8, 16, 32, 64, 128, 256)],
}
"""Rows 1x to 64x; length 128 to 4,096 at the same tokens a step; vocabulary 8k to 256k."""


def perform(point: Point) -> Grown:
    """Measure the point in this process."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    import tunesmith as ts
    from benchmarks import measure
    from benchmarks.contestants import faster_here
    from benchmarks.contestants.tunesmith import Tunesmith
    from benchmarks.job import Job
    from tunesmith.model import load, trial
    from tunesmith.training import memory
    from tunesmith.training.optimizer import FlatAdamW

    class Small(Tunesmith):
        """tunesmith with a model that is made on the spot."""

        def load(self, job: Job) -> None:
            load.quiet()
            config = LlamaConfig(
                hidden_size=HIDDEN,
                num_hidden_layers=LAYERS,
                intermediate_size=FEED_FORWARD,
                num_attention_heads=HEADS,
                num_key_value_heads=KEY_HEADS,
                vocab_size=point.vocabulary,
                max_position_embeddings=max(point.length, 128),
                tie_word_embeddings=True,
            )
            self.job = job
            self.model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, job.precision))
            self.forward, reason = trial.choose(self.model, classification=False)
            if reason:
                raise SystemExit(f"the model is not packed: {reason}")
            memory.keep_freed_memory()
            self.method = ts.LoRA(rank=16)
            self.method.attach(self.model)
            self.optimizer = FlatAdamW(self.model.named_parameters(), weight_decay=0.0)

    num_threads = torch.get_num_threads()
    held_before = process_memory.status_bytes("VmRSS")
    job = Job(mode="train", workload_folder="", precision=faster_here(), rows_per_step=point.rows)
    small, log = Small(), measure.StepLog()
    small.load(job)
    held = process_memory.status_bytes("VmRSS")
    process_memory.reset_peak()
    small.train(_rows(point), job, log)
    return Grown(
        point=point,
        step_seconds=log.step_seconds[NUM_WARMUP_STEPS:],
        model_bytes=held - held_before,
        step_bytes=process_memory.status_bytes("VmHWM") - held + small.worker_bytes,
        num_processes=num_threads,
        other_cores=0.0,
    )


def _rows(point: Point) -> list[Row]:
    """Random rows whose second half is labelled."""
    from benchmarks.workload import IGNORED

    numbers = random.Random(0)
    rows: list[Row] = []
    for _ in range(point.rows * (NUM_WARMUP_STEPS + NUM_TIMED_STEPS)):
        ids = [numbers.randrange(point.vocabulary) for _ in range(point.length)]
        rows.append({"input_ids": ids, "labels": [IGNORED] * (point.length // 2) + ids[point.length // 2 :]})
    return rows


def measured(point: Point, num_threads: int) -> Grown:
    """The point from a fresh process.

    Raises:
        ChildProcessError: It failed; the message ends with what it said last.
    """
    stopwatch = machine.Stopwatch()
    words = [sys.executable, "-m", "benchmarks.growth", "--point", json.dumps(dataclasses.asdict(point))]
    variables = launch.variables(dict(os.environ), _path(), num_threads)
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=ROOT, env=variables)
    if done.returncode != 0:
        raise ChildProcessError(f"{point} ended with exit code {done.returncode}\n{done.stderr[-4000:]}")
    found = Grown(**{**json.loads(done.stdout.splitlines()[-1]), "point": point})
    return dataclasses.replace(found, other_cores=stopwatch.read()[1])


def _path() -> dict[str, str]:
    """Where the imports of this process come from, for a process that is started clean."""
    return {"PYTHONPATH": os.environ["PYTHONPATH"]} if "PYTHONPATH" in os.environ else {}


def table(name: str, found: list[Grown]) -> str:
    """A series as a Markdown table; the growth is that of time per token."""
    lines = [
        f"| {name}: rows x length, vocabulary | s a step | us a token | model MB | step MB | others |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for one in found:
        point = one.point
        lines.append(
            f"| {point.rows} x {point.length:,}, {point.vocabulary // 1024}k | {one.seconds:.3f} "
            f"| {one.seconds / point.tokens * 1e6:.0f} | {one.model_bytes / 1e6:.0f} | {one.step_bytes / 1e6:.0f} "
            f"| {one.other_cores:.2f} |"
        )
    return "\n".join(lines)


def main() -> int:
    """Measure the series, or one point if this is its process."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description="how a step's time and memory grow.")
    parser.add_argument("--series", default=",".join(SERIES), help=f"some of {', '.join(SERIES)}")
    parser.add_argument("--threads", type=int, default=2, help="processes that share a step (default 2)")
    parser.add_argument("--machine", help="name of this machine in the result (default: by its processor)")
    parser.add_argument("--dry", action="store_true", help="keep nothing")
    parser.add_argument("--point", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.point:
        print(json.dumps(dataclasses.asdict(perform(Point(**json.loads(asked.point))))))
        return 0
    found: dict[str, list[Grown]] = {}
    for name in asked.series.split(","):
        found[name] = []
        for point in SERIES[name]:
            found[name].append(measured(point, asked.threads))
            print(f"{name}: {point.rows} x {point.length}, {point.vocabulary}: {found[name][-1].seconds:.3f} s", flush=True)
        print(table(name, found[name]), flush=True)
    if not asked.dry:
        series = {name: [dataclasses.asdict(one) for one in points] for name, points in found.items()}
        print(f"written to {record.keep_other('growth', asked.machine, asked.threads, {'series': series})}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
