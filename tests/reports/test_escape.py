"""Text from data does nothing: not on a terminal, not in Markdown, not in YAML, not in a shell."""

from __future__ import annotations

import shlex
import subprocess
import unicodedata

import pytest

from hostile_texts import PAYLOADS
from tunesmith.reports.escape import markdown, markdown_prose, printable, shell_word, shorten, yaml_string


def acts_on_a_display(text: str) -> bool:
    return any(unicodedata.category(c) in {"Cc", "Cs", "Zl", "Zp"} and c != "\n" for c in text) or any(
        c in text for c in "\u202e\u2066\u200b\ufeff\U000e0041"
    )


def test_the_corpus_is_hostile():
    assert len(PAYLOADS) == len(set(PAYLOADS)) >= 60
    assert sum(acts_on_a_display(payload) for payload in PAYLOADS) >= 8


@pytest.mark.parametrize("payload", PAYLOADS)
def test_nothing_acts_on_a_display(payload: str):
    assert not acts_on_a_display(printable(payload).replace("\t", ""))
    for escape in (markdown, markdown_prose, yaml_string, shell_word):
        assert not acts_on_a_display(escape(payload))
        assert "\n" not in escape(payload)


def test_what_was_there_can_still_be_seen():
    assert printable("\x1b[31mred\r") == r"\x1b[31mred\x0d"
    assert printable("a\u202eb\U000e0041") == r"a\u202eb\U000e0041"
    assert printable("one\r\ntwo\tthree") == "one\ntwo\tthree"
    assert printable(" one\r\n two\tthree ", multiline=False) == "one two three"
    assert printable("עברית 漢字 e\u0301 👩\u200d🚀") == "עברית 漢字 e\u0301 👩\u200d🚀"


def test_plain_names_stay_readable_in_markdown():
    assert markdown("starter:movie-reviews") == "`starter:movie-reviews`"
    assert markdown("a|b") == "a&#124;b"
    assert markdown("") == "(empty)"
    assert markdown_prose("accuracy is 86.0 % (83.9 to 88.1 %).") == "accuracy is 86.0 % (83.9 to 88.1 %)."


def test_a_shell_reads_one_word():
    for payload in PAYLOADS:
        assert shlex.split(shell_word(payload)) == [printable(payload, multiline=False)]
    hostile = [payload for payload in PAYLOADS if payload.isprintable() and len(payload) < 100]
    script = "\n".join(f"printf '%s\\n' {shell_word(payload)}" for payload in hostile)
    shown = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout.splitlines()
    assert shown == [printable(payload, multiline=False) for payload in hostile]


def test_shorten():
    assert shorten("12345", 5) == "12345"
    assert shorten("123456", 5) == "1234…"
