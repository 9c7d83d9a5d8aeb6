"""The benchmark: prepare, check that all contestants do the same work, time them in turn, write down what came out.

    python -m benchmarks.run            three repeats, result file and history
    python -m benchmarks.run --quick    one short repeat, nothing kept
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks import agreement, launch, machine, peer_environment, results, workload
from benchmarks.contestants import CONFIGURATIONS, REFERENCE, USUAL
from benchmarks.job import Job, Measurement

ROOT = peer_environment.ROOT
ROWS_PER_STEP = 8
PREPARED_BY = ("prepare.py", "workload.py", "environments/peft.txt")


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    num_warmup: int
    num_timed: int
    num_check_steps: int
    num_repeats: int

    @property
    def timed_sections(self) -> list[tuple[str, int, int]]:
        """The rows of a timed run."""
        return [("warmup", self.num_warmup, 1), ("timed", self.num_timed, 1)]

    @property
    def num_warmup_steps(self) -> int:
        """Steps before the clock starts."""
        return self.num_warmup // ROWS_PER_STEP


FULL = Size(num_warmup=16, num_timed=64, num_check_steps=8, num_repeats=3)
QUICK = Size(num_warmup=8, num_timed=16, num_check_steps=4, num_repeats=1)


def main() -> int:
    """Run the benchmark; exit code 0 if everything agreed and was measured, 1 if not, 2 for wrong usage."""
    arguments = _arguments()
    names = list(CONFIGURATIONS) if arguments.contestants == "all" else arguments.contestants.split(",")
    unknown = [name for name in names if name not in CONFIGURATIONS]
    if unknown:
        print(f"unknown contestant {unknown[0]!r}; known: {', '.join(CONFIGURATIONS)}, or all", file=sys.stderr)
        return 2
    size = QUICK if arguments.quick else FULL
    size = dataclasses.replace(size, num_repeats=arguments.repeats or size.num_repeats)
    folder = prepared(arguments.model, arguments.instructions)
    checked = check(names, folder, size, arguments.threads)
    if checked is None:
        return 1
    runs = time_in_turn(names, folder, size, arguments.threads)
    summaries = summarise(runs, folder, size, arguments.threads)
    print("\n" + results.table(summaries) + "\n")
    for name, ratio in results.ratios(summaries).items():
        print(f"{name.replace('_', ' ')}: {ratio:.2f}")
    wrong = curve_problems({name: [run.measurement for run in found] for name, found in runs.items()})
    if not wrong and not arguments.quick:
        keep(checked, runs, summaries, size, folder, arguments)
    return 1 if wrong else 0


def prepared(model: Path | None, instructions: Path | None) -> Path:
    """The folder with model, adapter and rows, made on first use in the cache.

    Raises:
        subprocess.CalledProcessError: Preparing failed.
    """
    if model is None or instructions is None:
        from tunesmith import starter

        model = model or starter.resolve_model("starter:smollm2")
        instructions = instructions or starter.resolve_data("starter:instructions")
    sources = [model, instructions, *(ROOT / "benchmarks" / name for name in PREPARED_BY)]
    digest = hashlib.sha256(b"".join(hashlib.sha256(path.read_bytes()).digest() for path in sources)).hexdigest()
    folder = _cache() / f"smollm2-{digest[:12]}"
    if not folder.exists():
        print("preparing the model, the initial adapter and the rows (once) ...", flush=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            unfinished = Path(scratch, "prepared")
            unfinished.mkdir()
            command = [peer_environment.python(), "-m", "benchmarks.prepare", model.resolve(), instructions.resolve(), unfinished]
            subprocess.run(command, cwd=ROOT, check=True, env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"})
            shutil.move(unfinished, folder)
    return folder


def check(names: list[str], folder: Path, size: Size, num_threads: int) -> dict[str, dict[str, float]] | None:
    """Train everyone on a few rows again and again; how far they are from the reference, or None if one fails."""
    sections = [("check", ROWS_PER_STEP, size.num_check_steps)]
    found: dict[str, Measurement] = {}
    for name in dict.fromkeys([REFERENCE, *names]):
        job = launch.job_of(CONFIGURATIONS[name], folder, sections, num_warmup_steps=0)
        found[name] = launch.start(CONFIGURATIONS[name], job, num_threads).measurement
        print(f"check {name}: losses {_short(found[name].losses)}, gradient norms {_short(found[name].gradient_norms)}", flush=True)
    reference = found[REFERENCE]
    wrong = [text for name in found for text in agreement.problems(name, found[name], reference)]
    if not agreement.sees_something(reference):
        wrong.append(f"{REFERENCE}: the loss does not fall on repeated rows: {reference.losses}.")
    for text in wrong:
        print(text, file=sys.stderr)
    return None if wrong else agreement.gaps(found, reference)


def time_in_turn(names: list[str], folder: Path, size: Size, num_threads: int) -> dict[str, list[launch.Run]]:
    """Time everyone in fresh processes, A B C A B C, so that slow drifts of the machine hit all alike."""
    runs: dict[str, list[launch.Run]] = {name: [] for name in names}
    for repeat in range(size.num_repeats):
        for name in names:
            job = launch.job_of(CONFIGURATIONS[name], folder, size.timed_sections, size.num_warmup_steps)
            run = launch.start(CONFIGURATIONS[name], job, num_threads)
            runs[name].append(run)
            counts = _counts(job, folder)
            speed = results.speed(run.measurement, counts.real, size.num_warmup_steps)
            print(f"repeat {repeat + 1}/{size.num_repeats} {name}: {speed:,.0f} tokens/s in {run.seconds:.0f} s", flush=True)
    return runs


def summarise(runs: dict[str, list[launch.Run]], folder: Path, size: Size, num_threads: int) -> dict[str, results.Summary]:
    """The medians of everyone; each kind of contestant is also started once to import and do nothing else."""
    import_bytes: dict[str, int] = {}
    summaries = {}
    for name, found in runs.items():
        configuration = CONFIGURATIONS[name]
        if configuration.module not in import_bytes:
            idle = launch.start(configuration, Job(mode="import", workload_folder=str(folder)), num_threads)
            import_bytes[configuration.module] = idle.measurement.import_bytes
        summaries[name] = results.summarise(
            [run.measurement for run in found],
            _counts(launch.job_of(configuration, folder, size.timed_sections, size.num_warmup_steps), folder),
            size.num_warmup_steps,
            import_bytes[configuration.module],
            max(run.other_cores for run in found),
        )
    return summaries


def curve_problems(found: dict[str, list[Measurement]]) -> list[str]:
    """Whether the timed runs followed one loss curve as well; prints what is wrong."""
    reference = next(iter(found.get(REFERENCE) or next(iter(found.values()))))
    wrong = [
        text
        for name, measurements in found.items()
        for measurement in measurements
        for text in agreement.problems(name, measurement, reference, same_steps=CONFIGURATIONS[name].order != "grouped")
    ]
    for text in wrong:
        print(text, file=sys.stderr)
    return wrong


def keep(
    checked: dict[str, dict[str, float]],
    runs: dict[str, list[launch.Run]],
    summaries: dict[str, results.Summary],
    size: Size,
    folder: Path,
    arguments: argparse.Namespace,
) -> None:
    """Write the result file and the lines of the history."""
    here, today = machine.this_machine(), datetime.date.today().isoformat()
    label = arguments.machine or here.slug
    common = {
        "date": today,
        "commit": machine.commit(ROOT),
        "machine": label,
        "num_rows": size.num_timed,
        "num_repeats": size.num_repeats,
    }
    record: dict[str, object] = {
        "schema": 1,
        **common,
        "machine_facts": dataclasses.asdict(here),
        "num_threads": arguments.threads,
        "size": dataclasses.asdict(size),
        "rows_sha256": hashlib.sha256((folder / "rows.json").read_bytes()).hexdigest(),
        "check": checked,
        "ratios": results.ratios(summaries),
        "summaries": {name: dataclasses.asdict(summary) for name, summary in summaries.items()},
        "configurations": {name: dataclasses.asdict(CONFIGURATIONS[name]) for name in runs},
        "runs": {name: [dataclasses.asdict(run) for run in found] for name, found in runs.items()},
    }
    path = results.write_json(record, ROOT / "benchmarks" / "results", f"{today}-{label}")
    results.append_history(ROOT / "benchmarks" / "results" / "history.csv", common, summaries)
    print(f"written to {path.relative_to(ROOT)}; one line per contestant added to history.csv")


def _counts(job: Job, folder: Path) -> results.TokenCounts:
    rows = job.rows(workload.read(folder / "rows.json"))[job.num_warmup_steps * job.rows_per_step :]
    # What a contestant without padding computes on is what is real; only the module of the peer pads.
    return results.TokenCounts(
        real=workload.num_tokens(rows), labelled=workload.num_labelled(rows), padded=workload.num_padded(rows, job.rows_per_pass)
    )


def _cache() -> Path:
    chosen = os.environ.get("TUNESMITH_CACHE")
    return (Path(chosen) if chosen else Path.home() / ".cache" / "tunesmith") / "benchmarks"


def _short(numbers: list[float]) -> str:
    return " ".join(f"{number:.3f}" for number in numbers)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description="tunesmith against PEFT + Trainer, side by side.")
    parser.add_argument("--quick", action="store_true", help="24 rows, one repeat, at most 3 minutes; nothing is kept")
    parser.add_argument("--repeats", type=int, help="repeats of the timed run (default 3, quick 1)")
    parser.add_argument("--contestants", default=",".join(USUAL), help=f"some of {', '.join(CONFIGURATIONS)}, or all")
    parser.add_argument("--threads", type=int, default=2, help="threads of every contestant (default 2)")
    parser.add_argument("--model", type=Path, help="a GGUF file of SmolLM2-135M-Instruct instead of starter:smollm2")
    parser.add_argument("--instructions", type=Path, help="instruction/input/output rows (JSONL) instead of starter:instructions")
    parser.add_argument("--machine", help="name of this machine in the result (default: by its processor)")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
