"""The metrics file survives crashes: torn lines and lines of undone steps go, the rest stays."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tunesmith.training.log import FILE_NAME, MetricsLog


def _records(folder: Path) -> list[dict[str, object]]:
    def refuse(name: str) -> None:
        raise ValueError(f"{name} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in (folder / FILE_NAME).read_text().splitlines()]


def _write(folder: Path) -> None:
    with MetricsLog(folder) as log:
        for step in (1, 2, 3):
            log.step(step, {"loss": 1 / step})
        log.evaluation(2, {"accuracy": 0.5})
        log.event(3, 'said "no"\nand left')


def test_three_kinds_of_lines(tmp_path: Path):
    _write(tmp_path)
    assert _records(tmp_path) == [
        {"kind": "step", "step": 1, "loss": 1.0},
        {"kind": "step", "step": 2, "loss": 0.5},
        {"kind": "step", "step": 3, "loss": 1 / 3},
        {"kind": "evaluation", "step": 2, "metrics": {"accuracy": 0.5}},
        {"kind": "event", "step": 3, "message": 'said "no"\nand left'},
    ]


def test_a_line_is_on_disk_when_the_call_returns(tmp_path: Path):
    with MetricsLog(tmp_path) as log:
        log.step(1, {"loss": 1.0})
        assert len(_records(tmp_path)) == 1


@pytest.mark.parametrize("step", [0, 1, 2, 3])
def test_resuming_drops_what_was_undone(tmp_path: Path, step: int):
    _write(tmp_path)
    with MetricsLog(tmp_path, resume_from=step) as log:
        log.step(step + 1, {"loss": 9.0})
    records = _records(tmp_path)
    assert records.pop() == {"kind": "step", "step": step + 1, "loss": 9.0}
    assert all(isinstance(r["step"], int) and r["step"] <= step for r in records)
    assert [r["step"] for r in records if r["kind"] == "step"] == list(range(1, step + 1))
    assert any(r["kind"] == "evaluation" for r in records) == (step >= 2)


def test_what_was_told_before_a_crash_is_not_told_again(tmp_path: Path):
    _write(tmp_path)
    with MetricsLog(tmp_path, resume_from=3) as log:
        log.evaluation(2, {"accuracy": 0.5})
        log.event(3, 'said "no"\nand left')
        log.event(3, "and came back")
    told = [record for record in _records(tmp_path) if record["kind"] != "step"]
    assert [(r["kind"], r.get("message")) for r in told] == [
        ("evaluation", None), ("event", 'said "no"\nand left'), ("event", "and came back"),
    ]  # fmt: skip


@pytest.mark.parametrize("torn", ['{"kind": "step", "st', "\0\0\0\0", "[]", '{"kind": "step"}', '{"step": "x"}'])
def test_resuming_drops_a_torn_last_line(tmp_path: Path, torn: str):
    _write(tmp_path)
    with (tmp_path / FILE_NAME).open("a") as file:
        file.write(torn)
    with MetricsLog(tmp_path, resume_from=3) as log:
        log.step(4, {"loss": 9.0})
    assert [r["step"] for r in _records(tmp_path)] == [1, 2, 3, 2, 3, 4]


def test_a_torn_line_may_be_no_text_at_all(tmp_path: Path):
    _write(tmp_path)
    with (tmp_path / FILE_NAME).open("ab") as file:
        file.write(b'{"kind": \xff\xfe')
    with MetricsLog(tmp_path, resume_from=3):
        pass
    assert len(_records(tmp_path)) == 5


def test_resuming_without_a_file_begins_one(tmp_path: Path):
    with MetricsLog(tmp_path, resume_from=0) as log:
        log.event(0, "new")
    assert len(_records(tmp_path)) == 1


def test_numbers_that_are_none_stay_json(tmp_path: Path):
    with MetricsLog(tmp_path) as log:
        log.step(1, {"loss": float("nan"), "gradient_norm": float("inf"), "tokens": 3})
        log.evaluation(1, {"loss": float("-inf")})
    assert _records(tmp_path) == [
        {"kind": "step", "step": 1, "loss": None, "gradient_norm": None, "tokens": 3},
        {"kind": "evaluation", "step": 1, "metrics": {"loss": None}},
    ]
