"""`README.md` of a run folder: a model card that a model hub understands and a person can read."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from tunesmith import durable
from tunesmith.quantity import format_bytes, format_seconds
from tunesmith.reports import usage, wording
from tunesmith.reports.escape import markdown, markdown_prose, printable, shell_word, yaml_string
from tunesmith.reports.result import RunResult
from tunesmith.reports.verdict import judge

FILE_NAME = "README.md"
_PIPELINES = {"classification": "text-classification", "seq2seq": "text2text-generation"}
_HUB_METRICS = {
    "accuracy": "accuracy",
    "macro_f1": "f1",
    "rouge_l": "rouge",
    "exact_match": "exact_match",
    "perplexity": "perplexity",
}
_LICENCE_ID = re.compile(r"[a-z0-9][a-z0-9.-]*")


def write_card(result: RunResult, folder: Path) -> Path:
    """Write the model card into a run folder, whole or not at all, and give its path."""
    path = folder / FILE_NAME
    durable.write_file(path, render_card(result, folder))
    return path


def render_card(result: RunResult, folder: Path) -> str:
    """The model card as Markdown with YAML front matter.

    It names the data by its fingerprint and holds none of its rows: a card is made to be published, the data may not be.
    """
    model = result.model
    parts = [
        "---",
        *_front_matter(result, folder),
        "---",
        "",
        f"# {markdown(model.name)} tuned on {markdown(result.data.name)}",
        "",
        markdown_prose(judge(result).sentence),
        *_section("Results", _results(result)),
        *_section("What it forgot", _forgotten(result)),
        *_section("How to load it", _loading(result, folder)),
        *_section("Data", _data(result)),
        *_section("Training", _training(result)),
        *_section("Limits", _limits(result)),
    ]
    return "\n".join(parts) + "\n"


def _front_matter(result: RunResult, folder: Path) -> Iterator[str]:
    """What a model hub reads."""
    licence = (result.model.license or "").lower()
    if _LICENCE_ID.fullmatch(licence):
        yield f"license: {yaml_string(licence)}"
    if usage.is_hub_id(result.model.name):
        yield f"base_model: {yaml_string(result.model.name)}"
    yield f"library_name: {usage.library(folder)}"
    yield f"pipeline_tag: {_PIPELINES.get(result.task, 'text-generation')}"
    yield "tags:"
    yield "- tunesmith"
    yield f"- {yaml_string(str(result.method.get('name', 'unknown')))}"
    tuned = judge(result).tuned
    measured = [hub for name, hub in _HUB_METRICS.items() if tuned and name in tuned.metrics]
    if measured:
        yield "metrics:"
        yield from (f"- {name}" for name in measured)


def _section(title: str, lines: Iterator[str]) -> list[str]:
    """A section with its heading, or nothing if it has no lines."""
    body = list(lines)
    return ["", f"## {title}", "", *body] if body else []


def _results(result: RunResult) -> Iterator[str]:
    """A table of all metrics with their intervals."""
    metrics = list(dict.fromkeys(name for stage in result.measured_stages for name in stage.metrics))
    if not metrics:
        return
    titles = [markdown_prose(wording.metric_wording(name).title) for name in metrics]
    yield f"| model | rows | {' | '.join(titles)} |"
    yield f"| --- | --- |{' ---: |' * len(metrics)}"
    for stage in result.measured_stages:
        cells = [wording.format_measure(name, stage.metrics[name]) if name in stage.metrics else "–" for name in metrics]
        name, split = (markdown_prose(text) for text in (stage.name, stage.split))
        yield f"| {name} | {split} | {' | '.join(cells)} |"
    yield ""
    yield "In brackets: 95 % intervals."


def _forgotten(result: RunResult) -> Iterator[str]:
    """What all retention gauges say together, and each of them."""
    if result.forgotten:
        yield markdown_prose(result.forgotten)
        yield ""
    for name, measure in result.retention.items():
        title = markdown_prose(wording.title_of(name))
        yield f"- {title}: {wording.format_measure(name, measure)}. {wording.gauge_explanation(name)}"


def _loading(result: RunResult, folder: Path) -> Iterator[str]:
    """Code for tunesmith and for the libraries whose formats it is written in."""
    if usage.trained_folder(folder) is None:
        return
    verb = "evaluate" if result.task == "classification" else "chat"
    here = Path(folder.name)
    yield from _fence("bash", f"tunesmith {verb} {shell_word(str(here))}{' DATA' if verb == 'evaluate' else ''}")
    yield from _fence("python", usage.tunesmith_code(result, here))
    if other := usage.other_code(result, folder, here):
        libraries, code = other
        yield f"Without tunesmith, by {libraries}:"
        yield ""
        yield from _fence("python", code)
    elif result.mergeable:
        yield "The adapter is in tunesmith's own format. This writes an ordinary transformers model with it:"
        yield ""
        yield from _fence("bash", f"tunesmith merge {shell_word(str(here))} --out DIR")
    else:
        yield "The adapter is in tunesmith's own format, which no other library reads."


def _data(result: RunResult) -> Iterator[str]:
    """What it was tuned on, without a row of it."""
    data = result.data
    yield f"- Name: {markdown(data.name)}, rows of the shape {markdown(data.shape)}"
    yield f"- SHA-256 of the files: {markdown(data.fingerprint)}"
    yield (
        f"- Rows: {data.num_train:,} to train, {data.num_validation:,} to validate, {data.num_test:,} to test; "
        f"{data.num_skipped:,} left out"
    )
    yield f"- Tokens: {data.train_tokens:,} to train, {data.labelled_tokens:,} of them with loss"
    if data.labels:
        yield f"- Classes: {', '.join(markdown(label) for label in data.labels)}"


def _training(result: RunResult) -> Iterator[str]:
    """How it was tuned, what it took, and every setting."""
    method = str(result.method.get("name", "unknown"))
    yield f"- Method: {markdown(method)}; trained {wording.trainable_share(result.model)} parameters, seed {result.seed}"
    yield f"- Base model: {markdown(result.model.architecture)}, SHA-256 {markdown(result.model.fingerprint)}"
    if result.progress:
        kept, steps = result.progress.best_step, result.progress.steps
        metric = wording.metric_wording(result.progress.best_metric).title
        yield f"- Weights of step {kept:,} of {steps:,}, best by {markdown(metric)}"
    if result.cost:
        cost = result.cost
        memory = format_bytes(cost.peak_memory_bytes)
        yield f"- Took {format_seconds(cost.train_seconds)} of training, peak {memory}, {wording.tokens_per_second(cost)}"
    yield f"- Versions: {', '.join(markdown(f'{name} {version}') for name, version in result.versions.items())}"
    yield ""
    yield from _fence("json", json.dumps({"method": result.method, "settings": result.settings}, indent=2, default=str))


def _limits(result: RunResult) -> Iterator[str]:
    """What a reader must know before relying on it."""
    yield "Measured on the rows named above and on nothing else: expect other numbers on text of another kind."
    if not result.model.license:
        yield ""
        yield "The licence of the base model was not recorded. Look it up before sharing these weights."
    yield ""
    for warning in result.warnings:
        yield f"- {markdown_prose(warning)}"


def _fence(language: str, code: str) -> Iterator[str]:
    """A block of code. Text from data is quoted on one line of it, so that no line of its own can close the block."""
    yield f"```{language}"
    yield printable(code)
    yield "```"
    yield ""
