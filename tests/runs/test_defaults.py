"""What is decided for a user who left it open."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tunesmith.kernels.cpu import compiled
from tunesmith.method import Method
from tunesmith.methods.bitfit import BitFit
from tunesmith.methods.full import Full
from tunesmith.methods.lora import LoRA
from tunesmith.runs import defaults
from tunesmith.settings import TrainingSettings

FACTS = defaults.Facts(
    task="chat",
    num_rows=100,
    longest_row_tokens=50,
    num_parameters=10**8,
    device="cpu",
    num_validation_rows=0,
    num_processors=2,
)


@pytest.mark.parametrize(("bits", "smaller"), [(4, True), (8, False)])
def test_a_base_in_four_bits_is_trained_in_smaller_passes_unless_a_size_is_given(bits, smaller):
    """Who asks for four bits wants memory; in eight, all is faster in passes of the usual size."""
    open_, given = TrainingSettings(base_bits=bits), TrainingSettings(base_bits=bits, tokens_per_pass=2000)
    usual, found, chosen = (
        defaults.resolve(settings, LoRA(), FACTS).tokens_per_pass for settings in (TrainingSettings(), open_, given)
    )
    assert usual is not None
    assert found is not None
    assert (found < usual) == smaller
    assert chosen == 2000


@pytest.mark.parametrize(
    ("num_processors", "method", "num_parameters", "alone", "sharing"),
    [
        (1, LoRA(), 10**8, (1, 1024), (1, 1024)),
        (2, LoRA(), 10**8, (2, 512), (1, 1024)),
        (3, LoRA(), 10**8, (3, 512), (1, 1024)),
        (4, LoRA(), 10**8, (4, 512), (2, 1024)),
        (64, LoRA(), 10**10, (8, 1024), (8, 1024)),  # no more than rows
        (16, LoRA(), 10**8, (8, 1024), (8, 1024)),  # of two threads each
        (4, Full(), 2 * 10**7, (4, 512), (2, 1024)),
        (4, BitFit(), 10**10, (4, 512), (2, 1024)),  # its gradients are few, whatever the model has
        (4, Full(), 3 * 10**7, (2, 1024), (2, 1024)),  # 120 MB each: memory for three, which would leave a core idle
        (4, Full(), 10**8, (1, 1024), (1, 1024)),
    ],
)
def test_workers_are_as_many_as_pay(
    num_processors: int,
    method: Method,
    num_parameters: int,
    alone: tuple[int, int],
    sharing: tuple[int, int],
    monkeypatch: pytest.MonkeyPatch,
):
    """Where threads share the loops of compiled code, each process has two of them."""
    facts = replace(FACTS, num_processors=num_processors, num_parameters=num_parameters)
    for shares, expected in ((False, alone), (True, sharing)):
        monkeypatch.setattr(compiled, "shares_threads", lambda shares=shares: shares)
        found = defaults.resolve(TrainingSettings(), method, facts)
        assert (found.workers, found.tokens_per_pass) == expected
        assert defaults.plan(found, 100).num_processes == found.workers


@pytest.mark.parametrize(("asked", "given"), [(3, 3), (20, 8)])
def test_workers_that_are_asked_for_are_given_if_they_have_a_row(asked: int, given: int):
    assert defaults.resolve(TrainingSettings(workers=asked, rows_per_step=8), Full(), FACTS).workers == given
