"""What is decided for a user who left it open."""

from __future__ import annotations

import pytest

from tunesmith.methods.lora import LoRA
from tunesmith.runs import defaults
from tunesmith.settings import TrainingSettings

FACTS = defaults.Facts(
    task="chat", num_rows=100, longest_row_tokens=50, num_parameters=10**8, device="cpu", num_validation_rows=0
)


@pytest.mark.parametrize("bits", [4, 8])
def test_a_base_in_few_bits_is_trained_in_smaller_passes_unless_a_size_is_given(bits):
    """Who asks for few bits wants memory."""
    open_, given = TrainingSettings(base_bits=bits), TrainingSettings(base_bits=bits, tokens_per_pass=2000)
    usual, smaller, chosen = (
        defaults.resolve(settings, LoRA(), FACTS).tokens_per_pass for settings in (TrainingSettings(), open_, given)
    )
    assert usual is not None
    assert smaller is not None
    assert smaller < usual
    assert chosen == 2000
