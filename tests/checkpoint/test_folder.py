"""A checkpoint is whole or absent: kill -9, power cuts, full disks and damaged files leave one that verifies, and are seen."""

from __future__ import annotations

import errno
import json
import os
import random
import resource
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tunesmith import durable, tensor_file
from tunesmith.checkpoint import folder
from tunesmith.errors import DiskFull, RunError


def _content(step: int, size: int = 300) -> tuple[dict[str, dict[str, Tensor]], dict[str, object]]:
    """Tensors and state that show which step they are of."""
    trained = {"a": torch.full((size,), float(step)), "b": torch.arange(6.0).view(2, 3) + step}
    optimizer = {"moment": torch.full((size // 2,), step, dtype=torch.bfloat16), "count": torch.tensor(step)}
    return {"trained": trained, "optimizer": optimizer}, {"step": step, "seed": 7, "loss": float("nan")}


def _save(parent: Path, step: int, *, best_step: int | None = None, size: int = 300) -> Path:
    tensors, state = _content(step, size)
    return folder.write(parent, step, tensors, state, best_step=best_step)


def _is_genuine(found: folder.Loaded, size: int = 300) -> bool:
    tensors, state = _content(found.step, size)
    same = all(torch.equal(found.tensors[file][name], tensor) for file in tensors for name, tensor in tensors[file].items())
    return same and found.state["step"] == state["step"]


def test_round_trip(tmp_path: Path) -> None:
    assert folder.latest(tmp_path / "none") is None
    path = _save(tmp_path / "new" / "checkpoints", 5)
    found = folder.latest(path.parent)
    assert found is not None
    assert (found.step, found.path, found.notes) == (5, path, [])
    assert _is_genuine(found)
    assert found.state["loss"] != found.state["loss"]
    assert found.tensors["optimizer"]["moment"].dtype == torch.bfloat16
    assert found.tensors["optimizer"]["count"].shape == ()


def test_keeps_the_last_two_and_the_best(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4, 5):
        _save(tmp_path, step, best_step=2 if step > 1 else None)
    assert folder.steps(tmp_path) == [2, 4, 5]
    assert _is_genuine(folder.load(tmp_path, 2))
    with pytest.raises(RunError, match="no MANIFEST"):
        folder.load(tmp_path, 3)


def test_a_checkpoint_of_the_same_step_is_replaced(tmp_path: Path) -> None:
    _save(tmp_path, 1)
    tensors, _ = _content(1)
    folder.write(tmp_path, 1, tensors, {"step": 1, "second": True})
    found = folder.latest(tmp_path)
    assert found is not None
    assert found.state["second"] is True
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]


def test_a_crash_between_the_two_renames_loses_nothing(tmp_path: Path) -> None:
    path = _save(tmp_path, 1)
    path.rename(path.with_name("step-00000001.replaced-123"))
    found = folder.latest(tmp_path)
    assert found is not None
    assert _is_genuine(found)


def test_leftovers_are_removed_and_said(tmp_path: Path) -> None:
    _save(tmp_path, 1)
    half = tmp_path / "step-00000002.tmp-99"
    half.mkdir()
    (half / "trained.safetensors").write_bytes(b"half")
    untouched = folder.latest(tmp_path, repair=False)
    assert untouched is not None
    assert half.exists()
    found = folder.latest(tmp_path)
    assert found is not None
    assert not half.exists()
    assert found.notes == ["step-00000002.tmp-99 was never finished; removed."]


def test_tensors_of_a_loaded_checkpoint_can_be_changed_and_outlive_it(tmp_path: Path) -> None:
    path = _save(tmp_path, 1)
    found = folder.load(tmp_path, 1)
    shutil.rmtree(path)
    found.tensors["trained"]["a"].add_(1)
    assert found.tensors["trained"]["a"].sum() == 600


# --- kill -9 ----------------------------------------------------------------------------------------------------


def test_killed_at_any_moment_the_latest_verifies(tmp_path: Path) -> None:
    _kill_many_times(tmp_path, 20)


@pytest.mark.soak
def test_killed_three_hundred_times(tmp_path: Path) -> None:
    _kill_many_times(tmp_path, 300)


def _kill_many_times(parent: Path, num_kills: int) -> None:
    size, moments, step, interrupted = 300_000, random.Random(0), 0, 0
    for _ in range(num_kills):
        reached = _write_until_killed(parent, step, size, moments.uniform(0.01, 0.12))
        interrupted += any(parent.glob("*.tmp-*"))
        found = folder.latest(parent)
        assert found is not None or reached == 0
        if found:
            assert _is_genuine(found, size)
            assert reached <= found.step <= reached + 1, f"step {reached} was saved, {found.step} was found: {found.notes}"
            assert not any("damaged" in note for note in found.notes)
            step = found.step
        assert not list(parent.glob("*.tmp-*"))
    assert step > 2
    assert interrupted > num_kills / 4, "too few kills hit a half-written checkpoint to prove anything"


def _write_until_killed(parent: Path, step: int, size: int, seconds: float) -> int:
    """Save one checkpoint after another in a process that is killed; the last step that it reported as saved."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        while True:
            step += 1
            _save(parent, step, size=size)
            os.write(writer, step.to_bytes(8, "little"))
    os.close(writer)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with os.fdopen(reader, "rb") as file:
        reported = file.read()
    return int.from_bytes(reported[-8:], "little") if reported else step


# --- a full disk ------------------------------------------------------------------------------------------------


def _total_bytes(parent: Path) -> int:
    return sum(path.stat().st_size for path in (parent / "step-00000001").iterdir())


def _failing_write(allowed: int, number: int) -> Callable[[int, memoryview], int]:
    """`os.write` on a disk that takes `allowed` more bytes."""
    room, write = [allowed], os.write

    def fail(descriptor: int, data: memoryview) -> int:
        if room[0] == 0:
            raise OSError(number, os.strerror(number))
        taken = write(descriptor, data[: room[0]])
        room[0] -= taken
        return taken

    return fail


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fills_up_at_any_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    _save(tmp_path, 1)
    total, random_offsets = _total_bytes(tmp_path), random.Random(number)
    for offset in [0, 1, 8, total - 1, *(random_offsets.randrange(total) for _ in range(50))]:
        with monkeypatch.context() as patch:
            patch.setattr(tensor_file.os, "write", _failing_write(offset, number))
            with pytest.raises(DiskFull, match=r"step-00000002: it needs .* bytes\), .* bytes\) are free") as caught:
                _save(tmp_path, 2)
        assert caught.value.exit_code == 75
        assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    found = folder.latest(tmp_path)
    assert found is not None
    assert _is_genuine(found)


def test_too_little_room_is_seen_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _save(tmp_path, 1)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(durable.shutil, "disk_usage", lambda _: usage._replace(free=1_001_000))
    monkeypatch.setattr(tensor_file.os, "write", lambda *_: pytest.fail("something was written"))
    with pytest.raises(DiskFull, match=r"\(1001000 bytes\) are free"):
        _save(tmp_path, 2)


def test_a_limit_of_the_system_on_file_sizes(tmp_path: Path) -> None:
    _save(tmp_path, 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(DiskFull, match="step-00000002"):
            _save(tmp_path, 2, size=100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


@pytest.mark.parametrize("call", ["fsync", "rename", "mkdir"])
def test_other_failures_are_told_and_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    _save(tmp_path, 1)

    def fail(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(RunError, match="step-00000002 cannot be written: Permission denied"):
        _save(tmp_path, 2)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


# --- damaged files ----------------------------------------------------------------------------------------------


def _damage(parent: Path, chance: random.Random) -> str:
    """Damage the newest of the checkpoints 1, 2, 3 in one way, and say how."""
    newest, other = parent / "step-00000003", parent / f"step-0000000{chance.choice((1, 2))}"
    path = chance.choice(sorted(newest.iterdir()))
    content = bytearray(path.read_bytes())
    kind = chance.choice(["flip", "flip", "flip", "truncate", "empty", "delete", "swap", "grow", "folders", "edit"])
    if kind == "flip":
        position = chance.randrange(len(content))
        content[position] ^= 1 << chance.randrange(8)
        path.write_bytes(content)
    elif kind == "truncate":
        path.write_bytes(content[: chance.randrange(len(content))])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "delete":
        path.unlink()
    elif kind == "swap":
        path.write_bytes((other / path.name).read_bytes())
    elif kind == "grow":
        path.write_bytes(content + chance.randbytes(chance.randrange(1, 20)))
    elif kind == "folders":
        shutil.rmtree(newest)
        shutil.copytree(other, newest)
    else:
        path = newest / "state.json"
        path.write_text(path.read_text().replace('"seed": 7', '"seed": 8'))
    return f"{kind} {path.name}"


def test_two_hundred_damages_are_all_seen(tmp_path: Path) -> None:
    for step in (1, 2):
        _save(tmp_path / "good", step)
    _save(tmp_path / "good", 3, best_step=1)
    chance = random.Random(1)
    for number in range(200):
        parent = tmp_path / str(number)
        shutil.copytree(tmp_path / "good", parent)
        how = _damage(parent, chance)
        found = folder.latest(parent)
        assert found is not None, how
        assert found.step == 2, f"not seen: {how}"
        assert _is_genuine(found)
        assert (parent / "step-00000003.corrupt").is_dir()
        assert len(found.notes) == 1
        assert "is damaged" in found.notes[0], found.notes
        shutil.rmtree(parent)


def test_nothing_is_changed_for_a_reader_without_the_lock(tmp_path: Path) -> None:
    for step in (1, 2):
        _save(tmp_path, step)
    (tmp_path / "step-00000002" / "state.json").write_text("{}")
    found = folder.latest(tmp_path, repair=False)
    assert found is not None
    assert found.step == 1
    assert folder.steps(tmp_path) == [1, 2]


def test_all_damaged_means_none(tmp_path: Path) -> None:
    for _ in range(2):
        (_save(tmp_path, 1) / "MANIFEST.json").unlink()
        assert folder.latest(tmp_path) is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000001.corrupt", "step-00000001.corrupt-1"]


@pytest.mark.parametrize(
    "body",
    [
        '{"schema_version": 2, "step": 1, "files": {}}',
        '{"schema_version": 1, "step": 1, "files": {"../secret": {"sha256": "0", "bytes": 6}}}',
        '{"schema_version": 1, "step": 1, "files": {"secret": 5}}',
        '{"schema_version": 1, "step": 1, "files": []}',
        '{"step": 1}',
        "[]",
        "[" * 100_000,
    ],
    ids=lambda text: text[:60],
)
def test_a_forged_manifest_is_refused(body: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    path = _save(tmp_path, 1)
    (path / "secret").write_text("secret")
    (path / "MANIFEST.json").write_bytes(folder._signed(body.encode()))
    with pytest.raises(RunError, match="is damaged"):
        folder.load(tmp_path, 1)


def test_manifest_names_every_file_with_its_digest(tmp_path: Path) -> None:
    path = _save(tmp_path, 1)
    manifest = json.loads((path / "MANIFEST.json").read_text().rsplit("\n", 2)[0])
    assert manifest["files"].keys() | {"MANIFEST.json"} == {p.name for p in path.iterdir()}
    assert manifest["step"] == 1
