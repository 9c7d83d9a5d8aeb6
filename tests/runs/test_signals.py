from __future__ import annotations

import os
import signal

import pytest

from tunesmith.errors import Interrupted
from tunesmith.reports.result import RunResult
from tunesmith.runs.signals import Signals


def test_a_signal_is_remembered_not_obeyed(tmp_path):
    with Signals() as signals:
        signals.raise_if_stopped(tmp_path)
        assert signals.reason() is None
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.reason() == "SIGTERM"
        with pytest.raises(Interrupted, match="everything is saved. Go on with: tunesmith resume") as stop:
            signals.raise_if_stopped(tmp_path)
    assert stop.value.exit_code == 143


def test_the_handlers_of_before_come_back():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with Signals():
        assert signal.getsignal(signal.SIGINT) not in before
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


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
