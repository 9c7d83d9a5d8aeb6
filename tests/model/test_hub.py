"""What the hub says, and what a user is told of it. The hub's library is replaced: tests have no network."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError

from tunesmith.errors import DiskFull, ModelError, Offline
from tunesmith.model import hub
from watching import Notes


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., str]], None]:
    """Put a function in the place of the library's."""
    return lambda function: monkeypatch.setattr(huggingface_hub, "snapshot_download", function)


def refused(kind: type[Exception]) -> Exception:
    return kind.__new__(kind, "no")  # to be made properly it wants a response of the library that is used underneath


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (refused(GatedRepoError), ModelError, "accepted its licence.*huggingface.co/meta/llama and sign in.*hf auth login"),
        (refused(RepositoryNotFoundError), ModelError, "the hub does not know it"),
        (LocalEntryNotFoundError("no"), Offline, "the hub cannot be reached"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), DiskFull, "no room for meta/llama.*HF_HOME"),
        (OSError(errno.EIO, os.strerror(errno.EIO)), Offline, "cannot be reached.*Input/output error"),
    ],
)
def test_what_goes_wrong(library, error: Exception, kind: type[Exception], message: str):
    def fail(*_: object, **__: object) -> str:
        raise error

    library(fail)
    with pytest.raises(kind, match=message):
        hub.snapshot("meta/llama", ["*.json"], Notes())


def test_bytes_that_arrive_are_told(library, capfd: pytest.CaptureFixture[str]):
    def fetch(*_: object, tqdm_class: Callable, **__: object) -> str:
        received, written = (tqdm_class(desc=text, total=0, initial=0, unit="B", unit_scale=True) for text in ("a", "b"))
        with tqdm_class(desc="Fetching 2 files", total=2) as files:
            for size in (100, 300):
                received.total += size
                written.total += size
                written.refresh()
            for size in (100, 150, 150):
                written.update(size)
                written.refresh()
            files.update(2)
        written.close()
        received.close()
        return "/there"

    library(fetch)
    notes = Notes()
    assert hub.snapshot("meta/llama", ["*.json"], notes) == Path("/there")
    assert notes.said == ["fetching meta/llama from the hub, once"]
    assert {p.phase for p in notes.seen} == {"fetching meta/llama"}
    assert (notes.seen[-1].done, notes.seen[-1].total, notes.seen[-1].unit) == (400, 400, "bytes")
    assert [p.done for p in notes.seen] == sorted(p.done for p in notes.seen)
    assert capfd.readouterr() == ("", "")


def test_what_is_there_already_is_not_worth_a_word(library):
    def find(*_: object, tqdm_class: Callable, **__: object) -> str:
        tqdm_class(desc="a", total=0, initial=0, unit="B").close()
        return "/there"

    library(find)
    notes = Notes()
    hub.snapshot("meta/llama", ["*.json"], notes)
    assert (notes.said, notes.seen) == ([], [])
