"""What the contestants of a suite share, made on first use in the cache: model folders, rows, and what learns as it begins."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from benchmarks import launch, peer_environment
from benchmarks.suites import Suite

ROOT = peer_environment.ROOT
SOURCES = ("rows.py", "starts", "suites.py", "workload.py", "environments")


@dataclass(frozen=True)
class Inputs:
    """Files to be used in place of the starter model and data."""

    model: Path | None = None
    data: Path | None = None


def folder_of(suite: Suite, inputs: Inputs) -> Path:
    """The folder with `float32/`, `bfloat16/`, `adapter/` and `rows.json`.

    Raises:
        subprocess.CalledProcessError: Preparing failed.
    """
    model, data = _inputs(suite, inputs)
    models = _made(
        f"{suite.work.model}-{_digest([model, ROOT / 'benchmarks' / 'prepare.py'])}",
        lambda place: _run("peft", "prepare", "model", suite.name, model, place),
    )
    peer = suite.contestants[suite.reference].module

    def make(place: Path) -> None:
        # Hard links: a folder is complete in itself, and a model is on the disk once.
        shutil.copytree(models, place, copy_function=os.link, dirs_exist_ok=True)
        _run("peft", "prepare", "rows", suite.name, data, place, model)
        _run(peer, f"starts.{peer}", suite.name, place)

    sources = [model, data, *(ROOT / "benchmarks" / name for name in SOURCES)]
    return _made(f"{suite.name}-{_digest(sources)}", make)


def _inputs(suite: Suite, inputs: Inputs) -> tuple[Path, Path]:
    from tunesmith import starter

    model = inputs.model or starter.resolve_model(f"starter:{suite.work.model}")
    data = inputs.data or starter.resolve_data(f"starter:{suite.work.data}")
    return model.resolve(), data.resolve()


def _run(peer: str, module: str, *words: str | Path) -> None:
    """Run a module of the benchmark in the environment of a peer."""
    command = [str(peer_environment.python(peer)), "-m", f"benchmarks.{module}", *map(str, words)]
    variables = launch.variables(dict(os.environ), {"PYTHONWARNINGS": "ignore"}, num_threads=2)
    subprocess.run(command, cwd=ROOT, check=True, env=variables)


def _made(name: str, make: Callable[[Path], None]) -> Path:
    """The folder of this name in the cache, whole; made on first use."""
    folder = _cache() / name
    if not folder.exists():
        print(f"preparing {name} (once) ...", flush=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            unfinished = Path(scratch, "prepared")
            unfinished.mkdir()
            make(unfinished)
            shutil.move(unfinished, folder)
    return folder


def _digest(sources: Iterable[Path]) -> str:
    whole = hashlib.sha256()
    for source in sources:
        for path in sorted(source.rglob("*")) if source.is_dir() else [source]:
            if path.is_file():
                whole.update(hashlib.sha256(path.read_bytes()).digest())
    return whole.hexdigest()[:12]


def _cache() -> Path:
    chosen = os.environ.get("TUNESMITH_CACHE")
    return (Path(chosen) if chosen else Path.home() / ".cache" / "tunesmith") / "benchmarks"
