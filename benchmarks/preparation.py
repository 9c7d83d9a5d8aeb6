"""Preparing a million short rows, first and again, and a dry run: time, and the most memory that all processes held together.

    python -m benchmarks.preparation [--rows 1000000] [--keep]

Rows are drawn from the words of Python's own documentation with a fixed seed and written to a temporary folder; so is the
cache of prepared rows. Every measurement is a fresh process. See README.md.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import machine

RESULTS = Path(__file__).parent / "results" / "preparation.json"
ROWS_AT_ONCE = 10_000
SECONDS_BETWEEN_LOOKS = 0.1
SETS = {"classification": "starter:minilm", "chat": "starter:smollm2"}
DRY_RUNS = {"starter:instructions": "starter:smollm2", "starter:movie-reviews": "starter:minilm"}
_PREPARE = """
import json, sys, time
from tunesmith.data.prepare import prepare
from tunesmith.model import load
from tunesmith.settings import DataSettings
load.quiet()
source = load.find(sys.argv[2])
tokenizer, longest = source.tokenizer, source.config.max_position_embeddings
start = time.perf_counter()
settings = DataSettings(data=(sys.argv[1],))
data = prepare(settings, tokenizer, task="auto", model_max_length=longest, kind=source.kind)
seconds = time.perf_counter() - start
print(json.dumps({"seconds": seconds, "rows": len(data.train), "tokens": data.train.tokens.num_tokens}))
"""


def _words() -> tuple[list[str], list[int]]:
    """Words and how often each stands in Python's documentation."""
    topics = importlib.import_module("pydoc_data.topics").topics
    counts = Counter(re.findall(r"[A-Za-z']+", " ".join(topics.values())))
    return list(counts), list(counts.values())


def _rows(kind: str, count: int) -> Iterator[dict[str, str]]:
    """Short rows: 5 to 25 words with a label, or questions of 5 to 15 and answers of 3 to 20 words."""
    generator, (words, counts) = random.Random(0), _words()

    def text(low: int, high: int) -> str:
        return " ".join(generator.choices(words, counts, k=generator.randint(low, high)))

    for _ in range(count):
        if kind == "chat":
            yield {"prompt": text(5, 15), "completion": text(3, 20)}
        else:
            yield {"text": text(5, 25), "label": generator.choice(("bad", "good"))}


def write_rows(path: Path, kind: str, count: int) -> None:
    """A JSONL file of synthetic rows."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in _rows(kind, count))


def _family(pid: int) -> list[int]:
    """A process and all below it."""
    found = [pid]
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += [member for child in path.read_text().split() for member in _family(int(child))]
        except OSError:
            continue
    return found


def _held_bytes(pid: int) -> int:
    """Memory that a process and those below it hold; pages that several share count once."""
    total = 0
    for member in _family(pid):
        try:
            lines = Path(f"/proc/{member}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return total


def measure(command: list[str], cache: Path) -> dict[str, Any]:
    """Run a command; how long it took, processor time of all its processes, and the most memory they held together."""
    before, start, most = os.times(), time.perf_counter(), 0
    environment = {**os.environ, "TUNESMITH_CACHE": str(cache)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as process:
        while process.poll() is None:
            most = max(most, _held_bytes(process.pid))
            time.sleep(SECONDS_BETWEEN_LOOKS)
        assert process.stdout is not None
        printed = process.stdout.read()
    if process.returncode:
        raise SystemExit(f"{command} ended with {process.returncode}")
    after = os.times()
    used = after.children_user - before.children_user + after.children_system - before.children_system
    facts = {"whole_seconds": time.perf_counter() - start, "processor_seconds": used, "peak_bytes": most}
    return {**(json.loads(printed) if printed.startswith("{") else {}), **facts}


def _cache_with_starters(folder: Path) -> Path:
    """A new cache that has the starter models and data of the usual one, which must not be fetched again."""
    from tunesmith import starter
    from tunesmith.model import load
    from tunesmith.starter.resolve import cache_folder

    for model in {*SETS.values(), *DRY_RUNS.values()}:
        load.find(model)
    for data in DRY_RUNS:
        starter.resolve_data(data)
    folder.mkdir()
    for name in ("starter", "converted"):
        (folder / name).symlink_to(cache_folder() / name)
    return folder


def run(num_rows: int, folder: Path) -> dict[str, Any]:
    """All measurements."""
    cache, measured = _cache_with_starters(folder / "cache"), {}
    for kind, model in SETS.items():
        path = folder / f"{kind}.jsonl"
        write_rows(path, kind, num_rows)
        for turn in ("first", "again"):
            measured[f"{kind}, {turn}"] = measure([sys.executable, "-c", _PREPARE, str(path), model], cache)
    for data, model in DRY_RUNS.items():
        command = [sys.executable, "-m", "tunesmith", "fit", data, "--model", model, "--dry-run", "--quiet"]
        for turn in ("first", "again"):
            measured[f"dry run {model}, {turn}"] = measure(command, cache)
    return measured


def main() -> None:
    """Measure, show, and with `--keep` write down."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--keep", action="store_true", help=f"write {RESULTS.name}")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measured = run(given.rows, Path(folder))
    print(f"{'':34}{'prepare s':>10}{'whole s':>10}{'CPU s':>10}{'peak MB':>10}")
    for name, facts in measured.items():
        seconds = f"{facts['seconds']:.1f}" if "seconds" in facts else ""
        rest = f"{facts['whole_seconds']:>10.1f}{facts['processor_seconds']:>10.1f}{facts['peak_bytes'] / 1e6:>10,.0f}"
        print(f"{name:34}{seconds:>10}{rest}")
    if given.keep:
        record = {"date": datetime.date.today().isoformat(), "machine": asdict(machine.this_machine()), "rows": given.rows}
        RESULTS.write_text(json.dumps({**record, "measured": measured}, indent=1) + "\n")


if __name__ == "__main__":
    main()
