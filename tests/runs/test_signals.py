"""A signal ends a run at once where nothing is lost by it, and after the step where something would be."""

from __future__ import annotations

import os
import signal
import time

import pytest

from tunesmith.errors import Interrupted
from tunesmith.reports.result import RunResult
from tunesmith.runs.signals import Signals, Stopped

ADAPTER = "adapter/adapter_model.safetensors"


def _stop(number: signal.Signals) -> None:
    """Send a signal to this process, and wait for longer than it should take."""
    os.kill(os.getpid(), number)
    time.sleep(5)
    pytest.fail("it went on")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_block_at_once(number, code):
    with pytest.raises(Interrupted, match=f"Stopped by {number.name}; all is well") as stop, Signals("all is well."):
        _stop(number)
    assert stop.value.exit_code == code


def test_what_is_to_be_finished_is_finished():
    reasons = []

    def work(signals: Signals) -> None:
        reasons.append(signals.reason())
        os.kill(os.getpid(), signal.SIGTERM)
        reasons.append(signals.reason())

    with pytest.raises(Interrupted), Signals("") as signals, signals.finishing():
        work(signals)
    assert reasons == [None, "SIGTERM"]


def test_a_part_of_it_may_be_given_up():
    def work(signals: Signals) -> None:
        with pytest.raises(Stopped), signals.at_once():
            _stop(signal.SIGINT)
        with pytest.raises(Stopped), signals.at_once():
            pytest.fail("a signal of before stops it, too")

    with pytest.raises(Interrupted), Signals("") as signals, signals.finishing():
        work(signals)


def test_the_handlers_of_before_come_back():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with Signals(""):
        assert signal.getsignal(signal.SIGINT) not in before
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("moment", [("runs.session", "prepare"), ("runs.fit", "record")], ids=["reading", "recording"])
def test_before_there_is_a_folder_nothing_is_left(server, fit_words, tmp_path, moment, number, code):
    flag = tmp_path / "flag"
    child = server.start(fit_words("new/run"), tmp_path, fault=("wait_in", *moment, str(flag)))
    child.wait_for(flag)
    child.send(number)
    assert child.wait() == code
    assert child.err == f"tunesmith: Stopped by {number.name}; nothing was begun.\n"
    assert not (tmp_path / "new").exists()


@pytest.fixture(scope="module")
def undisturbed(server, fit_words, tmp_path_factory):
    """The run to compare with."""
    folder = tmp_path_factory.mktemp("undisturbed")
    assert server.run(fit_words("run"), folder).code == 0
    return folder / "run"


@pytest.mark.parametrize(
    ("moment", "steps"),
    [
        (("model.load", "load"), 0),
        (("runs.baseline", "score"), 0),
        (("runs.keeper", "score"), 3),
        (("runs.outcome", "score"), 12),
        (("checkpoint.adapter", "save"), 12),
        (("runs.fit", "write_report"), 12),
    ],
    ids=["loading", "measuring the base", "evaluating", "measuring the outcome", "saving", "reporting"],
)
def test_it_stops_at_once_where_nothing_is_lost(server, fit_words, undisturbed, tmp_path, moment, steps):
    flag = tmp_path / "flag"
    child = server.start(fit_words("run"), tmp_path, fault=("wait_in", *moment, str(flag)))
    child.wait_for(flag)
    child.send(signal.SIGTERM)
    assert child.wait() == 143
    assert flag.exists(), "it was not waited for"
    assert child.err == "tunesmith: Stopped by SIGTERM; everything is saved. Go on with: tunesmith resume run\n"
    result = RunResult.load(tmp_path / "run")
    assert (result.status, result.error) == ("interrupted", None)
    assert (0 if result.progress is None else result.progress.steps) == steps
    child = server.run(["resume", "run"], tmp_path)
    assert child.code == 0, child.err
    assert (f"going on after step {steps}" in child.err) == bool(steps)
    assert (tmp_path / "run" / ADAPTER).read_bytes() == (undisturbed / ADAPTER).read_bytes()
    whole, result = RunResult.load(undisturbed), RunResult.load(tmp_path / "run")
    assert (result.status, result.stages, result.retention) == ("finished", whole.stages, whole.retention)
    assert _evaluations(tmp_path / "run") == _evaluations(undisturbed)


def _evaluations(folder) -> list[str]:
    return [line for line in (folder / "metrics.jsonl").read_text().splitlines() if '"evaluation"' in line]


def test_resuming_can_be_stopped_while_reading(server, fit_words, tmp_path):
    flag = tmp_path / "flag"
    for words, moment in ((fit_words("run"), ("runs.baseline", "score")), (["resume", "run"], ("runs.session", "prepare"))):
        child = server.start(words, tmp_path, fault=("wait_in", *moment, str(flag)))
        child.wait_for(flag)
        child.send(signal.SIGTERM)
        assert child.wait() == 143
        assert child.err.endswith("everything is saved. Go on with: tunesmith resume run\n")
        flag.unlink()
    assert RunResult.load(tmp_path / "run").status == "interrupted"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_the_step_is_finished_and_saved(server, fit_words, tmp_path, number, code):
    flag = tmp_path / "flag"
    words = fit_words("run", "--checkpoint-every-seconds", "1000")
    words[words.index("--checkpoint-every-steps") : words.index("--checkpoint-every-steps") + 2] = []
    child = server.start(words, tmp_path, fault=("wait_at_step", "2", str(flag)))
    child.wait_for(flag)
    child.send(number)
    flag.unlink()
    assert child.wait() == code
    assert child.err.endswith(f"{number.name}; everything is saved. Go on with: tunesmith resume run\n")
    assert child.err.count("\n") == 1
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000002"]
    result = RunResult.load(tmp_path / "run")
    assert (result.status, result.error) == ("interrupted", None)
    assert result.progress is not None
    assert result.progress.steps == 2
    child = server.run(["resume", "run"], tmp_path)
    assert child.code == 0, child.err
    assert "going on after step 2" in child.err
    assert RunResult.load(tmp_path / "run").status == "finished"


def test_a_second_signal_ends_it_at_once(server, fit_words, tmp_path):
    flag = tmp_path / "flag"
    child = server.start(fit_words("run"), tmp_path, fault=("wait_at_step", "2", str(flag)))
    child.wait_for(flag)
    child.send(signal.SIGTERM)
    child.send(signal.SIGINT)
    assert child.wait() in (130, 143)
    assert flag.exists(), "the step was not waited for"


def test_a_run_at_work_is_left_alone(server, fit_words, tmp_path):
    flag = tmp_path / "flag"
    first = server.start(fit_words("run"), tmp_path, fault=("wait_at_step", "2", str(flag)))
    first.wait_for(flag)
    record = (tmp_path / "run" / "run.json").read_bytes()
    for words, message in (
        (["resume", "run"], f"run is in use by process {first.pid} on "),
        (fit_words("run"), "run holds a run already."),
        (["chat", "run", "--prompt", "x", "--quiet"], "run is running, so it has no tuned model yet."),
    ):
        child = server.run(words, tmp_path)
        assert child.code == 2
        assert message in child.err
        assert child.err.count("\n") == 1
    assert (tmp_path / "run" / "run.json").read_bytes() == record
    flag.unlink()
    assert first.wait() == 0, first.err
