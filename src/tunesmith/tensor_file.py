"""Writes safetensors and JSON files, and knows their SHA-256 when the last byte is out: no file is read again.

Tensors go to the disk from where they lie; only one that is not contiguous, or not in main memory, is copied, and
then alone.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

_CHUNK_BYTES = 1 << 22
"""Small enough that a chunk is still in the processor's cache when it is written after it was hashed."""
_NAMES = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int16: "I16",
    torch.uint16: "U16",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int32: "I32",
    torch.uint32: "U32",
    torch.float32: "F32",
    torch.int64: "I64",
    torch.uint64: "U64",
    torch.float64: "F64",
    torch.complex64: "C64",
}


@dataclass(frozen=True)
class Written:
    """What was written to one file."""

    sha256: str
    num_bytes: int


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> Written:
    """Write a safetensors file and flush it to the disk.

    Raises:
        OSError: If the disk is full or the file cannot be written.
    """
    names = _order(tensors)
    return write_bytes(path, _pieces([_header(tensors, names)], (tensors[name] for name in names)))


def json_bytes(content: Mapping[str, object]) -> bytes:
    """The content of a JSON file, in ASCII; numbers keep every bit, also those that are not finite."""
    return json.dumps(content, indent=1).encode("ascii") + b"\n"


def write_bytes(path: Path, pieces: Iterable[bytes | memoryview]) -> Written:
    """Write a new file from pieces and flush it to the disk."""
    digest, num_bytes = hashlib.sha256(), 0
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        for piece in pieces:
            for start in range(0, len(piece), _CHUNK_BYTES):
                chunk = piece[start : start + _CHUNK_BYTES]
                digest.update(chunk)
                num_bytes += len(chunk)
                while len(chunk):
                    chunk = chunk[os.write(descriptor, chunk) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return Written(digest.hexdigest(), num_bytes)


def num_bytes_of(tensors: Mapping[str, Tensor]) -> int:
    """Size of the file that `write_tensors` would write."""
    return len(_header(tensors, _order(tensors))) + sum(tensor.nbytes for tensor in tensors.values())


def _order(tensors: Mapping[str, Tensor]) -> list[str]:
    """Wide types first, so that every tensor begins at a multiple of its item's size."""
    return sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))


def _header(tensors: Mapping[str, Tensor], names: list[str]) -> bytes:
    """The length of the JSON header in 8 bytes, and the header, filled with blanks to a multiple of 8."""
    table: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in names:
        tensor = tensors[name]
        begin, end = end, end + tensor.nbytes
        table[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _pieces(first: list[bytes], tensors: Iterable[Tensor]) -> Iterator[bytes | memoryview]:
    """The bytes of the file, one tensor at a time."""
    yield from first
    for tensor in tensors:
        if tensor.numel():
            yield tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data
