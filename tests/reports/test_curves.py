"""Curves survive crashes, resumes and numbers that are none."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from tunesmith.reports.curves import read_curves, smooth, thin


def write(folder: Path, *records: dict[str, object] | str) -> Path:
    lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
    (folder / "metrics.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder


def step(number: int, **values: float) -> dict[str, object]:
    return {"kind": "step", "step": number, **values}


def test_no_file_no_curves(tmp_path: Path):
    assert read_curves(tmp_path).steps == {}


def test_torn_and_strange_lines_are_left_out(tmp_path: Path):
    strange = [
        '{"kind": "step", "st',
        "[1, 2]",
        "null",
        '{"kind": "step", "step": "7", "loss": 1}',
        '{"kind": "evaluation", "step": 1}',
    ]
    folder = write(
        tmp_path, *strange, step(1, loss=3.0), {"kind": "event", "step": 1, "message": "x"}, step(2, loss=float("nan"))
    )
    curves = read_curves(folder)
    np.testing.assert_array_equal(curves.steps["loss"], [[1], [3.0]])
    assert curves.evaluations == {}


def test_a_step_done_twice_counts_as_it_came_out_last(tmp_path: Path):
    curves = read_curves(
        write(tmp_path, step(1, loss=3.0), step(2, loss=9.0), step(3, loss=9.0), step(2, loss=2.0), step(3, loss=1.0))
    )
    np.testing.assert_array_equal(curves.steps["loss"], [[1, 2, 3], [3, 2, 1]])


def test_evaluations_are_kept_apart(tmp_path: Path):
    evaluation = {"kind": "evaluation", "step": 5, "metrics": {"loss": 1.5, "accuracy": 0.5}}
    curves = read_curves(write(tmp_path, step(5, loss=2.0), evaluation))
    assert curves.evaluations["loss"][1].tolist() == [1.5]
    assert curves.steps["loss"][1].tolist() == [2.0]


def test_speed_is_tokens_between_steps_by_time_between_them(tmp_path: Path):
    rows = [
        step(1, tokens=100, seconds=1.0),
        step(2, tokens=300, seconds=2.0),
        step(3, tokens=500, seconds=0.5),
        step(4, tokens=600, seconds=1.0),
    ]
    steps, values = read_curves(write(tmp_path, *rows)).steps["tokens_per_second"]
    np.testing.assert_array_equal(steps, [2, 4])
    np.testing.assert_array_equal(values, [200, 200])


def test_thin_keeps_mean_and_order():
    steps, values = thin((np.arange(10_000.0), np.arange(10_000.0) % 7), 100)
    assert len(steps) == len(values) == 100
    assert (np.diff(steps) > 0).all()
    assert abs(values.mean() - 3) < 0.01


def test_smooth_keeps_a_line_and_calms_noise():
    line = np.arange(50.0)
    np.testing.assert_allclose(smooth(line), line)
    noise = np.random.default_rng(0).normal(size=500)
    assert smooth(noise).std() < 0.3
    assert len(smooth(np.array([1.0]))) == 1
