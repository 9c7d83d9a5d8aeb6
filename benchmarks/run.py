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

from benchmarks import check, launch, machine, peer_environment, results, workload
from benchmarks.contestants import CONFIGURATIONS, USUAL, reference_of
from benchmarks.job import Job

ROOT = peer_environment.ROOT
RESULTS = ROOT / "benchmarks" / "results"
PREPARED_BY = ("prepare.py", "workload.py", "environments/peft.txt")
Runs = dict[str, list[launch.Run]]


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    warmup_section: str
    num_warmup: int
    num_timed: int
    num_check_steps: int
    checks_own_precision: bool
    num_repeats: int

    @property
    def sections(self) -> list[tuple[str, int, int]]:
        """The rows of a timed run."""
        return [(self.warmup_section, self.num_warmup, 1), ("timed", self.num_timed, 1)]

    @property
    def num_warmup_steps(self) -> int:
        """Steps before the clock starts."""
        return self.num_warmup // workload.ROWS_PER_STEP


FULL = Size("warmup", num_warmup=16, num_timed=64, num_check_steps=8, checks_own_precision=True, num_repeats=3)
QUICK = Size("check", num_warmup=8, num_timed=16, num_check_steps=2, checks_own_precision=False, num_repeats=1)


@dataclass(frozen=True)
class Benchmark:
    """One benchmark of some contestants."""

    names: list[str]
    folder: Path
    """The prepared model, adapter and rows."""
    size: Size
    num_threads: int

    def job(self, name: str) -> Job:
        """The job that is timed."""
        size = self.size
        return launch.job_of(CONFIGURATIONS[name], self.folder, size.sections, num_warmup_steps=size.num_warmup_steps)

    def counts(self, name: str) -> results.TokenCounts:
        """Tokens of the timed steps."""
        job = self.job(name)
        rows = job.rows(workload.read(self.folder / "rows.json"))[job.num_warmup_steps * job.rows_per_step :]
        # What pads is the peer; a packed stream has as many tokens as the rows.
        rows_per_pass = job.rows_per_pass if CONFIGURATIONS[name].pads else 1
        return results.TokenCounts(
            workload.num_tokens(rows), workload.num_labelled(rows), workload.num_padded(rows, rows_per_pass)
        )

    def time_in_turn(self) -> Runs:
        """Time everyone in fresh processes, A B C A B C, so that slow drifts of the machine hit all alike."""
        runs: Runs = {name: [] for name in self.names}
        for repeat in range(self.size.num_repeats):
            for name in self.names:
                run = launch.start(CONFIGURATIONS[name], self.job(name), self.num_threads)
                runs[name].append(run)
                speed = results.speed(run.measurement, self.counts(name).real, self.size.num_warmup_steps)
                progress = f"repeat {repeat + 1}/{self.size.num_repeats} {name}"
                print(f"{progress}: {speed:,.0f} tokens/s, process {run.seconds:.0f} s", flush=True)
        return runs

    def summarise(self, runs: Runs, checked: check.Checked) -> dict[str, results.Summary]:
        """The medians of everyone; each kind of contestant is also started once to import and do nothing else."""
        import_bytes: dict[tuple[str, bool], int] = {}
        summaries = {}
        for name, found in runs.items():
            configuration = CONFIGURATIONS[name]
            place = configuration.module, configuration.on_gpu
            if place not in import_bytes:
                idle = launch.start(configuration, Job(mode="import", workload_folder=str(self.folder)), self.num_threads)
                import_bytes[place] = 0 if configuration.on_gpu else idle.measurement.import_bytes
            measurements = [run.measurement for run in found]
            facts = results.Facts(
                loss_gap=check.timed_gap(name, measurements, runs),
                learnt_share=checked.learnt_shares.get(name, float("nan")),
                most_other_cores=max(run.other_cores for run in found),
            )
            summaries[name] = results.summarise(
                measurements,
                self.counts(name),
                self.size.num_warmup_steps,
                import_bytes.get(name, import_bytes.get(configuration.module, 0)),
                facts,
            )
        return summaries


def main() -> int:
    """Run the benchmark; exit code 0 if everything agreed and was measured, 1 if not, 2 for wrong usage."""
    arguments = _arguments()
    unquantised = [name for name, known in CONFIGURATIONS.items() if known.base_bits == 16 and not known.on_gpu]
    names = unquantised if arguments.contestants == "all" else arguments.contestants.split(",")
    unknown = [name for name in names if name not in CONFIGURATIONS]
    if unknown:
        return _refuse([f"unknown contestant {unknown[0]!r}; known: {', '.join(CONFIGURATIONS)}, or all"], 2)
    try:
        reference_of(names)
    except ValueError as error:
        return _refuse([str(error)], 2)
    size = QUICK if arguments.quick else FULL
    size = dataclasses.replace(size, num_repeats=arguments.repeats or size.num_repeats)
    folder = prepared(arguments.model, arguments.instructions, arguments.threads)
    benchmark = Benchmark(names, folder, size, arguments.threads)
    checked = check.before_timing(names, folder, size.num_check_steps, size.checks_own_precision, arguments.threads)
    if checked.problems:
        return _refuse(checked.problems, 1)
    runs = benchmark.time_in_turn()
    summaries = benchmark.summarise(runs, checked)
    print("\n" + results.table(summaries) + "\n")
    for name, ratio in results.ratios(summaries).items():
        print(f"{name.replace('_', ' ')}: {ratio:.2f}")
    problems = check.after_timing({name: [run.measurement for run in found] for name, found in runs.items()})
    if problems:
        return _refuse([*problems, "Nothing was kept: the timed runs did not do the same work."], 1)
    if not arguments.quick:
        keep(benchmark, checked, runs, summaries, arguments.machine)
    return 0


def prepared(model: Path | None, instructions: Path | None, num_threads: int) -> Path:
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
            inputs = [model.resolve(), instructions.resolve(), unfinished]
            command = [str(peer_environment.python()), "-m", "benchmarks.prepare", *map(str, inputs)]
            subprocess.run(
                command, cwd=ROOT, check=True, env=launch.variables(dict(os.environ), {"PYTHONWARNINGS": "ignore"}, num_threads)
            )
            shutil.move(unfinished, folder)
    return folder


def keep(
    benchmark: Benchmark, checked: check.Checked, runs: Runs, summaries: dict[str, results.Summary], label: str | None
) -> None:
    """Write the result file and the lines of the history."""
    here, today, size = machine.this_machine(), datetime.date.today().isoformat(), benchmark.size
    common: dict[str, str | int] = {
        "date": today,
        "commit": machine.commit(ROOT),
        "machine": label or here.slug,
        "num_rows": size.num_timed,
        "num_repeats": size.num_repeats,
    }
    record: dict[str, object] = {
        "schema": 1,
        **common,
        "machine_facts": dataclasses.asdict(here),
        "num_threads": benchmark.num_threads,
        "size": dataclasses.asdict(size),
        "rows_sha256": hashlib.sha256((benchmark.folder / "rows.json").read_bytes()).hexdigest(),
        "check": checked.record(),
        "ratios": results.ratios(summaries),
        "summaries": {name: dataclasses.asdict(summary) for name, summary in summaries.items()},
        "configurations": {name: dataclasses.asdict(CONFIGURATIONS[name]) for name in runs},
        "runs": {name: [dataclasses.asdict(run) for run in found] for name, found in runs.items()},
    }
    path = results.write_json(record, RESULTS, f"{today}-{common['machine']}")
    results.append_history(RESULTS / "history.csv", common, summaries)
    print(f"written to {path.relative_to(ROOT)}; one line per contestant added to history.csv")


def _refuse(problems: list[str], exit_code: int) -> int:
    print("\n".join(problems), file=sys.stderr)
    return exit_code


def _cache() -> Path:
    chosen = os.environ.get("TUNESMITH_CACHE")
    return (Path(chosen) if chosen else Path.home() / ".cache" / "tunesmith") / "benchmarks"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description="tunesmith against PEFT + Trainer.")
    parser.add_argument("--quick", action="store_true", help="24 rows, one repeat, at most 3 minutes; nothing is kept")
    parser.add_argument("--repeats", type=int, help="repeats of the timed run (default 3, quick 1)")
    parser.add_argument("--contestants", default=",".join(USUAL), help=f"some of {', '.join(CONFIGURATIONS)}, or all")
    parser.add_argument("--threads", type=int, default=2, help="threads of every contestant (default 2)")
    parser.add_argument("--model", type=Path, help="a GGUF file of SmolLM2-135M-Instruct instead of starter:smollm2")
    parser.add_argument("--instructions", type=Path, help="JSONL with instruction, input, output instead of the starter's")
    parser.add_argument("--machine", help="name of this machine in the result (default: by its processor)")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
