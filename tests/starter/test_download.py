from __future__ import annotations

import hashlib
import shutil

import pytest

from starter_archives import pin_for, tar_bytes
from tunesmith.errors import DiskFull, Offline, TunesmithError
from tunesmith.starter import download


@pytest.mark.parametrize(
    ("log", "kind", "exit_code", "message"),
    [
        ("ERROR: No matching distribution found for toy==1.0", Offline, 75, "Are you offline?"),
        ("/usr/bin/python: No module named pip", TunesmithError, 1, "-m ensurepip"),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM", TunesmithError, 1, "Nothing of it was unpacked"),
        ("OSError: [Errno 28] No space left on device", DiskFull, 75, "Make room, or set TUNESMITH_CACHE"),
        ("", Offline, 75, "pip gave no reason"),
    ],
)
def test_what_pip_says_becomes_one_message(log, kind, exit_code, message):
    error = download._failure(pin_for(b"x"), log)
    assert type(error) is kind
    assert error.exit_code == exit_code
    assert message in str(error)
    assert "starter:toy" in str(error)


def test_too_little_room_is_said_before(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 98, 2))  # type: ignore[attr-defined]
    with pytest.raises(DiskFull, match=r"starter:toy needs 3 B in .*, which has 2 B left"):
        download.download(pin_for(b"x"), tmp_path, lambda _: None)


def test_no_code_of_a_source_archive_runs(tmp_path, monkeypatch):
    """Real pip, from a local folder: the archive's setup.py would leave a mark."""
    mark = tmp_path / "mark"
    setup = f"open({str(mark)!r}, 'w').close()\nfrom setuptools import setup\nsetup(name='toy', version='1.0')\n"
    content = tar_bytes({"toy-1.0/setup.py": setup.encode(), "toy-1.0/rows.json": b"[]"})
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "toy-1.0.tar.gz").write_bytes(content)
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "links"))
    folder = tmp_path / "folder"
    folder.mkdir()
    path = download.download(pin_for(content, archive="toy-1.0.tar.gz"), folder, lambda _: None)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == hashlib.sha256(content).hexdigest()
    assert not mark.exists()


def test_pip_itself_refuses_another_file(tmp_path, monkeypatch):
    content = tar_bytes({"toy-1.0/setup.py": b""})
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "toy-1.0.tar.gz").write_bytes(content)
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "links"))
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(TunesmithError, match="its SHA-256 is not 0000") as caught:
        download.download(pin_for(content, archive="toy-1.0.tar.gz", sha256="0" * 64), folder, lambda _: None)
    assert caught.value.exit_code == 1


def test_offline_is_exit_code_75(tmp_path):
    with pytest.raises(Offline, match=r"No matching distribution found for toy==1\.0") as caught:
        download.download(pin_for(b"x"), tmp_path, lambda _: None)
    assert caught.value.exit_code == 75
