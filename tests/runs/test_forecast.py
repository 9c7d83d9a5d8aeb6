from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

import tiny_runs
from tunesmith.methods.full import Full
from tunesmith.runs import forecast

HELD, PEAK = 1_000_000, 1_700_000


@pytest.mark.parametrize("num_processes", [1, 3])
def test_memory_is_that_of_all_processes_with_the_moments_of_adamw(num_processes: int, monkeypatch: pytest.MonkeyPatch):
    packed, optimizer = tiny_runs.attached(Full())
    table = tiny_runs.language_table()
    data = SimpleNamespace(train=SimpleNamespace(tokens=table), validation=SimpleNamespace(tokens=table))
    session = cast("Any", SimpleNamespace(model=packed.model, forward=packed, data=data))
    monkeypatch.setattr(forecast.memory, "resident_bytes", lambda: HELD)
    monkeypatch.setattr(forecast.memory, "peak_bytes", lambda: PEAK)
    plan = replace(tiny_runs.PLAN, num_processes=num_processes)
    found = forecast.forecast(session, optimizer, plan).memory_bytes
    gradients = 4 * sum(parameter.numel() for parameter in packed.model.parameters())
    assert found == PEAK + 2 * gradients + (num_processes - 1) * (PEAK - HELD + gradients)
