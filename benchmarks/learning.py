"""What every method and preset learns from both starter tasks, each in a fresh process through `tunesmith fit`.

python -m benchmarks.learning                                    all that results/learning.json does not have yet
python -m benchmarks.learning --task reviews --methods lora,ia3  some of it
python -m benchmarks.learning --results /tmp/trial.json -- --max-rows 120 --steps 3

The file is written after every run, so that stopping costs one run. `make docs` draws what it holds into docs/methods.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import launch, machine, peer_environment, results
from tunesmith import registry
from tunesmith.errors import InputError
from tunesmith.planning import catalogue

ROOT = peer_environment.ROOT
RESULTS = ROOT / "benchmarks" / "results" / "learning.json"
SCHEMA = 1
Record = dict[str, Any]
"""A run as it stands in the file."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is learnt, from what, and the measure it is judged by."""

    data: str
    model: str
    metric: str
    arguments: tuple[str, ...] = ()
    """Of `tunesmith fit`; the method, its learning rate and everything else are as they come."""


TASKS = {
    "reviews": Task(
        data="starter:movie-reviews", model="starter:minilm", metric="accuracy", arguments=("--task", "classification")
    ),
    "instructions": Task(
        data="starter:instructions",
        model="starter:smollm2",
        metric="perplexity",
        arguments=("--task", "chat", "--max-rows", "400", "--steps", "20"),
    ),
}


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run: a task by a method."""

    task: str
    method: str
    extra: tuple[str, ...]
    """Arguments that are added to the task's."""
    num_threads: int

    @property
    def settings(self) -> dict[str, object]:
        """What a run must share with an earlier one to be the same."""
        task = TASKS[self.task]
        arguments = [*task.arguments, *self.extra]
        return {"data": task.data, "model": task.model, "arguments": arguments, "num_threads": self.num_threads}

    def command(self, folder: str) -> list[str]:
        """What a user would type."""
        task = TASKS[self.task]
        what = [task.data, "--model", task.model, "--method", self.method, *task.arguments, *self.extra]
        return ["tunesmith", "fit", *what, "--threads", str(self.num_threads), "--json", "--quiet", "--out", folder]


def missing(jobs: list[Job], records: list[Record]) -> list[Job]:
    """The jobs of which there is no record with the same settings."""
    known = [(record["task"], record["method"], record["settings"]) for record in records]
    return [job for job in jobs if (job.task, job.method, job.settings) not in known]


def added(records: list[Record], record: Record) -> list[Record]:
    """The records with this one, which takes the place of an earlier one of the same task and method."""
    same = ("task", "method")
    return [*(known for known in records if any(known[name] != record[name] for name in same)), record]


def measured(job: Job, result: dict[str, Any], other_cores: float) -> Record:
    """The record of a run, from what `tunesmith fit --json` printed.

    Raises:
        ValueError: If it was not measured on rows that are held out, before and after.
    """
    metric = TASKS[job.task].metric
    stages = {stage["name"]: stage["metrics"] for stage in result["stages"] if stage["split"] == "test"}
    before = next((measures.get(metric) for name, measures in stages.items() if name.startswith("base model")), None)
    after = stages.get("tuned model", {}).get(metric)
    if before is None or after is None:
        raise ValueError(f"{job.method} on {job.task}: no {metric} before and after in the stages {', '.join(stages)}.")
    model, cost = result["model"], result["cost"]
    return {
        "task": job.task,
        "method": job.method,
        "settings": job.settings,
        "command": job.command("RUN"),
        "num_trainable": model["num_trainable"],
        "trainable_share": model["num_trainable"] / model["num_parameters"],
        "learning_rate": result["settings"]["training"]["learning_rate"],
        "num_steps": result["progress"]["steps"],
        "num_training_rows": result["data"]["num_train"],
        "metric": metric,
        "before": before,
        "after": after,
        "difference": stages.get("paired difference", {}).get(metric),
        "train_seconds": cost["train_seconds"],
        "total_seconds": cost["total_seconds"],
        "peak_memory_bytes": cost["peak_memory_bytes"],
        "memory_above_import_bytes": cost["memory_above_import_bytes"],
        "other_cores": other_cores,
    }


def run(job: Job, cache: Path | None) -> Record:
    """Run a job in a fresh process, in a folder that is thrown away.

    Raises:
        ChildProcessError: If it failed; the message ends with what it said last.
    """
    variables = launch.variables(dict(os.environ), {"TUNESMITH_CACHE": str(cache)} if cache else {}, job.num_threads)
    variables["PYTHONPATH"] = str(ROOT / "src")
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", *job.command(str(Path(scratch, "run")))]
        stopwatch = machine.Stopwatch()
        done = subprocess.run(command, cwd=scratch, env=variables, capture_output=True, text=True, check=False)
        _, other_cores = stopwatch.read()
    if done.returncode != 0:
        raise ChildProcessError(f"{' '.join(job.command('RUN'))}: exit code {done.returncode}\n{done.stderr[-2000:]}")
    return measured(job, json.loads(done.stdout), other_cores)


def read(path: Path) -> list[Record]:
    """The records of a file, none if there is none.

    Raises:
        ValueError: If the file is of another schema.
    """
    if not path.exists():
        return []
    content = json.loads(path.read_text(encoding="utf-8"))
    if content["schema"] != SCHEMA:
        raise ValueError(f"{path} has schema {content['schema']}, this script writes {SCHEMA}. Name another with --results.")
    return content["runs"]


def write(path: Path, records: list[Record]) -> None:
    """Write the records, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(results.without_nan({"schema": SCHEMA, "runs": records}), indent=1, allow_nan=False) + "\n"
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def jobs_of(tasks: list[str], methods: list[str], extra: tuple[str, ...], num_threads: int) -> list[Job]:
    """Every task by every method; no methods stands for all.

    Raises:
        UnknownName: If there is no such task or method; the nearest is named.
    """
    for name in tasks:
        if name not in TASKS:
            raise registry.unknown("task", name, TASKS)
    names = [catalogue.find(name).name for name in methods] or [entry.name for entry in catalogue.entries()]
    return [Job(task=task, method=name, extra=extra, num_threads=num_threads) for task in tasks for name in names]


def main() -> int:
    """Run what is missing; exit code 0 if all was measured, 1 if something failed, 2 for wrong usage."""
    arguments = _arguments()
    try:
        wanted = jobs_of(arguments.task, arguments.methods, tuple(arguments.extra), arguments.threads)
        records = read(arguments.results)
    except (InputError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    jobs = missing(wanted, records)
    print(f"{len(wanted) - len(jobs)} of {len(wanted)} runs are in {arguments.results.name} already")
    here = machine.this_machine()
    facts = {
        "machine": arguments.machine or here.slug,
        "machine_facts": dataclasses.asdict(here),
        "commit": machine.commit(ROOT),
    }
    failed = [job for number, job in enumerate(jobs, 1) if not _done(job, f"{number}/{len(jobs)}", facts, arguments)]
    return 1 if failed else 0


def _done(job: Job, number: str, facts: dict[str, object], arguments: argparse.Namespace) -> bool:
    """Run a job and put it into the file; False, and the reason is printed, if it failed."""
    print(f"{number} {job.method} on {job.task}: ", end="", flush=True)
    try:
        found = run(job, arguments.cache)
    except (ChildProcessError, ValueError) as error:
        print("failed", flush=True)
        print(error, file=sys.stderr, flush=True)
        return False
    record = {"date": datetime.date.today().isoformat(), **facts, **found}
    # Read again: another process may have written meanwhile.
    write(arguments.results, added(read(arguments.results), record))
    change = f"{found['metric']} {found['before']['value']:.4g} -> {found['after']['value']:.4g}"
    print(f"{change}, {found['total_seconds']:.0f} s", flush=True)
    return True


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.learning", description="What every method learns.")
    parser.add_argument("--methods", type=_words, default=[], help="some methods and presets, with commas (default: all)")
    parser.add_argument("--task", type=_words, default=list(TASKS), help=f"some of {', '.join(TASKS)} (default: all)")
    parser.add_argument("--threads", type=int, default=2, help="threads of every run (default 2)")
    parser.add_argument("--cache", type=Path, default=os.environ.get("TUNESMITH_CACHE"), help="folder of the starter models")
    parser.add_argument("--results", type=Path, default=RESULTS, help="another file than results/learning.json")
    parser.add_argument("--machine", help="name of this machine in the result (default: by its processor)")
    parser.add_argument("extra", nargs="*", metavar="-- ARGUMENTS", help="of `tunesmith fit`, after the task's own")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
