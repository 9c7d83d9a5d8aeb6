"""Starts contestants in fresh processes with a clean, equal environment, one at a time."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks import job as jobs
from benchmarks import machine, peer_environment
from benchmarks.contestants import Configuration
from benchmarks.suites import Suite

INHERITED_NOT = ("MALLOC_", "OMP_", "MKL_", "KMP_", "GOMP_", "LD_PRELOAD", "GLIBC_TUNABLES", "TORCH", "PYTHON", "TUNESMITH_")


@dataclass(frozen=True)
class Run:
    """One finished process."""

    measurement: jobs.Measurement
    seconds: float
    """From start to end of the process."""
    other_cores: float
    """How many cores everything else on the machine kept busy meanwhile; 0 on a quiet machine."""


def start(configuration: Configuration, job: jobs.Job, num_threads: int) -> Run:
    """Run a job in a fresh process of the contestant and give its measurement.

    Raises:
        ChildProcessError: The process failed; the message ends with what it said last.
    """
    with tempfile.TemporaryDirectory() as scratch:
        question, answer = Path(scratch, "job.json"), Path(scratch, "measurement.json")
        jobs.write(job, question)
        stopwatch = machine.Stopwatch()
        done = subprocess.run(
            [str(_python(configuration)), "-m", f"benchmarks.contestants.{configuration.module}", question, answer],
            cwd=peer_environment.ROOT,
            env=variables(dict(os.environ), configuration.variables, num_threads),
            capture_output=True,
            text=True,
            check=False,
        )
        seconds, other_cores = stopwatch.read()
        if done.returncode != 0:
            raise ChildProcessError(f"{configuration.about}: exit code {done.returncode}\n{done.stderr[-4000:]}")
        return Run(jobs.read_measurement(answer), seconds, other_cores)


def job_of(
    suite: Suite, name: str, folder: Path, sections: list[tuple[str, int, int]], *, num_warmup_steps: int = 0
) -> jobs.Job:
    """The training job of a contestant of a suite."""
    configuration = suite.contestants[name]
    return jobs.Job(
        mode="train",
        workload_folder=str(folder),
        task=suite.work.task,
        method=suite.method,
        sections=sections,
        num_warmup_steps=num_warmup_steps,
        rows_per_step=suite.work.rows_per_step,
        learning_rate=suite.learning_rate,
        precision=configuration.precision,
        base_bits=configuration.base_bits,
        rows_per_pass=configuration.rows_per_pass or suite.work.rows_per_step,
        order=configuration.order,
    )


def variables(inherited: dict[str, str], chosen: dict[str, str], num_threads: int) -> dict[str, str]:
    """The environment of a contestant: what changes speed is set by the benchmark alone."""
    kept = {name: value for name, value in inherited.items() if not name.startswith(INHERITED_NOT)}
    return {
        **kept,
        "OMP_NUM_THREADS": str(num_threads),
        "MKL_NUM_THREADS": str(num_threads),
        "CUDA_VISIBLE_DEVICES": "",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "TQDM_DISABLE": "1",
        **chosen,
    }


def _python(configuration: Configuration) -> Path:
    return Path(sys.executable) if configuration.module == "tunesmith" else peer_environment.python(configuration.module)
