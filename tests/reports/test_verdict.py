"""The headline claims no more than the intervals allow."""

from __future__ import annotations

import pytest

from tunesmith.measure import Measure
from tunesmith.reports.result import RunResult, Stage
from tunesmith.reports.verdict import judge


def accuracy(value: float, half_width: float | None = 0.02) -> dict[str, Measure]:
    low, high = (None, None) if half_width is None else (value - half_width, value + half_width)
    return {"accuracy": Measure(value=value, low=low, high=high, count=400)}


def loss(value: float, half_width: float = 0.1) -> dict[str, Measure]:
    return {"loss": Measure(value=value, low=value - half_width, high=value + half_width, count=9000)}


@pytest.mark.parametrize(
    ("before", "after", "difference"),
    [
        (accuracy(0.5), accuracy(0.9), "better"),
        (accuracy(0.9), accuracy(0.5), "worse"),
        (accuracy(0.80), accuracy(0.83), "none found"),
        (accuracy(0.5, None), accuracy(0.9), "not measured"),
        (accuracy(float("nan"), None), accuracy(0.9), "not measured"),
        (loss(2.0), loss(1.0), "better"),
        (loss(1.0), loss(2.0), "worse"),
        (loss(1.0), loss(1.15), "none found"),
    ],
)
def test_intervals_decide(classification_result: RunResult, before: dict, after: dict, difference: str):
    classification_result.stages = [
        Stage(name="base model", kind="base", split="test", metrics=before),
        Stage(name="tuned model", kind="tuned", split="test", metrics=after),
    ]
    assert judge(classification_result).difference == difference


def test_the_sentence_names_rows_baseline_and_interval(classification_result: RunResult):
    assert judge(classification_result).sentence == (
        "On 1,000 held-out test rows, accuracy rises from 51.0 % (majority class) to 86.0 % (95 % interval 83.9 to 88.1 %)."
    )


def test_overlap_is_said_plainly(chat_result: RunResult):
    verdict = judge(chat_result)
    assert verdict.difference == "none found"
    assert "On 50 held-out test rows, no difference found: perplexity is 5.47 (4.57 to 6.55) after tuning" in verdict.sentence
    assert verdict.sentence.endswith("the 95 % intervals overlap.")


@pytest.mark.parametrize(
    ("low", "high", "difference"), [(-0.4, -0.2, "better"), (-0.3, 0.1, "none found"), (0.1, 0.2, "worse")]
)
def test_a_paired_difference_decides_over_the_overlap(chat_result: RunResult, low: float, high: float, difference: str):
    paired = {"loss": Measure(value=(low + high) / 2, low=low, high=high)}
    chat_result.stages.append(Stage(name="paired difference", kind="difference", split="test", metrics=paired))
    verdict = judge(chat_result)
    assert verdict.difference == difference
    assert ("the paired difference includes 0" in verdict.sentence) == (difference == "none found")


def test_a_paired_difference_from_the_base_model_says_nothing_of_the_majority(classification_result: RunResult):
    classification_result.stages = [
        Stage(name="majority class", kind="majority", split="test", metrics=accuracy(0.80)),
        Stage(name="base model", kind="base", split="test", metrics=accuracy(0.50)),
        Stage(name="tuned model", kind="tuned", split="test", metrics=accuracy(0.81)),
        Stage(name="paired difference", kind="difference", split="test", metrics=accuracy(0.31)),
    ]
    verdict = judge(classification_result)
    assert verdict.difference == "none found"
    assert verdict.sentence.endswith("(majority class); the 95 % intervals overlap.")


def test_what_decides_is_what_a_stage_is_and_not_its_name(classification_result: RunResult):
    classification_result.stages = [
        Stage(name="base model, its own head", kind="base", split="test", metrics=accuracy(0.80)),
        Stage(name="tuned on the database", kind="tuned", split="test", metrics=accuracy(0.95)),
    ]
    verdict = judge(classification_result)
    assert verdict.difference == "better"
    assert verdict.tuned is classification_result.stages[1]


def test_a_worse_model_is_called_worse(classification_result: RunResult):
    test = classification_result.stages[-1]
    classification_result.stages[-1] = Stage(name=test.name, kind="tuned", split=test.split, metrics=accuracy(0.3))
    assert "falls from 51.0 %" in judge(classification_result).sentence
    assert judge(classification_result).sentence.endswith("the tuned model is worse.")


def test_the_strongest_baseline_counts(classification_result: RunResult):
    classification_result.stages.insert(
        0, Stage(name="base model, zero-shot", kind="base", split="test", metrics=accuracy(0.85))
    )
    verdict = judge(classification_result)
    assert verdict.baseline is not None
    assert verdict.baseline.name == "base model, zero-shot"
    assert verdict.difference == "none found"


def test_validation_rows_carry_their_caveat(classification_result: RunResult):
    classification_result.stages = [s for s in classification_result.stages if s.split == "validation"]
    assert "validation rows (which also chose the checkpoint)" in judge(classification_result).sentence


def test_runs_without_results(classification_result: RunResult):
    classification_result.stages = []
    assert judge(classification_result).sentence == "No result was measured yet."
    classification_result.status, classification_result.error = "failed", "the loss was not finite at step 3"
    assert judge(classification_result).sentence == "The run failed: the loss was not finite at step 3"
    classification_result.status = "interrupted"
    assert "tunesmith resume" in judge(classification_result).sentence


def test_no_baseline_no_claim(classification_result: RunResult):
    classification_result.stages = classification_result.stages[-1:]
    assert judge(classification_result).sentence.endswith("no baseline was measured beside it.")
