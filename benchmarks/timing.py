"""Times the contestants of a suite in turn, and sums up what each of them did."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmarks import check, launch, results, workload
from benchmarks.job import Job, Measurement
from benchmarks.suites import Suite

Runs = dict[str, list[launch.Run]]


@dataclass(frozen=True)
class Size:
    """How much of a suite is measured."""

    warmup_section: str
    num_warmup_steps: int
    num_timed_steps: int
    num_repeats: int
    checking: check.Checking


@dataclass(frozen=True)
class Benchmark:
    """One suite, by some of its contestants, in one size."""

    suite: Suite
    names: list[str]
    folder: Path
    """What all share, prepared."""
    size: Size
    num_threads: int

    def job(self, name: str) -> Job:
        """The job that is timed."""
        size, rows = self.size, self.suite.work.rows_per_step
        sections = [(size.warmup_section, size.num_warmup_steps * rows, 1), ("timed", size.num_timed_steps * rows, 1)]
        return launch.job_of(self.suite, name, self.folder, sections, num_warmup_steps=size.num_warmup_steps)

    def check(self) -> check.Checked:
        """Whether all do the same work."""
        return check.before_timing(self.suite, self.names, self.folder, self.size.checking, self.num_threads)

    def counts(self, name: str) -> results.TokenCounts:
        """Tokens of the timed steps."""
        job = self.job(name)
        rows = job.rows(workload.read(self.folder / "rows.json"))[job.num_warmup_steps * job.rows_per_step :]
        # What pads is the peer; a packed stream has as many tokens as the rows.
        rows_per_pass = job.rows_per_pass if self.suite.contestants[name].pads else 1
        return results.TokenCounts(
            workload.num_tokens(rows), workload.num_labelled(rows), workload.num_padded(rows, rows_per_pass)
        )

    def time_in_turn(self) -> Runs:
        """Time everyone in fresh processes, A B C A B C, so that slow drifts of the machine hit all alike."""
        runs: Runs = {name: [] for name in self.names}
        for repeat in range(self.size.num_repeats):
            for name in self.names:
                run = launch.start(self.suite.contestants[name], self.job(name), self.num_threads)
                runs[name].append(run)
                speed = results.speed(run.measurement, self.counts(name).real, self.size.num_warmup_steps)
                progress = f"repeat {repeat + 1}/{self.size.num_repeats} {name}"
                print(f"{progress}: {speed:,.0f} tokens/s, process {run.seconds:.0f} s", flush=True)
        return runs

    def summarise(self, runs: Runs, checked: check.Checked) -> dict[str, results.Summary]:
        """The medians of everyone; each kind of contestant is also started once to import and do nothing else."""
        import_bytes: dict[str, int] = {}
        measurements = measurements_of(runs)
        summaries = {}
        for name, found in runs.items():
            configuration = self.suite.contestants[name]
            if configuration.module not in import_bytes:
                idle = launch.start(configuration, Job(mode="import", workload_folder=str(self.folder)), self.num_threads)
                import_bytes[configuration.module] = 0 if configuration.on_gpu else idle.measurement.import_bytes
            facts = results.Facts(
                loss_gap=check.timed_gap(self.suite, name, measurements),
                learnt_share=checked.learnt_shares.get(name, float("nan")),
                most_other_cores=max(run.other_cores for run in found),
            )
            summaries[name] = results.summarise(
                measurements[name], self.counts(name), self.size.num_warmup_steps, import_bytes[configuration.module], facts
            )
        return summaries


def measurements_of(runs: Runs) -> dict[str, list[Measurement]]:
    """What the processes measured."""
    return {name: [run.measurement for run in found] for name, found in runs.items()}
