from __future__ import annotations

import io
import json
import tarfile

import pytest

from starter_archives import RATINGS, pin_for, tar_bytes, zip_bytes
from tunesmith.errors import TunesmithError
from tunesmith.starter.archive import confined, extract, labelled, verify


def _extracted(tmp_path, content: bytes, **changes: object) -> dict[str, bytes]:
    pin = pin_for(content, **changes)
    archive, folder = tmp_path / pin.archive, tmp_path / "out"
    archive.write_bytes(content)
    folder.mkdir()
    extract(archive, pin, folder)
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_only_the_named_members_of_a_wheel(tmp_path):
    content = zip_bytes({"toy/model/config.json": b"{}", "toy/cli.py": b"evil", "../outside": b"evil"})
    assert _extracted(tmp_path, content) == {"model/config.json": b"{}"}


def test_only_the_named_members_of_a_source_archive(tmp_path):
    content = tar_bytes({"toy-1.0/setup.py": b"evil", "toy-1.0/data/rows.json": b"[]"})
    changes = {"archive": "toy-1.0.tar.gz", "members": {"toy-1.0/data/rows.json": "rows.json"}}
    assert _extracted(tmp_path, content, **changes) == {"rows.json": b"[]"}


def test_a_tar_file_in_a_zip_file_with_ratings(tmp_path):
    content = zip_bytes({"toy/inner.tar.gz": tar_bytes({"a/ratings.txt": RATINGS.encode(), "a/other.txt": b"x"})})
    members = {"a/ratings.txt": "rows.jsonl"}
    changes = {"archive": "toy-1.0.zip", "inner_archive": "toy/inner.tar.gz", "convert": "ratings", "members": members}
    rows = _extracted(tmp_path, content, **changes)["rows.jsonl"].decode().split("\n")
    assert [json.loads(row) for row in rows if row] == [
        {"text": "A splendid film.", "label": "positive"},
        {"text": "Dull,\u2028 and long.", "label": "negative"},
        {"text": "Fine.", "label": "positive"},
    ]


def test_a_rating_of_zero_has_no_label():
    assert labelled(b"1\t0.0\tA film.\n") == b""


def test_a_link_is_refused(tmp_path):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        info = tarfile.TarInfo("toy-1.0/rows.json")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(info)
    with pytest.raises(TunesmithError, match="is not a plain file"):
        _extracted(tmp_path, buffer.getvalue(), archive="toy-1.0.tar.gz", members={"toy-1.0/rows.json": "rows.json"})


@pytest.mark.parametrize("target", ["../outside", "/etc/outside", "model/../../outside", "link/outside"])
def test_nothing_is_written_outside(tmp_path, target):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path)
    with pytest.raises(TunesmithError, match="lies outside"):
        confined(folder, target)


def test_another_file_is_refused(tmp_path):
    pin = pin_for(b"the pinned one")
    path = tmp_path / pin.archive
    path.write_bytes(b"the pinned onf")
    with pytest.raises(TunesmithError, match=f"expected SHA-256 {pin.sha256}, found") as caught:
        verify(path, pin)
    assert caught.value.exit_code == 1
