"""After a power cut at any point, with any loss of what was not flushed, an old or the new checkpoint loads."""

from __future__ import annotations

import errno
import importlib.util
import os
import random
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from tunesmith import durable
from tunesmith.checkpoint import folder
from tunesmith.errors import RunError


def _power_cuts() -> ModuleType:
    """The neighbour file; this folder is no package."""
    spec = importlib.util.spec_from_file_location("power_cuts", Path(__file__).with_name("power_cuts.py"))
    assert spec
    assert spec.loader
    module = sys.modules["power_cuts"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_whatever_a_power_cut_leaves_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cuts = _power_cuts()
    recorder = cuts.Recorder(tmp_path / "live")
    recorder.root.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        recorder.install(patch)
        for step in (1, 2, 2, 3):
            folder.write(recorder.root / "checkpoints", step, {"trained": {"a": torch.full((5,), float(step))}}, {"step": step})
            recorder.acts.append(cuts.Act("done", data=bytes([step])))
    monkeypatch.setattr(durable.os, "fsync", lambda _: None)  # the states are played back on a disk that keeps its power
    num_states = 0
    for length, lost, write_out in cuts.states(recorder.acts, random.Random(0)):
        write_out(tmp_path / "state")
        saved = max((act.data[0] for act in recorder.acts[:length] if act.kind == "done"), default=0)
        found = folder.latest(tmp_path / "state" / "checkpoints")
        where = f"after {length} acts, lost: {lost}"
        assert (found.step if found else 0) in (saved, saved + 1), where
        if found:
            assert found.tensors["trained"]["a"].tolist() == [float(found.step)] * 5, where
            assert found.state == {"step": found.step}
        num_states += 1
    assert num_states >= 500


def test_a_file_is_the_old_or_the_new_one_after_a_power_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cuts = _power_cuts()
    recorder = cuts.Recorder(tmp_path / "live")
    recorder.root.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        recorder.install(patch)
        for text in ("old", "the new one"):
            durable.write_file(recorder.root / "a.json", text)
            recorder.acts.append(cuts.Act("done", data=text.encode()))
    num_states = 0
    for length, lost, write_out in cuts.states(recorder.acts, random.Random(0)):
        write_out(tmp_path / "state")
        done = [act.data.decode() for act in recorder.acts[:length] if act.kind == "done"]
        place = tmp_path / "state" / "a.json"
        found = place.read_text() if place.exists() else None
        assert found in ({None, "old"} if not done else {done[-1], "the new one"}), f"after {length} acts, lost: {lost}"
        num_states += 1
    assert num_states >= 80


def test_a_file_whose_writing_fails_stays_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    durable.write_file(tmp_path / "a", "old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        durable.write_file(tmp_path / "a", "new")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a", "old")]


def test_a_folder_whose_writing_fails_never_appears(tmp_path: Path) -> None:
    def fail() -> None:
        with durable.whole_folder(tmp_path / "a", 10) as place:
            (place / "file").write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    for name in ("old", "new"):
        with durable.whole_folder(tmp_path / "a", 10) as place:
            (place / name).write_text("x")
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "new"]


def test_no_permission_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunError, match="cannot be written"), durable.whole_folder(tmp_path / "file" / "a", 10):
        pass
