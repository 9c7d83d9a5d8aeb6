"""The closing text of a run, word for word."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tunesmith.reports.card import render_card
from tunesmith.reports.curves import Curves
from tunesmith.reports.html import render_report
from tunesmith.reports.result import RunResult
from tunesmith.reports.summary import summary_text

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    folder = Path("runs") / "first film"
    (folder / "adapter").mkdir(parents=True)
    (folder / "report.html").touch()
    return folder


@pytest.mark.parametrize("task", ["classification", "chat"])
def test_golden(request: pytest.FixtureRequest, folder: Path, task: str):
    result = request.getfixturevalue(f"{task}_result")
    expected = (GOLDEN / f"summary_{task}.txt").read_text(encoding="utf-8")
    assert summary_text(result, folder) == expected


def test_a_run_that_failed(classification_result: RunResult, tmp_path: Path):
    bare = replace(
        classification_result,
        status="failed",
        error="NaN at step 3",
        progress=None,
        stages=[],
        retention={},
        examples=[],
        cost=None,
    )
    text = summary_text(bare, tmp_path)
    assert "The run failed: NaN at step 3" in text
    assert "tunesmith resume" in text
    assert "adapter" not in text


def test_a_run_that_was_not_evaluated_yet_has_kept_nothing(classification_result: RunResult, tmp_path: Path):
    assert classification_result.progress is not None
    progress = replace(classification_result.progress, steps=3, best_step=0, stop_reason="interrupted")
    result = replace(classification_result, status="interrupted", progress=progress, stages=[])
    assert "3 of 500; interrupted; not evaluated yet" in summary_text(result, tmp_path)
    assert "Kept are" not in render_report(result, Curves(), tmp_path)


def test_paths_and_commands_are_never_broken(classification_result: RunResult, tmp_path: Path):
    folder = tmp_path / ("long-name-" * 15)
    (folder / "adapter").mkdir(parents=True)
    lines = summary_text(classification_result, folder, width=60).splitlines()
    assert f"adapter       {folder / 'adapter'}" in lines
    assert any(line.startswith(f"tunesmith merge {folder} --out DIR  #") for line in lines)


def test_narrow_terminals(chat_result: RunResult, folder: Path):
    lines = summary_text(chat_result, folder, width=50).splitlines()
    kept_whole = ("tunesmith ", "report ", "adapter ")
    assert max(len(line) for line in lines if not line.startswith(kept_whole)) <= 50


def test_results_at_80_columns(classification_result: RunResult, folder: Path):
    """A value and its interval stand below each other where they have no room side by side; neither is torn apart."""
    lines = summary_text(classification_result, folder, width=80).splitlines()
    row = next(number for number, line in enumerate(lines) if line.startswith("tuned model "))
    assert lines[row].split() == ["tuned", "model", "test", "86.0", "%", "85.9", "%"]
    assert lines[row + 1].split() == ["83.9", "to", "88.1", "%", "83.8", "to", "88.0", "%"]
    top = lines.index("Results") + 1
    assert lines[top].split() == ["accuracy", "macro-F1"]
    assert lines[top + 1].split() == ["model", "rows", "95", "%", "interval", "95", "%", "interval"]


def test_merging_is_offered_only_where_it_can_be_done(classification_result: RunResult, folder: Path):
    (folder / "adapter").mkdir(exist_ok=True)
    assert "tunesmith merge" in summary_text(classification_result, folder)
    classification_result.mergeable = False
    assert "tunesmith merge" not in summary_text(classification_result, folder)


def test_the_finding_of_the_run_is_shown_everywhere(classification_result: RunResult, folder: Path):
    """What the run said of forgetting is kept, so that no later reading of the numbers can tell another story."""
    classification_result.forgotten = finding = "forgot much as the run said"
    classification_result.save(folder)
    kept = RunResult.load(folder)
    for text in (summary_text(kept, folder), render_card(kept, folder), render_report(kept, Curves(), folder)):
        assert finding in text
