import dataclasses
import math

import pytest

from benchmarks import check, contestants, job, launch, suites

LOSSES = [2.0, 1.8, 1.5]
LORA = suites.SUITES["lora"]


def measurement(losses: list[float]) -> job.Measurement:
    return job.Measurement(losses=losses, gradient_norms=[0.7] * len(losses), num_trainable=10, movement=0.1)


class Launcher:
    """Stands in for the processes; answers with the losses of a contestant at a precision."""

    def __init__(self, losses: dict[tuple[str, str], list[float]]) -> None:
        self.losses, self.jobs = losses, []

    def __call__(self, configuration: contestants.Configuration, asked: job.Job, num_threads: int) -> launch.Run:
        name = next(name for name, known in contestants.CONFIGURATIONS.items() if known is configuration)
        self.jobs.append((name, asked.precision))
        return launch.Run(measurement(self.losses.get((name, asked.precision), LOSSES)), 1.0, 0.0)


def checked(monkeypatch, tmp_path, losses, names=("peft-best", "tunesmith"), own_precision=True):
    monkeypatch.setattr(contestants, "faster_here", lambda: "bfloat16")
    launcher = Launcher(losses)
    monkeypatch.setattr(launch, "start", launcher)
    return check.before_timing(LORA, names, tmp_path, check.Checking(3, own_precision), 2), launcher


def test_everyone_is_compared_with_the_reference_in_float32_first(monkeypatch, tmp_path):
    found, launcher = checked(monkeypatch, tmp_path, {})
    assert found.problems == []
    assert launcher.jobs == [
        ("peft-default", "float32"),
        ("peft-best", "float32"),
        ("peft-best", "bfloat16"),
        ("tunesmith", "float32"),
        ("tunesmith", "bfloat16"),
    ]
    assert found.learnt_shares == {"peft-best": 1.0, "tunesmith": 1.0}


def test_a_wrong_curve_in_float32_stops_the_benchmark(monkeypatch, tmp_path):
    found, _ = checked(monkeypatch, tmp_path, {("tunesmith", "float32"): [2.0, 1.9, 1.8]}, own_precision=False)
    assert ["tunesmith in float32: the losses are off" in problem for problem in found.problems] == [True]


def test_a_slower_curve_in_bfloat16_is_shown(monkeypatch, tmp_path):
    found, _ = checked(monkeypatch, tmp_path, {("peft-best", "bfloat16"): [2.0, 1.9, 1.75]})
    assert found.problems == []
    assert found.learnt_shares["peft-best"] == pytest.approx(0.5)


def test_a_gradient_that_a_peer_rounds_off_is_shown_and_one_of_ours_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(contestants, "faster_here", lambda: "bfloat16")
    off = {("peft-best", "bfloat16"), ("tunesmith", "bfloat16")}

    def answer(configuration: contestants.Configuration, asked: job.Job, _: int) -> launch.Run:
        name = next(name for name, known in contestants.CONFIGURATIONS.items() if known is configuration)
        norms = [0.84 if (name, asked.precision) in off else 0.7] * len(LOSSES)
        return launch.Run(dataclasses.replace(measurement(LOSSES), gradient_norms=norms), 1.0, 0.0)

    monkeypatch.setattr(launch, "start", answer)
    found = check.before_timing(LORA, ("peft-best", "tunesmith"), tmp_path, check.Checking(3, True), 2)
    assert [problem.split(":")[0] for problem in found.problems] == ["tunesmith"]
    assert found.first_norm_gaps == {"peft-best": pytest.approx(0.2), "tunesmith": pytest.approx(0.2)}


def test_a_flat_reference_stops_the_benchmark(monkeypatch, tmp_path):
    flat = {(name, "float32"): [2.0, 2.0, 2.0] for name in ("peft-default", "peft-best", "tunesmith")}
    found, _ = checked(monkeypatch, tmp_path, flat, own_precision=False)
    assert "does not fall" in found.problems[0]


def test_after_timing_we_must_follow_the_curve_and_a_peer_may_leave_it():
    off = measurement([2.0, 1.9, 1.8])
    assert check.after_timing(LORA, {"peft-default": [measurement(LOSSES)], "peft-best": [off]}) == []
    assert check.after_timing(LORA, {"peft-default": [measurement(LOSSES)], "tunesmith": [measurement(LOSSES), off]})


def test_over_weights_in_fewer_bits_the_losses_must_agree_and_the_gradients_may_not():
    close = dataclasses.replace(measurement(LOSSES), gradient_norms=[0.7, 0.5, 0.9])
    off = measurement([2.0, 1.8, 1.53])
    for name, found, refused in (
        ("tunesmith-8bit", close, False),
        ("tunesmith-8bit", off, True),
        ("tunesmith", close, True),
    ):
        assert bool(check.after_timing(LORA, {"peft-default": [measurement(LOSSES)], name: [found]})) == refused


def test_where_rounding_decides_the_norms_losses_alone_are_compared():
    found = {name: [measurement(LOSSES)] for name in ("peft-default", "tunesmith")}
    found["tunesmith"] = [dataclasses.replace(measurement(LOSSES), gradient_norms=[0.7, 0.5, 0.9])]
    assert check.after_timing(suites.SUITES["ptuning"], found) == []
    assert check.after_timing(LORA, found)


def test_in_float32_everyone_has_the_weights_of_the_reference(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(contestants, "faster_here", lambda: "bfloat16")
    monkeypatch.setattr(launch, "start", lambda _, job, __: asked.append(job) or launch.Run(measurement(LOSSES), 1.0, 0.0))
    check.before_timing(LORA, ("tunesmith-8bit",), tmp_path, check.Checking(3, True), 2)
    assert [(one.precision, one.base_bits) for one in asked] == [("float32", 16), ("float32", 16), ("bfloat16", 8)]


def test_timed_gap():
    curves = {"peft-default": LOSSES, "tunesmith": [2.0, 1.8, 1.53], "peft-8x1-grouped": LOSSES}
    found = {name: [measurement(losses)] for name, losses in curves.items()}
    assert check.timed_gap(LORA, "peft-default", found) == 0
    assert check.timed_gap(LORA, "tunesmith", found) == pytest.approx(0.02)
    assert math.isnan(check.timed_gap(LORA, "peft-8x1-grouped", found))


def test_steps_of_other_rows_are_compared_with_nobodys():
    """Neither as a contestant nor, where the suite's reference is not timed, in its place."""
    found = {"peft-8x1-grouped": [measurement([3.0, 2.9, 2.8])], "tunesmith": [measurement(LOSSES)]}
    assert check.after_timing(LORA, found) == []
    assert check.timed_gap(LORA, "tunesmith", found) == 0
    assert check.after_timing(LORA, {**found, "peft-best": [measurement([2.0, 1.7, 1.4])]}) == []
