"""Hostile text in every field of a run changes what a report says, never what it is."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from hostile_texts import PAYLOADS
from tunesmith.measure import Measure
from tunesmith.reports.card import render_card
from tunesmith.reports.curves import Curves, read_curves
from tunesmith.reports.html import render_report
from tunesmith.reports.result import BeforeAfter, RunResult, Stage
from tunesmith.reports.summary import summarise, summary_text

TEXT_ATTRIBUTES = {"aria-label"}
DRAWN = {"svg", "g", "path", "defs", "use", "text", "clippath", "rect"}
ALLOWED = DRAWN | {
    "html",
    "head",
    "meta",
    "title",
    "style",
    "body",
    "header",
    "main",
    "footer",
    "section",
    "article",
    "h1",
    "h2",
}
ALLOWED |= {"h3", "p", "ul", "li", "dl", "dt", "dd", "div", "span", "table", "thead", "tbody", "tr", "th", "td", "pre", "code"}
ALLOWED |= {"figure", "figcaption"}


class Structure(HTMLParser):
    """The elements of a page with their attributes, and its text, without what is free to differ."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, tuple[tuple[str, str | None], ...]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        kept = tuple((name, value) for name, value in attrs if name not in TEXT_ATTRIBUTES)
        self.elements.append((tag, kept))

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_comment(self, data: str) -> None:
        self.elements.append(("comment", ()))

    @property
    def names(self) -> Counter[tuple[str, tuple[str, ...]]]:
        """How often each element with the names of its attributes occurs; drawings, which move with their text, left out."""
        return Counter((tag, tuple(name for name, _ in attributes)) for tag, attributes in self.elements if tag not in DRAWN)


def with_text(result: RunResult, text: str) -> RunResult:
    """The run with `text` in every field that is free text."""
    metric = Measure(value=0.5, low=0.4, high=0.6, count=10)
    stages = [
        *result.stages,
        Stage(name=f"{text}s", kind="tuned", split="test", metrics={"accuracy": metric, f"{text}m": metric}),
    ]
    return replace(
        result,
        task=result.task,
        method={"name": text, f"{text}k": text},
        command=["tunesmith", "fit", text],
        settings={f"{text}k": {"inner": text, "list": [text]}},
        versions={f"{text}k": text},
        machine={f"{text}k": text},
        model=replace(result.model, name=text, architecture=text, license=text or "none", fingerprint=text, precision=text),
        data=replace(result.data, name=text, shape=text, description=text, fingerprint=text, labels=[text, f"{text}2"]),
        progress=replace(result.progress, stop_reason=text, best_metric=text),
        stages=stages,
        retention={f"{text}g": metric},
        examples=[BeforeAfter(prompt=text, expected=text, before=text, after=f"{text}.")],
        warnings=[text],
        error=text,
        created=text,
    )


def without_figures(result: RunResult) -> RunResult:
    return replace(result, stages=[])


@pytest.mark.parametrize("payload", PAYLOADS)
@pytest.mark.parametrize("task", ["classification", "chat"])
def test_a_page_keeps_its_elements(classification_result: RunResult, payload: str, task: str):
    base = without_figures(replace(classification_result, task=task))
    harmless = Structure(render_report(without_figures(with_text(base, "harmless")), Curves(), Path("harmless")))
    page = render_report(
        without_figures(with_text(base, payload)), Curves(), Path("run") / (payload.replace("\0", "")[:80] or "x")
    )
    hostile = Structure(page)
    assert hostile.names == harmless.names
    assert [e for e in hostile.elements if e[0] == "meta"][1][1][1][1].startswith("default-src 'none'")
    page.encode("utf-8")


def test_a_page_with_drawings_holds_nothing_but_known_elements(classification_result: RunResult, run_folder: Path):
    everything = "".join(PAYLOADS)
    result = with_text(classification_result, everything)
    result.stages += [Stage(name=text, kind="tuned", split=text, metrics={text: Measure(value=1.0)}) for text in PAYLOADS[:40]]
    result.data = replace(result.data, labels=PAYLOADS)
    result.warnings = PAYLOADS
    page = render_report(result, read_curves(run_folder), run_folder)
    structure = Structure(page)
    assert {tag for tag, _ in structure.elements} <= ALLOWED
    attributes = [(tag, name, value or "") for tag, found in structure.elements for name, value in found]
    assert [a for a in attributes if a[1].startswith("on") or a[1] in ("style", "src", "action")] == []
    assert [a for a in attributes if a[1] == "href" and not a[2].startswith("#")] == []
    assert [a for a in attributes if "url(" in a[2] and not re.fullmatch(r"url\(#[\w-]+\)", a[2])] == []


def test_the_corpus_would_show_a_missing_escape(classification_result: RunResult):
    harmless = Structure(render_report(without_figures(classification_result), Curves(), Path("x")))
    page = render_report(without_figures(classification_result), Curves(), Path("x"))
    caught = [p for p in PAYLOADS if Structure(page.replace("never tires.", p)).names != harmless.names]
    assert len(caught) >= 20


def test_hostile_text_is_still_shown(classification_result: RunResult):
    page = Structure(render_report(with_text(classification_result, "<b>\x1b[1m</b>"), Curves(), Path("x")))
    assert r"<b>\x1b[1m</b>" in page.text


@pytest.mark.parametrize("payload", PAYLOADS)
def test_a_card_keeps_its_blocks(classification_result: RunResult, adapter_folder: Path, payload: str):
    parser = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    harmless, hostile = (render_card(with_text(classification_result, text), adapter_folder) for text in ("harmless", payload))
    blocks = [parser.parse(card.split("\n---\n", 1)[1]) for card in (harmless, hostile)]
    assert [token.type for token in blocks[1]] == [token.type for token in blocks[0]]
    inline = {child.type for token in blocks[1] for child in token.children or []}
    assert inline <= {"text", "code_inline", "text_special"}
    assert not re.search(
        r"(?<!`)(https?:|www\.)", re.sub(r"```.*?\n```\n|`[^`\n]*`", "", hostile.split("\n---\n", 1)[1], flags=re.DOTALL)
    )


@pytest.mark.parametrize("payload", PAYLOADS)
def test_front_matter_says_only_what_was_meant(classification_result: RunResult, adapter_folder: Path, payload: str):
    from huggingface_hub import ModelCard

    card = ModelCard(render_card(with_text(classification_result, payload), adapter_folder), ignore_metadata_errors=False)
    allowed = {"license", "library_name", "pipeline_tag", "tags", "metrics"}
    assert set(card.data.to_dict()) <= allowed
    assert card.data.library_name == "peft"


@pytest.mark.parametrize("payload", PAYLOADS)
def test_a_terminal_gets_text_only(classification_result: RunResult, adapter_folder: Path, payload: str):
    result = with_text(classification_result, payload)
    text = summary_text(replace(result, status="failed"), adapter_folder)
    text += summary_text(result, adapter_folder / (payload.replace("\0", "")[:100] or "x"))
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u200b\ufeff\ud800-\udfff]", text)


def test_markup_of_a_console_is_shown_not_obeyed(classification_result: RunResult, run_folder: Path):
    from rich.console import Console

    result = with_text(classification_result, "[bold red]x[/bold red] :smiley:")
    console = Console(width=120, color_system="truecolor", force_terminal=True)
    segments = list(console.render(summarise(result, run_folder)))
    assert "[bold red]x[/bold red] :smiley:" in "".join(segment.text for segment in segments)
    assert not any(segment.style and segment.style.link for segment in segments)
