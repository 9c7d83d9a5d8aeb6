"""Which files the data are, and their bytes: found, checked, unpacked within limits, fingerprinted."""

from __future__ import annotations

import difflib
import gzip
import hashlib
import io
import os
import re
import stat
import zlib
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import BinaryIO, NamedTuple

from tunesmith.errors import DataError

KINDS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".txt": "txt",
}
READS = ".jsonl .json .csv .tsv .parquet .txt, also with .gz"
MAX_LINE_BYTES = 64 * 2**20
MAX_UNPACKED_BYTES = 256 * 2**20
"""A gzipped file may always unpack to this much ..."""
MAX_UNPACKED_RATIO = 200
"""... and beyond it to this many times its size; text packs 3 to 20 times, only bombs pack 1,000 times."""

_SIGNATURES = {
    b"PK\x03\x04": "a zip archive (an Excel file?)",
    b"\xd0\xcf\x11\xe0": "an old Excel or Word file",
    b"%PDF": "a PDF",
    b"\x89PNG": "a picture",
    b"\x80\x04\x95": "a Python pickle",
    b"\x80\x05\x95": "a Python pickle",
    b"\x7fELF": "a program",
    b"GGUF": "a model (GGUF)",
    b"PAR1": "a Parquet file",
    b"ARROW1": "an Arrow file",
    b"SQLite format 3": "a database",
    b"BZh": "a bzip2 archive",
    b"\xfd7zXZ": "an xz archive",
    b"\x28\xb5\x2f\xfd": "a zstd archive",
}
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_HELD_OUT = re.compile(r"(^|[-_.])(test|valid|validation|dev|eval|heldout)([-_.\d]|$)", re.IGNORECASE)
_TRAIN = re.compile(r"(^|[-_.])train(ing)?([-_.\d]|$)", re.IGNORECASE)
_ABOUT = ("readme", "license", "licence", "notice", "changelog", "copying", "citation")


class EmptyFile(DataError):
    """A data file has no byte in it."""


class Found(NamedTuple):
    """What paths name."""

    data: list[Path]
    """Files of one type."""
    about: list[Path]
    """Files of a folder that are about the data by their names (README, LICENSE and the like), and left out."""


def find_files(paths: Sequence[str]) -> Found:
    """The data files that `paths` name, folders searched; all of one type.

    Raises:
        DataError: If one is missing, is no data file, may not be read, or a folder holds no or mixed data files.
    """
    if not paths:
        raise DataError(f"No data were given. Name a file or folder ({READS}).")
    files, about = zip(*(_expand(_home_expanded(path), path) for path in paths), strict=True)
    found = Found(*(list(dict.fromkeys(chain.from_iterable(parts))) for parts in (files, about)))
    kinds = sorted({kind_of(file) for file in found.data})
    if len(kinds) > 1:
        raise DataError(f"The data are of several types: {', '.join('.' + kind for kind in kinds)}. Name files of one type.")
    return found


def _home_expanded(path: str) -> Path:
    """The path with `~` as the user's folder; one of an unknown user stays as it is, and is not found."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 (the method of Path raises for an unknown user)


def kind_of(file: Path) -> str:
    """The file type by its name: 'jsonl', 'json', 'csv', 'tsv', 'parquet' or 'txt'.

    Raises:
        DataError: If the name has another ending.
    """
    suffix = _unpacked_name(file).suffix
    if suffix in KINDS:
        return KINDS[suffix]
    near = difflib.get_close_matches(suffix, KINDS, n=1, cutoff=0.6)
    hint = f" Did you mean {near[0]}?" if near else ""
    raise DataError(f"{file} has the ending {suffix or '(none)'!r}, which is no known type of data.{hint} Known: {READS}.")


def _unpacked_name(file: Path) -> Path:
    """The file's name in small letters, without the ending of what is gzipped."""
    return Path(file.name.lower().removesuffix(".gz"))


def open_file(file: Path) -> BinaryIO:
    """The file's bytes, unpacked if they are gzipped (whatever the name says), with limits on what comes out.

    Raises:
        EmptyFile: If it is empty.
        DataError: If it is binary, UTF-16, damaged or may not be read.
    """
    try:
        raw = file.open("rb")
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}.") from None
    packed = raw.read(2) == b"\x1f\x8b"
    raw.seek(0)
    opened: BinaryIO = io.BufferedReader(_Unpacked(raw, file), 2**17) if packed else raw  # type: ignore[assignment]
    try:
        _refuse_other_than_text(opened, file)
    except DataError:
        opened.close()
        raise
    return opened


def read_whole(opened: BinaryIO, most_bytes: int) -> bytes | None:
    """Everything in the file, None if that is more than `most_bytes`."""
    parts, size = [], 0
    while part := opened.read(2**20):
        parts.append(part)
        size += len(part)
        if size > most_bytes:
            return None
    return b"".join(parts)


def lines_of(opened: BinaryIO, file: Path) -> Iterator[bytes]:
    """Lines with their ends, the first without its byte order mark.

    Raises:
        DataError: If a line is absurdly long.
    """
    first = opened.readline(MAX_LINE_BYTES + 1).removeprefix(b"\xef\xbb\xbf")
    number, line = 1, first
    while line:
        if len(line) > MAX_LINE_BYTES:
            raise DataError(
                f"{file.name} line {number:,} is longer than {MAX_LINE_BYTES // 2**20} MB. Is this file one row per line?"
            )
        yield line
        number, line = number + 1, opened.readline(MAX_LINE_BYTES + 1)


def fingerprint(files: Sequence[Path]) -> str:
    """SHA-256 over the bytes of the files, in order."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()


def _expand(path: Path, asked: str) -> Found:
    """The file itself, or the files in the folder."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise _missing(path, asked) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"{asked!r} cannot be read: {reason}.") from None
    if stat.S_ISREG(mode):
        kind_of(path)
        return Found([path], [])
    if not stat.S_ISDIR(mode):
        raise DataError(f"{asked} is neither a file nor a folder (a pipe or a device?). Save the data to a file first.")
    return _in_folder(path, asked)


def _in_folder(folder: Path, asked: str) -> Found:
    """Files of a folder and its folders, in order of their names; what is hidden is not looked at."""
    inside: list[Path] = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        inside += [Path(parent) / name for name in names if not name.startswith(".")]
    known = sorted(file for file in inside if _unpacked_name(file).suffix in KINDS and file.is_file())
    about = [file for file in known if _unpacked_name(file).stem in _ABOUT]
    files = [file for file in known if file not in about]
    if not files:
        raise DataError(f"The folder {asked} holds no data files ({len(inside):,} others). Data files end in {READS}.")
    held_out = [file for file in files if _HELD_OUT.search(file.stem)]
    train = [file for file in files if _TRAIN.search(file.stem)]
    if held_out and train:
        raise DataError(
            f"The folder {asked} holds {train[0].name} and {held_out[0].name}; training on both would spoil the held-out rows. "
            f"Give them apart: {train[0]} --eval {held_out[0]}"
        )
    return Found(files, about)


def _missing(path: Path, asked: str) -> DataError:
    """An error with the nearest file name beside it."""
    try:
        beside = [item.name for item in path.parent.iterdir()]
    except OSError:
        beside = []
    near = difflib.get_close_matches(path.name, beside, n=1, cutoff=0.6)
    hint = f" Did you mean {str(path.parent / near[0])!r}?" if near else ""
    return DataError(f"There is no file or folder {asked!r}.{hint}")


def _refuse_other_than_text(opened: BinaryIO, file: Path) -> None:
    """Look at the first bytes without moving on."""
    head = opened.peek(2**16)[: 2**16]  # type: ignore[attr-defined]
    if not head:
        raise EmptyFile(f"{file} is empty.")
    if kind_of(file) == "parquet":
        return
    if head.startswith(_UTF16):
        raise DataError(f"{file} is UTF-16 text, not UTF-8. Convert it: iconv -f UTF-16 -t UTF-8 {file.name} > new-{file.name}")
    what = next((what for signature, what in _SIGNATURES.items() if head.startswith(signature)), None)
    control = sum(head.count(byte) for byte in range(32) if byte not in b"\t\n\f\r\x1b")
    if what or control > max(8, len(head) // 50):
        raise DataError(f"{file} is {what or 'a binary file'}, not text as its name says. Data files: {READS}.")


class _Unpacked(io.RawIOBase):
    """The bytes inside a gzipped file, up to the limits."""

    def __init__(self, raw: BinaryIO, file: Path) -> None:
        self._inside = gzip.GzipFile(fileobj=raw)
        self._raw, self._file, self._count = raw, file, 0
        self._most = max(MAX_UNPACKED_BYTES, MAX_UNPACKED_RATIO * file.stat().st_size)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:  # type: ignore[no-untyped-def, override]
        """Fill `buffer` as far as there are bytes."""
        try:
            data = self._inside.read(len(buffer))
        except EOFError:
            raise DataError(
                f"{self._file} is cut off: the gzip data end after {self._count:,} bytes. Fetch it again."
            ) from None
        except (zlib.error, gzip.BadGzipFile) as error:
            raise DataError(
                f"{self._file} is damaged after {self._count:,} unpacked bytes ({error}). Fetch it again."
            ) from None
        self._count += len(data)
        if self._count > self._most:
            raise DataError(
                f"{self._file} unpacks to more than {self._most // 2**20} MB, over {MAX_UNPACKED_RATIO} times its size, as no "
                "data do. If it is right all the same, unpack it yourself: gunzip."
            )
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._inside.close()
            self._raw.close()
        super().close()
