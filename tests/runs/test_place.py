from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import NoReturn

import pytest
from safetensors import SafetensorError

from tunesmith.checkpoint.lock import RunLock
from tunesmith.errors import DataError, DiskFull, RunError, TunesmithError
from tunesmith.runs.place import Place


def _end(error: BaseException, *files: Path) -> NoReturn:
    """Leave these files, then fail."""
    for path in files:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    raise error


def test_wrong_input_leaves_nothing_behind(tmp_path):
    with pytest.raises(DataError), Place(tmp_path / "runs" / "a").claim():
        _end(DataError("no"), tmp_path / "runs/a/run.json", tmp_path / "runs/a/checkpoints/x")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_was_there_stays(tmp_path):
    with pytest.raises(DataError), Place(tmp_path).claim():
        raise DataError("no")
    assert tmp_path.is_dir()
    assert list(tmp_path.iterdir()) == []


def test_other_runs_beside_it_stay(tmp_path):
    with pytest.raises(DiskFull), Place(tmp_path / "runs" / "a").claim():
        _end(DiskFull("no"), tmp_path / "runs/b/run.json")
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["b"]


@pytest.mark.parametrize("error", [TunesmithError("no"), KeyboardInterrupt(), MemoryError()])
def test_a_run_that_may_go_on_stays(tmp_path, error):
    with pytest.raises(type(error)), Place(tmp_path / "a").claim():
        _end(error, tmp_path / "a/run.json")
    assert (tmp_path / "a" / "run.json").exists()


def test_a_run_without_a_record_goes(tmp_path):
    with pytest.raises(KeyboardInterrupt), Place(tmp_path / "runs" / "a").claim():
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_what_was_trained_stays(tmp_path):
    with pytest.raises(DiskFull), Place(tmp_path / "a").claim():
        _end(DiskFull("no"), tmp_path / "a/metrics.jsonl")
    assert (tmp_path / "a" / "metrics.jsonl").exists()


def test_a_folder_of_somebody_else(tmp_path):
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(RunError, match=r"is not empty \(letter.txt\)"):
        Place(tmp_path).require_new()
    with pytest.raises(RunError, match="is not empty"), Place(tmp_path).claim():
        pytest.fail("claimed")
    assert (tmp_path / "letter.txt").read_text() == "dear"


def test_what_a_process_killed_at_once_leaves_is_no_hindrance(tmp_path):
    with RunLock(tmp_path):
        pass
    (tmp_path / ".run.json.tmp").write_text("{")
    with Place(tmp_path).claim():
        pass


def test_a_folder_in_use(tmp_path):
    with RunLock(tmp_path), pytest.raises(RunError, match="in use"), Place(tmp_path).claim():
        pytest.fail("claimed")


def test_a_run_that_is_there(tmp_path):
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(RunError, match="holds a run already.*tunesmith resume"):
        Place(tmp_path).require_new()


def test_a_file_in_its_place(tmp_path):
    (tmp_path / "a").write_text("")
    for folder in (tmp_path / "a", tmp_path / "a" / "b"):
        with pytest.raises(RunError, match="cannot be made: Not a directory"):
            Place(folder).require_new()


def test_no_permission(tmp_path, monkeypatch):
    def refuse(self, **_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with (
        pytest.raises(RunError, match="cannot be made: Permission denied. Choose another --out"),
        Place(tmp_path / "a").claim(),
    ):
        pytest.fail("claimed")


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "full"), OSError(errno.EFBIG, "large"), SafetensorError("I/O (os error 28)")]
)
def test_a_full_disk_is_said(tmp_path, error):
    with (
        pytest.raises(DiskFull, match="Nothing was trained yet: make room and start again"),
        Place(tmp_path).disk_errors_said(),
    ):
        raise error
    (tmp_path / "metrics.jsonl").touch()
    with pytest.raises(DiskFull, match="make room, then go on with: tunesmith resume"), Place(tmp_path).disk_errors_said():
        raise error


@pytest.mark.parametrize("error", [OSError(errno.EIO, "broken"), SafetensorError("header")])
def test_other_errors_are_not_taken_for_a_full_disk(tmp_path, error):
    with pytest.raises(type(error)), Place(tmp_path).disk_errors_said():
        raise error
