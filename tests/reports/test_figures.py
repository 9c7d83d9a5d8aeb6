"""Figures show what was measured, and nothing where nothing was."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tunesmith.measure import Measure
from tunesmith.reports.curves import Curves, read_curves
from tunesmith.reports.figures import figures, interval_figure, loss_figure, score_figure, speed_figure
from tunesmith.reports.result import RunResult, Stage


def test_nothing_measured_nothing_drawn(classification_result: RunResult):
    classification_result.stages = []
    found = figures(classification_result, Curves())
    assert found == {"metrics": [], "training": [], "small": []}


def test_all_figures_of_a_run(classification_result: RunResult, run_folder: Path):
    found = figures(classification_result, read_curves(run_folder))
    assert {place: [figure.title for figure in drawn] for place, drawn in found.items()} == {
        "metrics": ["Accuracy", "Macro-F1"],
        "training": ["Loss", "Accuracy"],
        "small": ["Learning rate", "Real tokens per second", "Memory held"],
    }


def test_the_best_step_is_marked(run_folder: Path):
    curves = read_curves(run_folder)
    assert "best: step 450" in loss_figure(curves, 450)
    assert "best: step" not in loss_figure(curves, None)
    assert "training, smoothed" in loss_figure(curves, None)
    assert "%" in score_figure(curves, "accuracy", 450)


def test_a_run_of_one_step():
    one = (np.array([1.0]), np.array([2.0]))
    curves = Curves({"loss": one, "tokens_per_second": (np.array([]), np.array([]))}, {"loss": one})
    assert "<svg" in loss_figure(curves, 1)
    assert speed_figure(curves) == ""


def test_a_single_evaluation_has_its_step_once_on_the_axis():
    one = (np.array([12.0]), np.array([4.1]))
    assert score_figure(Curves({}, {"perplexity": one}), "perplexity", None).count(">12</text>") == 1


def test_intervals_are_told_to_those_who_cannot_see_them(classification_result: RunResult):
    drawing = interval_figure("accuracy", classification_result.stages)
    assert "tuned model: 86.0 % (83.9 to 88.1 %)" in drawing
    assert interval_figure("perplexity", classification_result.stages) == ""


def test_every_headline_has_a_figure(chat_result: RunResult):
    measure = Measure(value=0.5, low=0.4, high=0.6)
    metrics = {"loss": measure, "perplexity": measure, "rouge_l": measure, "exact_match": measure}
    chat_result.stages = [Stage(name="tuned model", kind="tuned", split="test", metrics=metrics)]
    assert [figure.title for figure in figures(chat_result, Curves())["metrics"]] == ["ROUGE-L", "Exact match", "Perplexity"]
