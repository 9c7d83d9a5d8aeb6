"""A drawing may stand in a page that forbids styles, scripts and the network."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from tunesmith.reports.svg import COLOURS, SMALL, draw


@pytest.fixture(scope="module")
def drawing() -> str:
    def plot(axes: object) -> None:
        axes.plot([1, 2], [3, 4], color=COLOURS["first"], marker="o", label='id="a" url(#b) style="c:d" <b> $x$ 漢')  # type: ignore[attr-defined]
        axes.legend()  # type: ignore[attr-defined]

    return draw("first", 'a "drawing" <of> x', SMALL, plot)


def test_it_is_whole(drawing: str):
    root = ElementTree.fromstring(drawing)
    assert root.attrib["aria-label"] == 'a "drawing" <of> x'
    assert re.fullmatch(r"0 0 [\d.]+ [\d.]+", root.attrib["viewBox"])


def test_text_is_kept_as_it_is(drawing: str):
    texts = [element.text for element in ElementTree.fromstring(drawing).iter("text")]
    assert 'id="a" url(#b) style="c:d" <b> $x$ 漢' in texts


def test_no_style_no_metadata_no_script(drawing: str):
    root = ElementTree.fromstring(drawing)
    assert {element.tag for element in root.iter()} <= {"svg", "g", "path", "defs", "use", "text", "clipPath", "rect"}
    assert [element.tag for element in root.iter() if "style" in element.attrib] == []


def test_colours_are_the_pages(drawing: str):
    values = {e.attrib[key] for e in ElementTree.fromstring(drawing).iter() for key in ("fill", "stroke") if key in e.attrib}
    assert values <= {"none"} | {f"var(--{name})" for name in COLOURS}
    assert "var(--first)" in values


def test_two_drawings_share_no_ids(drawing: str):
    other = draw("second", "other", SMALL, lambda axes: None)
    ids = [set(re.findall(r' id="([^"]*)"', svg)) for svg in (drawing, other)]
    assert ids[0]
    assert ids[1]
    assert not ids[0] & ids[1]
    references = set(re.findall(r'href="#([^"]*)"', drawing))
    assert references
    assert references <= ids[0]


def test_the_same_again_is_the_same():
    assert draw("same", "x", SMALL, lambda axes: None) == draw("same", "x", SMALL, lambda axes: None)
