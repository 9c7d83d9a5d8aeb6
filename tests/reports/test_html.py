"""The page of a run: whole, self-contained, and true to the run."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace
from pathlib import Path

import pytest

from tunesmith.measure import Measure
from tunesmith.reports.curves import Curves, read_curves
from tunesmith.reports.html import render_report, write_report
from tunesmith.reports.result import RunResult, Stage

SECTIONS = ["Results", "Training", "What it forgot", "Before and after", "How to use it", "Data"]
SECTIONS += ["Model and method", "Settings", "Versions and machine"]


def sections(page: str) -> list[str]:
    return re.findall(r"<section>\s*<h2>(.*?)</h2>", page)


def test_every_section_is_there(classification_result: RunResult, chat_result: RunResult, run_folder: Path):
    for result in (classification_result, chat_result):
        assert sections(render_report(result, read_curves(run_folder), run_folder)) == SECTIONS


def test_the_page_loads_and_runs_nothing(classification_result: RunResult, run_folder: Path):
    page = render_report(classification_result, read_curves(run_folder), run_folder)
    assert "<script" not in page
    assert not re.search(r"(src|action|srcset|poster|style)=", page)
    assert [link for link in re.findall(r'href="([^"]*)"', page) if not link.startswith("#")] == []
    assert "http:" not in page
    assert "https:" not in page
    assert "@import" not in page


def test_the_policy_names_the_hash_of_the_style(classification_result: RunResult):
    page = render_report(replace(classification_result, stages=[]), Curves(), Path("x"))
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    assert policy[1] == f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"
    assert page.index("Content-Security-Policy") < page.index("<style>") < page.index("<body>")


def test_light_dark_and_paper(classification_result: RunResult):
    page = render_report(replace(classification_result, stages=[]), Curves(), Path("x"))
    assert "prefers-color-scheme: dark" in page
    assert "@media print" in page
    assert 'name="viewport"' in page


def test_numbers_of_the_run_are_shown(classification_result: RunResult, run_folder: Path):
    page = render_report(classification_result, Curves(), run_folder)
    for text in (
        "83.9 to 88.1 %",
        "5.15 %",
        "610 MB above the libraries",
        "2 min 51 s in all",
        "3,700/s",
        "training.learning_rate",
        "0.001",
    ):
        assert text in page
    assert 'class="headline better"' in page
    assert "✗&nbsp;positive" in page
    assert "✓&nbsp;positive" in page
    assert "cd" * 32 in page


def test_the_note_on_intervals_says_what_decided(chat_result: RunResult):
    overlap = "Where the intervals of two models overlap"
    assert overlap in render_report(chat_result, Curves(), Path("x"))
    paired = Measure(value=-0.3, low=-0.4, high=-0.2)
    chat_result.stages.append(Stage(name="paired difference", kind="difference", split="test", metrics={"loss": paired}))
    page = render_report(chat_result, Curves(), Path("x"))
    assert "perplexity falls" in page
    assert overlap not in page
    assert "decided by the difference row by row" in page


def test_labels_keep_together_and_say_their_column_on_a_narrow_screen(classification_result: RunResult):
    page = render_report(classification_result, Curves(), Path("x"))
    for column in ("expected", "before", "after"):
        assert f'<td data-column="{column}">' in page
    assert ".rows td + td { overflow-wrap: normal; }" in page
    assert "content: attr(data-column)" in page


@pytest.mark.parametrize("status", ["running", "failed", "interrupted"])
def test_a_run_that_did_not_finish_has_a_page(classification_result: RunResult, tmp_path: Path, status: str):
    bare = replace(
        classification_result, status=status, error="broke", progress=None, stages=[], retention={}, examples=[], cost=None
    )
    page = render_report(bare, Curves(), tmp_path)
    assert sections(page) == ["How to use it", *SECTIONS[5:]]
    assert (f"tunesmith resume {tmp_path}" in page) == (status != "running"), "a run is resumed by one process at a time"


def test_long_texts_are_cut(chat_result: RunResult):
    chat_result.examples = [replace(chat_result.examples[0], after="long " * 100_000)]
    page = render_report(replace(chat_result, stages=[]), Curves(), Path("x"))
    assert len(page) < 60_000


def test_written_into_the_folder(classification_result: RunResult, tmp_path: Path):
    result = replace(classification_result, stages=[])
    path = write_report(result, tmp_path)
    assert path == tmp_path / "report.html"
    assert path.read_text(encoding="utf-8") == render_report(result, Curves(), tmp_path)
