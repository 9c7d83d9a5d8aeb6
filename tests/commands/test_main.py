from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys

import pytest

from tunesmith import errors, registry
from tunesmith.command import Command
from tunesmith.commands import _main, _output


@pytest.mark.parametrize("flag", ["--help", "-h", "help"])
def test_help_lists_every_command_with_a_line(tunesmith_run, flag):
    outcome = tunesmith_run(flag)
    assert outcome.code == 0
    for name in registry.names(_main.PACKAGE):
        line = next(line for line in outcome.out.splitlines() if line.startswith(f"  {name} "))
        assert len(line.split()) > 3


def test_no_command_shows_the_help_and_is_wrong_usage(tunesmith_run):
    outcome = tunesmith_run()
    assert outcome.code == 2
    assert "usage: tunesmith COMMAND" in outcome.out


def test_version(tunesmith_run):
    assert tunesmith_run("--version").out.startswith("tunesmith 0.")


@pytest.mark.parametrize("name", registry.names(_main.PACKAGE))
def test_every_command_keeps_the_contract(name):
    kind = registry.find(_main.PACKAGE, name, Command)
    assert kind.name == name
    assert kind.example.startswith(f"tunesmith {name}")
    assert kind.__doc__


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.TunesmithError("went wrong"), 1),
        (errors.InputError("went wrong"), 2),
        (errors.Offline("went wrong"), 75),
        (errors.DiskFull("went wrong"), 75),
        (errors.Interrupted("went wrong", 143), 143),
        (errors.Interrupted("went wrong", 130), 130),
        (ValueError("went wrong"), 1),
        (OSError("went wrong"), 1),
    ],
)
def test_an_error_is_one_message_and_its_exit_code(tunesmith_run, engine, saved_run, error, code):
    def fail(*_):
        raise error

    engine("resume", resume=fail)
    outcome = tunesmith_run("resume", "first", "--json")
    assert outcome.code == code
    assert "went wrong" in outcome.err
    assert "Traceback" not in outcome.err
    assert json.loads(outcome.out)["exit_code"] == code
    assert tunesmith_run("resume", "first").out == ""


def test_debug_shows_where(tunesmith_run, engine, saved_run):
    def fail(*_):
        raise errors.InputError("went wrong")

    engine("resume", resume=fail)
    with pytest.raises(errors.InputError, match="went wrong"):
        tunesmith_run("resume", "first", "--debug")


def test_ctrl_c(tunesmith_run, engine, saved_run):
    def stop(*_):
        raise KeyboardInterrupt

    engine("resume", resume=stop)
    outcome = tunesmith_run("resume", "first")
    assert outcome.code == 130
    assert "Interrupted." in outcome.err


def test_sigterm_unwinds_and_is_one_line(tunesmith_run, engine, saved_run):
    cleaned = []

    def stop(*_):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            cleaned.append(True)

    before = signal.getsignal(signal.SIGTERM)
    engine("resume", resume=stop)
    outcome = tunesmith_run("resume", "first")
    assert (outcome.code, outcome.err) == (143, "tunesmith: Stopped by SIGTERM.\n")
    assert cleaned
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_closed_pipe_is_no_error():
    command = [sys.executable, "-m", "tunesmith", "fit", "--help"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode in (0, -signal.SIGPIPE)


def test_control_characters_do_not_reach_the_terminal(tunesmith_run):
    outcome = tunesmith_run("show", "evil\x1b[2Jname")
    assert "\x1b" not in outcome.err
    assert "evil" in outcome.err


def test_square_brackets_are_not_markup(tunesmith_run):
    assert "[red]x[/red]" in tunesmith_run("show", "[red]x[/red]").err


def test_bytes_that_are_no_text_are_read_as_question_marks(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9\n"), encoding="utf-8"))
    _output.accept_every_character()
    assert input() == "caf\N{REPLACEMENT CHARACTER}"
    _output.accept_every_character()  # of what was read already nothing can be changed


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_any_encoding_of_the_terminal(encoding):
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    command = [sys.executable, "-m", "tunesmith", "show"]
    done = subprocess.run([*command, "ä"], env=environment, capture_output=True, timeout=60, check=False)
    assert done.returncode == 2
    assert b"There is no run folder" in done.stderr
    assert b"UnicodeEncodeError" not in done.stderr
    done = subprocess.run(command, env=environment, capture_output=True, timeout=60, check=False)
    assert b"tunesmith: Missing: RUN." in done.stderr
