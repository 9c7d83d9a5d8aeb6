"""A corpus of hostile and broken files: each is refused with a clear message, quickly, and runs nothing."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save, save_file

from tunesmith.errors import ModelError
from tunesmith.model import safe_files
from tunesmith.model.safe_files import read_config, read_json, read_tensors, tensor_header

F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def _file(folder: Path, header: object, data: bytes = b"", length: int | None = None) -> Path:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path = folder / "a.safetensors"
    path.write_bytes((len(raw) if length is None else length).to_bytes(8, "little") + raw + data)
    return path


def test_what_the_library_writes_is_read(tmp_path: Path) -> None:
    tensors = {
        "a": torch.randn(2, 3),
        "b": torch.tensor(1, dtype=torch.int64),
        "e": torch.zeros(0, 5),
        "h": torch.ones(3).half(),
    }
    save_file(tensors, tmp_path / "a.safetensors", metadata={"format": "pt"})
    header = tensor_header(tmp_path / "a.safetensors")
    assert {name: (facts.dtype, facts.shape) for name, facts in header.items()} == {
        "a": ("F32", (2, 3)),
        "b": ("I64", ()),
        "e": ("F32", (0, 5)),
        "h": ("F16", (3,)),
    }
    found = read_tensors(tmp_path / "a.safetensors")
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)
    assert read_tensors(tmp_path / "a.safetensors", ["b"]).keys() == {"b"}


BROKEN: dict[str, tuple[object, bytes, str]] = {
    "gap": ({"a": F32, "b": {**F32, "data_offsets": [12, 20]}}, bytes(20), "a gap or an overlap"),
    "gap at the start": ({"a": {**F32, "data_offsets": [4, 12]}}, bytes(12), "a gap or an overlap"),
    "overlap": ({"a": F32, "b": {**F32, "data_offsets": [4, 12]}}, bytes(12), "a gap or an overlap"),
    "same bytes twice": ({"a": F32, "b": F32}, bytes(8), "a gap or an overlap"),
    "trailing bytes": ({"a": F32}, bytes(9), "carries something else"),
    "cut off": ({"a": F32}, bytes(7), "cut off"),
    "backwards": ({"a": {**F32, "data_offsets": [8, 0]}}, bytes(8), "does not fill"),
    "shape too large": ({"a": {**F32, "shape": [3]}}, bytes(8), "does not fill"),
    "huge shape": ({"a": {**F32, "shape": [2**62, 2**62]}}, bytes(8), "does not fill"),
    "shape that overflows to fit": ({"a": {**F32, "shape": [2**63 + 2]}}, bytes(8), "impossible shape"),
    "negative shape": ({"a": {**F32, "shape": [-1, -2]}}, bytes(8), "impossible shape"),
    "shape of floats": ({"a": {**F32, "shape": [2.0]}}, bytes(8), "impossible shape"),
    "shape of booleans": ({"a": {**F32, "shape": [True, 2]}}, bytes(8), "impossible shape"),
    "shape is text": ({"a": {**F32, "shape": "2"}}, bytes(8), "impossible shape"),
    "too many dimensions": ({"a": {**F32, "shape": [1] * 40 + [2]}}, bytes(8), "impossible shape"),
    "negative offset": ({"a": {**F32, "data_offsets": [-8, 0]}}, bytes(8), "impossible"),
    "three offsets": ({"a": {**F32, "data_offsets": [0, 8, 8]}}, bytes(8), "impossible"),
    "unknown type": ({"a": {**F32, "dtype": "PICKLE"}}, bytes(8), "unknown type 'PICKLE'"),
    "type is a list": ({"a": {**F32, "dtype": ["F32"]}}, bytes(8), "unknown type"),
    "more keys": ({"a": {**F32, "run": "x"}}, bytes(8), "not described by"),
    "fewer keys": ({"a": {"dtype": "F32", "shape": [2]}}, bytes(8), "not described by"),
    "entry is text": ({"a": "F32"}, bytes(8), "not described by"),
    "metadata is text": ({"__metadata__": "x", "a": F32}, bytes(8), "metadata"),
    "metadata nested": ({"__metadata__": {"a": {"b": 1}}, "a": F32}, bytes(8), "metadata"),
    "header is a list": ([1, 2], b"", "JSON object is expected"),
    "header is not JSON": (b"\x80\x04cos\nsystem\n", b"", "not valid JSON"),
    "header is not UTF-8": (b'{"\xff": 1}', b"", "not valid JSON"),
    "header is UTF-16": ("{}".encode("utf-16"), b"", "not valid JSON"),
    "nested without end": (b"[" * 100_000, b"", "not valid JSON"),
    "endless number": (b'{"a": ' + b"9" * 5000 + b"}", b"", "not valid JSON"),
    "duplicate tensor": (b'{"a": %b, "a": %b}' % ((json.dumps(F32).encode(),) * 2), bytes(8), "'a' twice"),
    "duplicate key inside": (
        b'{"a": {"dtype": "F32", "dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}',
        bytes(8),
        "twice",
    ),
    "terminal codes in names": ({"\x1b[2J\n": "x"}, b"", r"'\x1b[2J\n'"),
}


@pytest.mark.parametrize(("header", "data", "said"), BROKEN.values(), ids=BROKEN)
def test_broken_headers_are_refused(header: object, data: bytes, said: str, tmp_path: Path) -> None:
    path = _file(tmp_path, header, data)
    with pytest.raises(ModelError) as caught:
        read_tensors(path)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 500
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 7, b"\0" * 8, b"\x01" + b"\0" * 8, b"\xff" * 8, b"\xff" * 100, b"PK\x03\x04" * 30]
)
def test_files_that_are_no_safetensors(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match="not a safetensors file"):
        tensor_header(tmp_path / "a.safetensors")


def test_bombs_are_refused_within_a_second_or_two(tmp_path: Path) -> None:
    entry = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    many = _file(tmp_path, {f"t{number}": entry for number in range(100_001)})
    start = time.process_time()
    with pytest.raises(ModelError, match="100001 tensors; 100000 are allowed"):
        tensor_header(many)
    assert time.process_time() - start < 2
    large = _file(tmp_path, b"{" + b" " * 8_000_000 + b"}")
    start = time.process_time()
    with pytest.raises(ModelError, match="8000000 are allowed"):
        tensor_header(large)
    assert time.process_time() - start < 0.1
    repeated = _file(tmp_path, b"{" + b",".join(b'"%d": 1' % number for number in [*range(90_000), 5]) + b"}")
    start = time.process_time()
    with pytest.raises(ModelError, match="'5' twice"):
        tensor_header(repeated)
    assert time.process_time() - start < 2


def test_pipes_devices_and_folders_are_refused_and_do_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path, said in (
        (tmp_path / "pipe", "ordinary"),
        (Path("/dev/zero"), "ordinary"),
        (tmp_path, "ordinary"),
        (tmp_path / "loop", "read"),
    ):
        for read in (tensor_header, read_json):
            with pytest.raises(ModelError, match=said):
                read(path)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_damage_to_a_good_file_is_refused_or_harmless(data: st.DataObject) -> None:
    good = save({"a": torch.arange(4.0), "b": torch.ones(2, 2, dtype=torch.int16)}, metadata={"format": "pt"})
    raw = bytearray(good)
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    raw = raw[: data.draw(st.integers(0, len(raw)))] if data.draw(st.booleans()) else raw
    path = Path(os.environ["PYTEST_CURRENT_TEST_FOLDER"]) / "a.safetensors"
    path.write_bytes(raw)
    try:
        found = read_tensors(path)
    except ModelError:
        return
    assert sum(tensor.nbytes for tensor in found.values()) == 24


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For hypothesis, which shares one test's folder between its examples."""
    monkeypatch.setenv("PYTEST_CURRENT_TEST_FOLDER", str(tmp_path))


# --- JSON and configurations ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"[]", "JSON object"),
        (b'{"a": 1, "a": 2}', "'a' twice"),
        (b'{"a": "\xff"}', "not valid JSON"),
        (b'{"a": ' * 50_000, "not valid JSON"),
        (b"\x1f\x8b\x08\x00", "not valid JSON"),
        (b'{"a": "' + b"x" * 8_000_000 + b'"}', "8000000 are allowed"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_bad_json_is_told(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ModelError, match=said):
        read_json(tmp_path / "config.json")


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="No such file"):
        read_json(tmp_path / "config.json")


HOSTILE: list[dict[str, object]] = [
    {"auto_map": {"AutoModel": "modeling_evil.Evil"}},
    {"auto_map": "x"},
    {"trust_remote_code": True},
    {"custom_pipelines": {"evil": {"impl": "pipe.Evil"}}},
    {"custom_generate": "evil/generate"},
    {"_attn_implementation": "evil/kernel"},
    {"_attn_implementation_internal": "evil/kernel"},
    {"attn_implementation": "evil"},
    {"attn_implementation": {"text_config": "evil/kernel:run"}},
    {"_experts_implementation": "evil"},
    {"linear_kernel": "evil/kernel@main"},
    {"kernel_config": {"mapping": {"RMSNorm": "evil/kernel:Norm"}}},
    {"use_kernels": ["evil"]},
    {"text_config": {"auto_map": {"AutoConfig": "x.Y"}}},
    {"text_config": {"_attn_implementation_internal": "evil/kernel"}},
    {"layers": [{"inner": [[{"auto_map": {"a": "b"}}]]}]},
    {"backbone": "evil/repo"},
    {"text_encoder": "https://evil.example/x"},
    {"some_file": "/etc/passwd"},
    {"some_file": "~/.ssh/id_rsa"},
    {"some_file": "weights/../../secret"},
    {"some_file": "modeling.py"},
    {"some_files": [["good", "evil/repo"]]},
    {"quantization_config": {"quant_method": "x", "loader": "evil/repo"}},
]


@pytest.mark.parametrize("part", HOSTILE, ids=str)
def test_hostile_configurations_are_refused(part: dict[str, object], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "hidden_size": 8, **part}))
    with pytest.raises(ModelError) as caught:
        read_config(tmp_path / "config.json")
    assert str(caught.value).isprintable()
    assert str(tmp_path / "config.json") in str(caught.value)


HARMLESS: list[dict[str, object]] = [
    {"_name_or_path": "meta-llama/Llama-3.2-1B", "architectures": ["LlamaForCausalLM"]},
    {"auto_map": {}, "trust_remote_code": False, "_attn_implementation": None},
    {"_attn_implementation_autoset": True, "_attn_implementation": "sdpa"},
    {"conv_kernel": [10, 3, 3], "kernel_size": 3, "use_mamba_kernels": True, "linear_conv_kernel_dim": 4},
    {"id2label": {"0": "news/sport", "1": "/r/python"}, "label2id": {"news/sport": 0}, "finetuning_task": "glue/mrpc"},
    {"hidden_act": "gelu_new", "torch_dtype": "bfloat16", "transformers_version": "4.46.1", "rope_theta": 1e4},
    {"task_specific_params": {"summarization": {"prefix": "summarize: "}}, "time_step_limit": [0.0, float("inf")]},
    {"quantization_config": {"quant_method": "gptq", "meta": {"quantizer": ["gptqmodel:1.0"], "uri": "https://x.example/y"}}},
]


@pytest.mark.parametrize("part", HARMLESS, ids=lambda part: next(iter(part)))
def test_configurations_as_people_have_them_pass(part: dict[str, object], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(part))
    assert read_config(tmp_path / "config.json").keys() == part.keys()


def test_tokens_may_look_like_anything(tmp_path: Path) -> None:
    content = {
        "eos_token": "</s>",
        "chat_template": "{{ a }}/b",
        "added": {"5": {"content": "//"}},
        "vocab_file": "/srv/x/vocab",
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(content))
    assert read_config(tmp_path / "tokenizer_config.json") == content
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"auto_map": {"AutoTokenizer": ["x.Y", None]}}))
    with pytest.raises(ModelError, match="auto_map"):
        read_config(tmp_path / "tokenizer_config.json")


def test_tables_in_tables_without_end(tmp_path: Path) -> None:
    for depth in (500, 950, 985, 2000):
        (tmp_path / "config.json").write_text('{"a":[' * (depth // 2) + '{"b": 1}' + "]}" * (depth // 2))
        with contextlib.suppress(ModelError):  # and no other error
            read_config(tmp_path / "config.json")
    with pytest.raises(ModelError):
        read_config(tmp_path / "config.json")


def test_headers_are_checked_without_torch() -> None:
    code = "import sys; import tunesmith.model.safe_files; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_no_function_of_the_module_unpickles() -> None:
    source = Path(safe_files.__file__).read_text()
    assert not any(word in source for word in ("import pickle", "torch.load", "eval(", "exec(", "importlib", "__import__"))
