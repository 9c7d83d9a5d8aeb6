from __future__ import annotations

from types import ModuleType

import pytest
from tqdm.auto import tqdm
from transformers import modeling_gguf_pytorch_utils

from tunesmith.model import bars
from watching import Notes


def test_a_module_that_takes_no_class_tells_the_watch(capfd: pytest.CaptureFixture[str]):
    module, notes = ModuleType("reading"), Notes()
    vars(module)["tqdm"] = tqdm
    with bars.drawn_by(bars.bar("converting", notes), module):
        assert list(module.tqdm(range(3), mininterval=0)) == [0, 1, 2]
    assert module.tqdm is tqdm
    assert capfd.readouterr() == ("", "")
    last = notes.seen[-1]
    assert (last.phase, last.done, last.total, last.unit) == ("converting", 3, 3, "tensors")


def test_the_reader_of_gguf_files_draws_by_the_name_that_is_replaced():
    assert vars(modeling_gguf_pytorch_utils)["tqdm"] is tqdm
