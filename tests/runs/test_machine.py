from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from tunesmith.runs import machine

CPU = torch.device("cpu")


def test_cores_are_those_of_the_machine_and_not_the_threads_of_the_run():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(before + 1)
        assert machine.facts(CPU)["cores"] == str(len(os.sched_getaffinity(0)))
    finally:
        torch.set_num_threads(before)


def test_the_processor_has_a_name(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Path, "read_text", lambda self: "processor\t: 0\nmodel name\t: Example CPU @ 2 GHz\nflags\t\t: fpu\n")
    assert machine.facts(CPU)["cpu"] == "Example CPU @ 2 GHz"


def test_a_system_that_does_not_tell(monkeypatch: pytest.MonkeyPatch):
    def missing(self: Path) -> str:
        raise FileNotFoundError(self)

    monkeypatch.setattr(Path, "read_text", missing)
    assert machine.facts(CPU)["cpu"]
