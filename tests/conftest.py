"""What every test stands on: no network, few threads, nothing written outside the test's own folder, tiny models."""

from __future__ import annotations

import os

# Before anything imports torch or a tokenizer: several test processes share the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("MPLBACKEND", "agg")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
if not os.path.exists("/dev/nvidiactl"):  # noqa: PTH110 - nothing is imported yet
    os.environ.setdefault("TRITON_INTERPRET", "1")  # without a GPU Triton's kernels are interpreted; read when it is imported

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

_OFFLINE = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": ""}
"""The socket guard ends at the process; these reach the pip that a test starts."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Open the network for `starter` tests and skip `gpu` tests where there is no device."""
    for item in items:
        if item.get_closest_marker("starter"):
            item.add_marker(pytest.mark.enable_socket)
        if item.get_closest_marker("gpu") and not _has_gpu():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Never name a test by bytes: a compressed file holds the time, and two processes must collect the same names."""
    return argname if isinstance(val, bytes) else None


def _has_gpu() -> bool:
    if importlib.util.find_spec("torch") is None or not Path("/dev/nvidiactl").exists():
        return False
    import torch

    return torch.cuda.is_available()


@pytest.fixture(autouse=True)
def _alone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep a test and the commands it starts away from the network and from the user's own cache."""
    if request.node.get_closest_marker("starter"):
        return
    for name, value in _OFFLINE.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def tiny_model() -> Callable[..., PreTrainedModel]:
    """`tiny_models.build`: a tiny random model by architecture and task."""
    import tiny_models

    return tiny_models.build


@pytest.fixture
def tiny_tokenizer() -> Callable[..., PreTrainedTokenizerFast]:
    """`tiny_tokenizer.build`: a byte-level tokenizer by kind."""
    import tiny_tokenizer

    return tiny_tokenizer.build


@pytest.fixture
def model_folder(tmp_path: Path) -> Callable[..., Path]:
    """Save a tiny model with a matching tokenizer the way people have them: a transformers folder."""
    import tiny_models
    import tiny_tokenizer

    def save(name: str = "llama", task: tiny_models.Task = "causal", **changes: Any) -> Path:
        folder = tmp_path / f"{name}-{task}"
        kind = "encoder" if name in tiny_models.ENCODERS else "seq2seq" if task == "seq2seq" else "chat"
        tiny_models.build(name, task, **changes).save_pretrained(folder)
        tiny_tokenizer.build(kind).save_pretrained(folder)
        return folder

    return save
