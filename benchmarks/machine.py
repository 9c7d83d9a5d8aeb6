"""What the benchmark ran on, in words that name no host, and how busy others kept it meanwhile."""

from __future__ import annotations

import os
import platform
import re
import resource
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

BUSY_FIELDS = ("user", "nice", "system", "irq", "softirq", "steal")
STAT_FIELDS = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
FLAGS_OF_INTEREST = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")


@dataclass(frozen=True)
class Machine:
    """The facts that speed depends on."""

    processor: str
    num_cores: int
    memory_bytes: int
    flags: list[str]
    system: str
    libc: str

    @property
    def slug(self) -> str:
        """A short name for files: `2x-intel-xeon-processor`."""
        words = re.sub(r"\((r|tm)\)", " ", self.processor.lower())
        return f"{self.num_cores}x-" + re.sub(r"[^a-z0-9]+", "-", words).strip("-")


def this_machine() -> Machine:
    """The machine at hand."""
    processor, flags = parse_cpuinfo(Path("/proc/cpuinfo").read_text())
    return Machine(
        processor=processor,
        num_cores=len(os.sched_getaffinity(0)),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        flags=[flag for flag in FLAGS_OF_INTEREST if flag in flags],
        system=f"{platform.system()} {platform.release().split('-')[0]}",
        libc=" ".join(platform.libc_ver()),
    )


def parse_cpuinfo(text: str) -> tuple[str, list[str]]:
    """The model name and the flags of the first processor."""
    entries = dict(reversed([line.split(":", 1) for line in text.splitlines() if ":" in line]))
    found = {name.strip(): value.strip() for name, value in entries.items()}
    return found.get("model name", platform.machine()), found.get("flags", "").split()


def busy_seconds(stat: str | None = None) -> float:
    """Processor seconds that anything has used since the machine started, all cores together."""
    line = (Path("/proc/stat").read_text() if stat is None else stat).splitlines()[0]
    ticks = dict(zip(STAT_FIELDS, map(int, line.split()[1:]), strict=False))
    return sum(ticks[name] for name in BUSY_FIELDS) / os.sysconf("SC_CLK_TCK")


class Stopwatch:
    """Seconds since it was made, and how many cores everything but this process's children kept busy meanwhile."""

    def __init__(self) -> None:
        self._begin, self._busy, self._own = time.monotonic(), busy_seconds(), _children_seconds()

    def read(self) -> tuple[float, float]:
        """Both numbers; on a quiet machine the second is 0."""
        seconds = time.monotonic() - self._begin
        others = busy_seconds() - self._busy - (_children_seconds() - self._own)
        return seconds, max(0.0, others / seconds)


def _children_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def commit(root: Path) -> str:
    """The short commit of the source, with `+` if files other than results differ from it; empty outside a git checkout."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    name = git("rev-parse", "--short", "HEAD")
    return name + ("+" if name and git("status", "--porcelain", "--", ".", ":!benchmarks/results") else "")
