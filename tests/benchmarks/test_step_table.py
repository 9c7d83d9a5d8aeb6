"""The page's table and figure of a step say what the newest result says, and adds up to a whole step."""

from __future__ import annotations

from typing import Any

import pytest

import step_table
from benchmarks import step
from tunesmith.commands._parse import parse
from tunesmith.commands.fit import Fit
from tunesmith.training.profile import PARTS


def _record() -> dict[str, Any]:
    seconds = {"data": 0.01, "forward": 0.4, "head": 0.1, "backward": 0.45, "optimizer": 0.02, "rest": 0.02}
    parts = [{"name": name, "seconds": seconds[name], "flop": 1e11 if name == "forward" else 0} for name in PARTS]
    profile = {"parts": parts, "limit_flop_per_second": 2e11, "num_tokens": 500}
    return {
        "date": "2026-01-01",
        "machine_facts": {"processor": "Some Processor", "num_cores": 2},
        "work": {"lora": {"about": "LoRA on something", "profile": profile, "other_cores": 0.3}},
    }


def test_parts_that_have_no_column_are_in_the_rest():
    [work] = _record()["work"].values()
    shares = step_table.shares(work["profile"])
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["rest"] == pytest.approx(0.03)


def test_the_table_and_the_figure():
    text, drawn = step_table.section(_record()), step_table.figure(_record())
    row = "| LoRA on something | 2,000 (others kept 0.3 cores busy) | 40.0 % | 10.0 % | 45.0 % | 2.0 % | 3.0 % | 50 % |"
    assert row in text
    assert all(f">{word}<" in drawn for word in ("LoRA on something", "backward", "products alone"))


def test_without_a_result_the_page_says_so():
    assert "benchmarks.step" in step_table.section(None)


@pytest.mark.parametrize("name", step.WORK)
def test_every_work_is_a_command_that_can_be_typed(name: str):
    chosen = parse(Fit, step.command(name, 2)[2:])
    assert chosen is not None
    assert chosen.profile
    assert chosen.settings().training.threads == 2
