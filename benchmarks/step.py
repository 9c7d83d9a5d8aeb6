"""Where the time of a training step goes, by `tunesmith fit --profile` on the starter models.

    python -m benchmarks.step                    all, about six minutes on two quiet cores
    python -m benchmarks.step --work minilm      one of them
    python -m benchmarks.step --dry              keep nothing

Each is a fresh process. `results/step-DATE-MACHINE.json` holds what each run found out about its step of median speed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import launch, machine, record
from benchmarks.peer_environment import ROOT

_INSTRUCTIONS = ("starter:instructions", "--model", "starter:smollm2", "--max-rows", "200", "--steps", "13")
WORK = {
    "lora": ("LoRA on SmolLM2-135M", (*_INSTRUCTIONS, "--method", "lora")),
    "lora-8bit": ("the same, base in 8 bits", (*_INSTRUCTIONS, "--method", "lora", "--base-bits", "8")),
    "adapter": ("Houlsby's adapters", (*_INSTRUCTIONS, "--method", "houlsby")),
    "full": ("all weights", (*_INSTRUCTIONS, "--method", "full")),
    "minilm": (
        "LoRA on MiniLM, film reviews",
        ("starter:movie-reviews", "--model", "starter:minilm", "--max-rows", "1200", "--steps", "13", "--method", "lora"),
    ),
}
"""What is measured: a name for the page, and the arguments of `tunesmith fit`."""


def command(name: str, num_threads: int) -> list[str]:
    """What a user would type."""
    _, arguments = WORK[name]
    return ["tunesmith", "fit", *arguments, "--threads", str(num_threads), "--profile", "--json", "--quiet"]


def measured(name: str, num_threads: int) -> dict[str, Any]:
    """One run in a fresh process.

    Raises:
        ChildProcessError: It failed; the message ends with what it said last.
    """
    words = command(name, num_threads)
    variables = launch.variables(dict(os.environ), {"PYTHONPATH": str(ROOT / "src")}, num_threads)
    with tempfile.TemporaryDirectory() as scratch:
        stopwatch = machine.Stopwatch()
        done = subprocess.run(
            [sys.executable, "-m", *words, "--out", str(Path(scratch, "run"))],
            cwd=scratch,
            env=variables,
            capture_output=True,
            text=True,
            check=False,
        )
        _, other_cores = stopwatch.read()
    if done.returncode != 0:
        raise ChildProcessError(f"{' '.join(words)} ended with exit code {done.returncode}\n{done.stderr[-4000:]}")
    profile = json.loads(done.stdout)["profile"]
    return {"about": WORK[name][0], "command": words, "profile": profile, "other_cores": other_cores}


def main() -> int:
    """Measure everything asked for and write it down."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step", description="where the time of a step goes.")
    parser.add_argument("--work", default=",".join(WORK), help=f"some of {', '.join(WORK)}")
    parser.add_argument("--threads", type=int, default=2, help="processes that share a step (default 2)")
    parser.add_argument("--machine", help="name of this machine in the result (default: by its processor)")
    parser.add_argument("--dry", action="store_true", help="keep nothing")
    asked = parser.parse_args()
    names = asked.work.split(",")
    if unknown := [name for name in names if name not in WORK]:
        parser.error(f"unknown work {', '.join(unknown)}; known: {', '.join(WORK)}")
    found = {}
    for name in names:
        found[name] = measured(name, asked.threads)
        seconds = sum(part["seconds"] for part in found[name]["profile"]["parts"])
        print(f"{name}: {seconds:.3f} s a step, others kept {found[name]['other_cores']:.2f} cores busy", flush=True)
    if not asked.dry:
        print(f"written to {record.keep_other('step', asked.machine, asked.threads, {'work': found})}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
