"""`report.html`: a run on one page that needs nothing but a browser: no network, no script."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from tunesmith import durable
from tunesmith.quantity import format_bytes, format_count, format_percent, format_seconds
from tunesmith.reports import breakdown, usage, wording
from tunesmith.reports.curves import Curves, read_curves
from tunesmith.reports.escape import printable, shell_word, shorten
from tunesmith.reports.figures import figures
from tunesmith.reports.result import BeforeAfter, RunResult, Stage
from tunesmith.reports.verdict import judge

if TYPE_CHECKING:
    from jinja2 import Environment

_TEMPLATES = Path(__file__).parent / "templates"
_MAX_NAME_CHARACTERS = 80
_MAX_EXAMPLES, _MAX_EXAMPLE_CHARACTERS, _MAX_SETTING_CHARACTERS = 30, 1500, 200


def write_report(result: RunResult, folder: Path) -> Path:
    """Write `report.html` into a run folder, whole or not at all, and give its path."""
    path = folder / usage.REPORT
    durable.write_file(path, render_report(result, read_curves(folder), folder))
    return path


def render_report(result: RunResult, curves: Curves, folder: Path) -> str:
    """The page of a run as HTML.

    Every text goes through the template's escaping; only the drawings, which are made here, are inserted as they are.
    """
    from markupsafe import Markup

    style = (_TEMPLATES / "report.css").read_text(encoding="utf-8")
    return (
        _environment()
        .get_template("report.html.jinja")
        .render(
            result=result,
            run_name=folder.name,
            title=f"{shorten(result.model.name, _MAX_NAME_CHARACTERS)} on {shorten(result.data.name, _MAX_NAME_CHARACTERS)}",
            verdict=judge(result),
            tiles=list(_tiles(result)),
            metrics=_metric_columns(result),
            groups=_stages_by_split(result),
            figures={
                place: [(figure.title, Markup(figure.svg)) for figure in found]
                for place, found in figures(result, curves).items()
            },
            examples=[_shortened(example) for example in result.examples[:_MAX_EXAMPLES]],
            settings=list(_flatten(result.settings)),
            method=list(_flatten({key: value for key, value in result.method.items() if key != "name"})),
            facts=_data_facts(result),
            model_facts=_model_facts(result),
            command=" ".join(shell_word(word) for word in result.command),
            next_commands=usage.next_commands(result, folder),
            codes=_codes(result, folder),
            style=Markup(style),
            style_hash=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(),
            wording=wording,
            breakdown=breakdown,
        )
    )


@cache
def _environment() -> Environment:
    """A template engine that escapes every text, writes out invisible characters, and fails on an unknown name."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    def finalize(value: object) -> object:
        return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    loader = FileSystemLoader(_TEMPLATES)
    return Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, finalize=finalize, trim_blocks=True, lstrip_blocks=True
    )


def _tiles(result: RunResult) -> Iterator[tuple[str, str, str]]:
    """The key numbers on top of the page: title, number, what it is beside."""
    verdict = judge(result)
    if verdict.metric and verdict.tuned:
        measure = verdict.tuned.metrics[verdict.metric]
        interval = wording.format_interval(verdict.metric, measure)
        title = f"{wording.metric_wording(verdict.metric).title}, {verdict.tuned.split}"
        yield title, wording.format_value(verdict.metric, measure.value), f"95 %: {interval}" if interval else "no interval"
    model, cost = result.model, result.cost
    share = format_percent(model.num_trainable / max(1, model.num_parameters), 2)
    if result.was_started:
        yield "trained parameters", share, f"{format_count(model.num_trainable)} of {format_count(model.num_parameters)}"
    if cost:
        yield "training time", format_seconds(cost.train_seconds), f"{format_seconds(cost.total_seconds)} in all"
        yield "speed", f"{format_count(cost.real_tokens_per_second)}/s", "real tokens, no padding counted"
        above = cost.memory_above_import_bytes
        yield "peak memory", format_bytes(cost.peak_memory_bytes), f"{format_bytes(above)} above the libraries" if above else ""


def _metric_columns(result: RunResult) -> list[str]:
    """The metrics of all stages, the ones people ask for first."""
    found = list(dict.fromkeys(name for stage in result.measured_stages for name in stage.metrics))
    return sorted(found, key=lambda name: wording.HEADLINE_ORDER.index(name) if name in wording.HEADLINE_ORDER else 99)


def _stages_by_split(result: RunResult) -> list[tuple[str, list[Stage]]]:
    """The stages of each part of the data, in the order they came; differences, which have other units, left out."""
    stages = result.measured_stages
    return [(split, [s for s in stages if s.split == split]) for split in dict.fromkeys(stage.split for stage in stages)]


def _flatten(tree: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Settings as dotted names with their values as text."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, f"{prefix}{key}.")
        elif value is None:
            yield f"{prefix}{key}", "automatic"
        else:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
            yield f"{prefix}{key}", shorten(text, _MAX_SETTING_CHARACTERS)


def _data_facts(result: RunResult) -> list[tuple[str, str]]:
    """What is known of the data, by name."""
    data = result.data
    rows = f"{data.num_train:,} to train, {data.num_validation:,} to validate, {data.num_test:,} to test"
    tokens = f"{data.train_tokens:,} to train, {data.labelled_tokens:,} of them with loss"
    facts = [("name", data.name), ("shape of a row", data.shape), ("rows", rows), ("rows left out", f"{data.num_skipped:,}")]
    facts += [("tokens", tokens), ("longest row allowed", f"{data.max_length:,} tokens")]
    facts += [("classes", ", ".join(data.labels))] if data.labels else []
    return [*facts, ("SHA-256", data.fingerprint)]


def _model_facts(result: RunResult) -> list[tuple[str, str]]:
    """What is known of the model, by name."""
    model = result.model
    facts = [("name", model.name), ("architecture", model.architecture), ("trained", wording.trainable_share(model))]
    facts += [("precision while training", model.precision), ("licence", model.license or "not recorded")]
    return [*facts, ("SHA-256", model.fingerprint)]


def _codes(result: RunResult, folder: Path) -> list[tuple[str, str]]:
    """Code to load the run, by what it needs; none before there are weights."""
    if usage.trained_folder(folder) is None:
        return []
    other = usage.other_code(result, folder, folder)
    return [("tunesmith", usage.tunesmith_code(result, folder)), *([other] if other else [])]


def _shortened(example: BeforeAfter) -> BeforeAfter:
    """The example with its texts cut to what a page can hold."""
    texts = (example.prompt, example.expected, example.before, example.after)
    prompt, expected, before, after = (shorten(text, _MAX_EXAMPLE_CHARACTERS) for text in texts)
    return BeforeAfter(prompt=prompt, expected=expected, before=before, after=after)
