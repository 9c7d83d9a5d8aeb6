"""Files are what the safetensors library reads, bit for bit, and their digest is known without reading them again."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tunesmith import tensor_file
from tunesmith.model.safe_files import tensor_header

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.int32, torch.uint8, torch.bool]
DTYPES += [torch.int8, torch.int16, torch.float8_e4m3fn, torch.float8_e5m2, torch.complex64, torch.uint16]


def test_every_type_and_shape_is_read_back_bit_for_bit(tmp_path: Path) -> None:
    base = torch.arange(24.0).view(2, 3, 4)
    tensors = {str(dtype): base.to(dtype) for dtype in DTYPES}
    tensors |= {"scalar": torch.tensor(3.5), "empty": torch.zeros(0, 4), "transposed": base[0].t(), "part": base[:, 1:, ::2]}
    tensors |= {"naïve 名前": base[1], "parameter": torch.nn.Parameter(base.clone())}
    written = tensor_file.write_tensors(tmp_path / "a.safetensors", tensors)
    found = load_file(tmp_path / "a.safetensors")
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert found[name].shape == tensor.shape
        assert torch.equal(found[name].view(-1).view(torch.uint8), tensor.detach().reshape(-1).view(torch.uint8))
    content = (tmp_path / "a.safetensors").read_bytes()
    assert written == tensor_file.Written(hashlib.sha256(content).hexdigest(), len(content))
    assert tensor_file.num_bytes_of(tensors) == len(content)
    header = tensor_header(tmp_path / "a.safetensors")
    data_begins = 8 + int.from_bytes(content[:8], "little")
    for name, tensor in tensors.items():
        assert (data_begins + header[name].begin) % tensor.element_size() == 0


def test_no_tensors_at_all(tmp_path: Path) -> None:
    tensor_file.write_tensors(tmp_path / "a.safetensors", {})
    assert load_file(tmp_path / "a.safetensors") == {}


def test_large_contiguous_tensors_are_not_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensor = torch.zeros(3_000_000)
    begin, end = tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes
    written: list[bool] = []
    write = tensor_file.os.write

    def watch(descriptor: int, data: memoryview) -> int:
        if isinstance(data, memoryview):
            address = torch.frombuffer(data, dtype=torch.uint8).data_ptr()
            written.append(begin <= address < end)
        return write(descriptor, data)

    monkeypatch.setattr(tensor_file.os, "write", watch)
    tensor_file.write_tensors(tmp_path / "a.safetensors", {"t": tensor})
    assert written == [True] * 3


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = tensor_file.os.write
    monkeypatch.setattr(tensor_file.os, "write", lambda descriptor, data: write(descriptor, data[:7]))
    tensor_file.write_tensors(tmp_path / "a.safetensors", {"t": torch.arange(50.0)})
    assert torch.equal(load_file(tmp_path / "a.safetensors")["t"], torch.arange(50.0))


def test_json_keeps_every_bit() -> None:
    content = {"number": 0.1 + 0.2, "large": 2**63, "text": "é\ud800\n", "none": None}
    assert json.loads(tensor_file.json_bytes(content)) == content
    assert json.loads(tensor_file.json_bytes({"a": float("inf")})) == {"a": float("inf")}


def test_a_file_that_is_there_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("mine")
    with pytest.raises(FileExistsError):
        tensor_file.write_bytes(tmp_path / "a", [b"x"])
