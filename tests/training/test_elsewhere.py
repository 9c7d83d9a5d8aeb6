"""A step and an evaluation where no number can be read and nothing of the processor's memory be mixed in.

That is torch's `meta` device: it refuses what on a GPU would be an error, or would wait for all that was asked of it before.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import tiny_models
import tiny_runs
from tunesmith import registry
from tunesmith.checkpoint import trained
from tunesmith.data.pack import num_shared, pack
from tunesmith.kernels import varlen
from tunesmith.method import Method
from tunesmith.methods.lora import LoRA
from tunesmith.methods.prefix import PrefixTuning
from tunesmith.methods.prompt import Prompt
from tunesmith.model import quantize
from tunesmith.model.batch import Batch
from tunesmith.model.forward import Forward, PackedForward
from tunesmith.model.trial import sharing
from tunesmith.training.gradients import Learner, Pass
from tunesmith.training.optimizer import FlatAdamW
from tunesmith.training.precision import store_rest

ELSEWHERE = torch.device("meta")
METHODS = [trained.method_from({"name": name}, name) for name in registry.names("tunesmith.methods")]


@pytest.fixture(autouse=True)
def _known_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Autocast, which torch does not know there, is off."""
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: False)


def _moved(forward: Forward) -> FlatAdamW:
    """Move the model, and say what learns there."""
    forward.model.config.pad_token_id = None  # GPT-2 looks for it among the words, to warn
    nn.Module.to(forward.model, ELSEWHERE)
    return FlatAdamW(forward.model.named_parameters(), 0.01)


def _learn(forward: Forward, batches: list[Batch]) -> Tensor:
    """All of a step that is computed before its one look at loss and gradient norm, which are returned."""
    optimizer = _moved(forward)
    loss = Learner(forward, optimizer).accumulate([Pass(batch.to(ELSEWHERE), seed) for seed, batch in enumerate(batches)])
    both = torch.stack([loss, optimizer.gradient_norm()])
    assert both.device == ELSEWHERE
    assert all(group.gradients.device == ELSEWHERE for group in optimizer._groups)
    return both


@pytest.mark.parametrize(("name", "task"), [("llama", "causal"), ("gpt2", "causal"), ("bert", "classification")])
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_every_method(method: Method, name: str, task: tiny_models.Task):
    forward, _ = tiny_runs.attached(method, name, task)
    table = tiny_runs.language_table() if task == "causal" else tiny_runs.class_table()
    _learn(forward, [pack(table, np.arange(i, i + 4)) for i in (0, 4)])


@pytest.mark.parametrize("name", tiny_models.DECODERS)
def test_every_decoder(name: str):
    forward, _ = tiny_runs.attached(LoRA(rank=2), name)
    _learn(forward, [pack(tiny_runs.language_table(), np.arange(8))])


@pytest.mark.parametrize("bits", [4, 8])
def test_over_few_bits(bits: int):
    model = tiny_models.build("llama", "causal")
    quantize.quantize(model, bits)
    LoRA(rank=2).attach(model)
    _learn(PackedForward(model), [pack(tiny_runs.language_table(), np.arange(8))])


@pytest.mark.parametrize("method", [LoRA(rank=2), Prompt(num_tokens=3), PrefixTuning(num_tokens=3)], ids=lambda m: m.name)
def test_what_all_rows_begin_with(method: Method):
    forward, _ = tiny_runs.attached(method)
    forward, table = sharing(forward), tiny_runs.table_that_begins_alike()
    assert forward.shares
    _learn(forward, [pack(table, np.arange(8), num_shared=num_shared(table))])


@pytest.mark.parametrize("method", [LoRA(rank=2), PrefixTuning(num_tokens=3)], ids=lambda m: m.name)
def test_by_flash_attention(method: Method, monkeypatch: pytest.MonkeyPatch):
    """In 16 bits, by torch's own operators, which know what comes of them there."""
    monkeypatch.setattr(varlen, "_is_on", lambda device: device == ELSEWHERE)
    forward, _ = tiny_runs.attached(method)
    store_rest(forward.model, torch.bfloat16)
    _learn(forward, [pack(tiny_runs.language_table(), np.arange(8))])


ASKED: dict[str, Callable[[Forward, Batch], Tensor]] = {
    "losses": lambda forward, batch: forward.target_losses(batch),
    "logits of targets": lambda forward, batch: forward.target_logits(batch),
    "logits of all words": lambda forward, batch: torch.cat(list(forward.token_logits(batch))),
    "means": lambda forward, batch: forward.mean_states(batch),
}


@pytest.mark.parametrize("asked", ASKED.values(), ids=ASKED)
def test_without_gradients(asked: Callable[[Forward, Batch], Tensor]):
    forward, _ = tiny_runs.attached(LoRA(rank=2))
    _moved(forward)
    assert asked(forward, pack(tiny_runs.language_table(), np.arange(8)).to(ELSEWHERE)).device == ELSEWHERE


def test_it_refuses_what_a_gpu_would():
    """Else nothing here would prove anything."""
    forward, _ = tiny_runs.attached(LoRA(rank=2))
    hook = forward.model.get_input_embeddings().register_forward_hook
    hook(lambda _module, _inputs, states: states + torch.ones(states.shape[1:]))
    with pytest.raises(RuntimeError, match="device"):
        _learn(forward, [pack(tiny_runs.language_table(), np.arange(8))])
    forward, _ = tiny_runs.attached(LoRA(rank=2))
    hook = forward.model.get_input_embeddings().register_forward_hook
    hook(lambda _module, _inputs, states: states * states.sum().item())
    with pytest.raises(RuntimeError, match="item"):
        _learn(forward, [pack(tiny_runs.language_table(), np.arange(8))])
