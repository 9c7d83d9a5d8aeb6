"""kill -9 at random moments, resumed until it is done, ends with bitwise the weights of the run that nobody disturbed."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from forking import Server
from tunesmith.reports.result import RunResult

WEIGHTS = {"lora": "adapter/adapter_model.safetensors", "full": "model/model.safetensors"}
SLOW = ("slow_disk", "0.002")
"""Makes a run spend most of its time in saving, so that most kills land there."""


@dataclass(frozen=True)
class Undisturbed:
    """A run from beginning to end."""

    folder: Path
    seconds: float


@pytest.fixture(scope="module")
def undisturbed(server, bench, tmp_path_factory):
    """The run to compare with, by its command line; made when first asked for."""
    made: dict[str, Undisturbed] = {}

    def make(words: list[str]) -> Undisturbed:
        if (line := " ".join(words)) not in made:
            parent = tmp_path_factory.mktemp("undisturbed")
            start = time.monotonic()
            child = server.run(words, parent, fault=SLOW)
            assert child.code == 0, child.err
            made[line] = Undisturbed(parent / "run", time.monotonic() - start)
        return made[line]

    return make


def _kill_until_done(server: Server, words: list[str], folder: Path, moments: list[float]) -> int:
    """Leaves a finished run; returns how many processes were killed on the way."""
    num_killed = 0
    for moment in moments:
        child = server.start(_next(words, folder), folder, fault=SLOW)
        time.sleep(moment)
        if not child.ended():
            child.send(signal.SIGKILL)
        killed = child.wait() == -signal.SIGKILL
        assert killed or child.code == 0, child.err
        num_killed += killed
        if not killed or _is_finished(folder / "run"):  # one may be killed with nothing left to do but to exit
            return num_killed
    child = server.run(_next(words, folder), folder, fault=SLOW)
    assert child.code == 0, child.err
    return num_killed


def _is_finished(run: Path) -> bool:
    return (run / "run.json").exists() and RunResult.load(run).status == "finished"


def _next(words: list[str], folder: Path) -> list[str]:
    """Begin, or go on if there is something to go on with."""
    return ["resume", "run", "--quiet"] if (folder / "run" / "run.json").exists() else words


def _assert_same(one: Path, other: Path, method: str) -> None:
    assert (one / WEIGHTS[method]).read_bytes() == (other / WEIGHTS[method]).read_bytes()
    results = [RunResult.load(folder) for folder in (one, other)]
    assert results[0].stages == results[1].stages
    assert results[0].retention == results[1].retention
    assert results[0].examples == results[1].examples
    assert _told(one) == _told(other)
    assert not [path for path in one.rglob("*") if "tmp" in path.name]


def _told(folder: Path) -> list[tuple[object, ...]]:
    """What the metrics say, without what depends on the machine."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [
        (x["kind"], x["step"], x.get("loss"), x.get("gradient_norm"), x.get("metrics")) for x in lines if x["kind"] != "event"
    ]


def _test(server: Server, words: list[str], whole: Undisturbed, folder: Path, fractions: list[float], method: str) -> int:
    folder.mkdir()
    num_killed = _kill_until_done(server, words, folder, [f * whole.seconds for f in fractions])
    _assert_same(folder / "run", whole.folder, method)
    return num_killed


@pytest.mark.parametrize("workers", ["1", "2"])
def test_three_kills(server, undisturbed, fit_words, tmp_path, workers):
    """At random moments within a step or a save, each further on than the one before."""
    words, draw = fit_words("run", "--workers", workers), random.Random(3)
    for step in (2, 5, 9):
        child = server.start(_next(words, tmp_path), tmp_path, fault=SLOW)
        child.wait_for(tmp_path / "run" / "checkpoints" / f"step-{step:08d}")
        time.sleep(0.03 * draw.random())
        child.send(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
    child = server.run(_next(words, tmp_path), tmp_path, fault=SLOW)
    assert child.code == 0, child.err
    _assert_same(tmp_path / "run", undisturbed(words).folder, "lora")


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "full"])
def test_ten_kills_each(server, undisturbed, fit_words, tmp_path, method):
    words = fit_words("run", method=method)
    whole = undisturbed(words)
    draw, num_killed, attempt = random.Random(f"ten {method}"), 0, 0
    while num_killed < 10:
        attempt += 1
        assert attempt < 40
        num_killed += _test(server, words, whole, tmp_path / str(attempt), [draw.random() for _ in range(4)], method)


@pytest.mark.soak
def test_three_hundred_kills(server, undisturbed, fit_words, tmp_path):
    draw, num_killed, attempt = random.Random("soak"), 0, 0
    while num_killed < 300:
        attempt += 1
        assert attempt < 1000
        method = draw.choice(list(WEIGHTS))
        fractions = [draw.random() for _ in range(draw.randint(1, 8))]
        words = fit_words("run", "--workers", draw.choice("12"), method=method)
        num_killed += _test(server, words, undisturbed(words), tmp_path / str(attempt), fractions, method)


def test_killed_before_its_first_checkpoint(server, undisturbed, fit_words, tmp_path):
    words, flag = fit_words("run", "--workers", "1"), tmp_path / "flag"
    child = server.start(words, tmp_path, fault=("wait_in", "runs.baseline", "score", str(flag)))
    child.wait_for(flag)
    child.send(signal.SIGKILL)
    child.wait()
    flag.unlink()
    assert not (tmp_path / "run" / "checkpoints").exists()
    assert RunResult.load(tmp_path / "run").status == "killed"
    child = server.run(["resume", "run"], tmp_path)
    assert child.code == 0, child.err
    assert "going on after" not in child.err
    _assert_same(tmp_path / "run", undisturbed(words).folder, "lora")


def test_a_worker_that_is_killed_ends_the_run_and_costs_nothing(server, undisturbed, fit_words, tmp_path):
    words, flag = fit_words("run", "--workers", "2"), tmp_path / "flag"
    child = server.start(words, tmp_path, fault=("wait_at_step", "4", str(flag)))
    child.wait_for(flag)
    (worker,) = Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()
    os.kill(int(worker), signal.SIGKILL)
    flag.unlink()
    assert child.wait() == 1
    assert f"Worker process {worker} was ended from outside" in child.err
    assert RunResult.load(tmp_path / "run").status == "failed"
    child = server.run(["resume", "run"], tmp_path)
    assert child.code == 0, child.err
    _assert_same(tmp_path / "run", undisturbed(words).folder, "lora")
