"""Threads that ask models at the same time get the answers that each would get alone."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

import packed_cases
import tiny_models
from tunesmith.evaluation.generate import Generation, generate
from tunesmith.methods.lora import LoRA
from tunesmith.methods.prompt import Prompt
from tunesmith.model import low_rank, packed
from tunesmith.model.batch import Batch
from tunesmith.model.forward import PackedForward


def test_streams_of_different_rows(monkeypatch: pytest.MonkeyPatch):
    attend = packed.segment_attention

    def slowly(*inputs) -> Tensor:
        time.sleep(0.002)  # another thread gets in between
        return attend(*inputs)

    forward = PackedForward(tiny_models.build("bert", "classification"))
    batches = [packed_cases.batch(forward.model, "classification", lengths) for lengths in ([9, 9, 9], [3, 2, 1], [20, 4])]

    @torch.no_grad()
    def answer(batch: Batch) -> Tensor:
        return forward.class_logits(batch)

    alone = [answer(batch) for batch in batches]
    monkeypatch.setattr(packed, "segment_attention", slowly)
    with ThreadPoolExecutor(3) as threads:
        for expected, found in zip(alone * 4, threads.map(answer, batches * 4), strict=True):
            torch.testing.assert_close(found, expected)


def test_an_answer_is_written_when_no_stream_is_worked_on():
    """Its virtual tokens would take the rows of the stream for their own."""
    model = tiny_models.build("llama")
    Prompt(num_tokens=2).attach(model)
    rows, settings, written = [[5, 6, 7]], Generation(max_new_tokens=4), []
    alone = generate(model, rows, settings)
    thread = threading.Thread(target=lambda: written.extend(generate(model, rows, settings)))
    batch = packed_cases.batch(model, "causal")
    with PackedForward(model).scope(batch):
        thread.start()
        thread.join(0.3)
        assert not written
    thread.join()
    assert written == alone


def test_layers_that_compute_together(monkeypatch: pytest.MonkeyPatch):
    """As in a loop of somebody's own, where nothing of ours makes threads wait."""
    model = tiny_models.build("llama")
    LoRA(rank=2).attach(model)
    first, second, _ = next(own.company.layers for own in low_rank.layers(model).values() if len(own.company.layers) == 3)
    x, other = torch.randn(2, 5, 32).unbind()
    expected = second(x)

    def interrupted(layer: object) -> int:
        """Another thread begins just when `second` looks whether `first` has computed for it."""
        monkeypatch.undo()
        first(other)
        return id(layer)

    first(x)
    monkeypatch.setattr(low_rank, "id", interrupted, raising=False)
    torch.testing.assert_close(second(x), expected)
