"""The benchmark: prepare, check that all contestants do the same work, time them in turn, write down what came out.

python -m benchmarks.run                                LoRA, three repeats, result file and history
python -m benchmarks.run --suite classification         another suite
python -m benchmarks.run --suite all --size short       all of them, one after the other, in about 40 minutes
python -m benchmarks.run --quick                        one short repeat, nothing kept
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks import check, prepared, record, results
from benchmarks.check import Checking
from benchmarks.suites import SUITES, Suite
from benchmarks.timing import Benchmark, Size, measurements_of


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much of a suite is measured, whatever its number of rows."""

    share: float
    """Of the rows that can be timed."""
    warmup_section: str
    warmup_share: float
    """Of the rows of that section."""
    num_repeats: int
    checking: Checking


SIZES = {
    "quick": Scale(share=1 / 4, warmup_section="check", warmup_share=1.0, num_repeats=1, checking=Checking(3, False)),
    "short": Scale(share=1 / 4, warmup_section="warmup", warmup_share=0.5, num_repeats=1, checking=Checking(4, True)),
    "full": Scale(share=1.0, warmup_section="warmup", warmup_share=1.0, num_repeats=3, checking=Checking(8, True)),
}


def size_of(suite: Suite, arguments: argparse.Namespace) -> Size:
    """How much is measured.

    Raises:
        ValueError: The suite cannot time so many rows.
    """
    work, scale = suite.work, SIZES[arguments.size]
    rows = arguments.rows or int(work.num_timed * scale.share)
    if rows % work.rows_per_step or not 0 < rows <= work.num_timed:
        raise ValueError(
            f"--rows {rows}: the suite {suite.name!r} times {work.rows_per_step} to {work.num_timed} rows, "
            f"{work.rows_per_step} at a time."
        )
    num_warmup = work.num_check if scale.warmup_section == "check" else work.num_warmup
    return Size(
        warmup_section=scale.warmup_section,
        num_warmup_steps=int(num_warmup * scale.warmup_share) // work.rows_per_step,
        num_timed_steps=rows // work.rows_per_step,
        num_repeats=arguments.repeats or scale.num_repeats,
        checking=scale.checking,
    )


def main() -> int:
    """Run one suite or all; exit code 0 if everything agreed and was measured, 1 if not, 2 for wrong usage."""
    arguments = _arguments()
    if arguments.suite == "all":
        return all_suites(arguments)
    if arguments.suite not in SUITES:
        return _refuse([f"unknown suite {arguments.suite!r}; known: {', '.join(SUITES)}, or all"], 2)
    suite = SUITES[arguments.suite]
    try:
        names, size = suite.chosen(arguments.contestants), size_of(suite, arguments)
    except ValueError as error:
        return _refuse([str(error)], 2)
    folder = prepared.folder_of(suite, prepared.Inputs(arguments.model, arguments.data))
    return measure(Benchmark(suite, names, folder, size, arguments.threads), arguments)


def measure(benchmark: Benchmark, arguments: argparse.Namespace) -> int:
    """The story of one suite."""
    checked = benchmark.check()
    if checked.problems:
        return _refuse(checked.problems, 1)
    runs = benchmark.time_in_turn()
    summaries = benchmark.summarise(runs, checked)
    print(f"\n{benchmark.suite.name}: {benchmark.suite.about}\n\n{results.table(summaries)}\n")
    for name, ratio in results.ratios(summaries).items():
        print(f"{name.replace('_', ' ')}: {ratio:.2f}")
    problems = check.after_timing(benchmark.suite, measurements_of(runs))
    if problems:
        return _refuse([*problems, "Nothing was kept: the timed runs did not do the same work."], 1)
    if arguments.size != "quick":
        path = record.keep(benchmark, checked, runs, summaries, arguments.machine)
        print(f"written to {path.relative_to(record.ROOT)}; one line per contestant added to history.csv")
    return 0


def all_suites(arguments: argparse.Namespace) -> int:
    """Run every suite in a process of its own, so that what befalls one leaves the others' results alone."""
    if arguments.contestants not in (None, "all") or arguments.model or arguments.data or arguments.rows:
        return _refuse(["--suite all takes no --contestants NAMES, --model, --data or --rows: suites differ in them."], 2)
    passed_on = [word for word in sys.argv[1:] if word not in ("--suite", "all", "--suite=all")]
    if arguments.contestants == "all":
        passed_on = [word for word in passed_on if word != "--contestants"] + ["--contestants", "all"]
    codes = {}
    for name, suite in SUITES.items():
        if suite.on_gpu and not has_gpu():
            print(f"suite {name}: left out, there is no GPU here", flush=True)
            continue
        start = time.monotonic()
        codes[name] = subprocess.run(
            [sys.executable, "-m", "benchmarks.run", "--suite", name, *passed_on], check=False
        ).returncode
        print(f"suite {name}: exit code {codes[name]}, {time.monotonic() - start:.0f} s\n", flush=True)
    failed = [name for name, code in codes.items() if code]
    return _refuse([f"failed: {', '.join(failed)}; the results of the others are kept."], 1) if failed else 0


def has_gpu() -> bool:
    """Whether torch finds a GPU."""
    import torch

    return torch.cuda.is_available()


def _refuse(problems: list[str], exit_code: int) -> int:
    print("\n".join(problems), file=sys.stderr)
    return exit_code


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description="tunesmith beside its peers.")
    parser.add_argument("--suite", default="lora", help=f"{', '.join(SUITES)}, or all (default lora)")
    parser.add_argument("--size", choices=list(SIZES), default="full", help="share of the rows that is timed (default full)")
    parser.add_argument("--quick", action="store_const", dest="size", const="quick", help="as --size quick: nothing is kept")
    parser.add_argument("--rows", type=int, help="rows that are timed, instead of the share")
    parser.add_argument("--repeats", type=int, help="repeats of the timed run (default 3, below the full size 1)")
    parser.add_argument("--contestants", help="names with commas between, or all of the suite (default: the usual ones)")
    parser.add_argument("--threads", type=int, default=2, help="threads of every contestant (default 2)")
    parser.add_argument("--model", type=Path, help="a GGUF file or folder of the suite's model instead of the starter's")
    parser.add_argument("--data", type=Path, help="a file of the suite's data instead of the starter's")
    parser.add_argument("--machine", help="name of this machine in the result (default: by its processor)")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
