"""Text from data made harmless before it is shown: on a terminal, in Markdown, in YAML and in a command to copy.

HTML is escaped by the template engine itself; it too gets its text through `printable`, so that no invisible character
hides or reorders what a reader sees.
"""

from __future__ import annotations

import re
import shlex
import string
import unicodedata

_INVISIBLE = {0x061C, 0x180E, 0x200B, 0x200E, 0x200F, 0xFEFF, *range(0x202A, 0x202F), *range(0x2060, 0x2070)}
_FIRST_TAG, _LAST_TAG = 0xE0000, 0xE007F
_PLAIN = re.compile(r"[\w .,;:@/+=()%-]+")
_ACTIVE = re.compile(r"[^\w\s.,;()%'–…-]|(?<=www)\.|^\d+[.)](?=\s|$)|^-|_")
_ENTITIES = {ord(character): f"&#{ord(character)};" for character in string.punctuation if character not in ",;%"}


def printable(text: str, *, multiline: bool = True) -> str:
    r"""`text` with every control, bidirectional or invisible character written out, as in `\x1b` or `\u202e`.

    Args:
        text: Anything: a row of data, a label, the name of a file.
        multiline: Keep line breaks and tabs; otherwise they become single spaces.
    """
    text = text.replace("\r\n", "\n")
    if not multiline:
        text = re.sub(r"[ \t\n]+", " ", text).strip()
    return "".join(_written_out(character) for character in text)


def shorten(text: str, max_characters: int) -> str:
    """`text` cut to at most `max_characters`, with an ellipsis at the end if anything was cut."""
    return text if len(text) <= max_characters else text[: max_characters - 1].rstrip() + "…"


def markdown(text: str) -> str:
    """`text` as one line of Markdown that shows exactly it: a code span if it is plain, else every mark as an entity.

    An entity can neither open a link, a tag or a table cell, nor be picked up as a bare address.
    """
    text = printable(text, multiline=False)
    if _PLAIN.fullmatch(text):
        return f"`{text}`"
    return text.replace("www.", "www&#46;").translate(_ENTITIES) or "(empty)"


def markdown_prose(text: str) -> str:
    """A sentence as one line of Markdown: words and numbers as they are, every mark that could act as an entity."""
    text = printable(text, multiline=False)
    return _ACTIVE.sub(lambda found: "".join(f"&#{ord(character)};" for character in found[0]), text) or "(empty)"


def yaml_string(text: str) -> str:
    """`text` as a double-quoted YAML scalar on one line."""
    text = printable(text, multiline=False)
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def shell_word(text: str) -> str:
    """`text` as one word of a command line to copy, on one line and without control characters."""
    return shlex.quote(printable(text, multiline=False))


def _written_out(character: str) -> str:
    """The character itself, or its escape if it would act on the display instead of being seen."""
    code = ord(character)
    if 0x20 <= code < 0x7F or character in "\n\t":
        return character
    acts = code in _INVISIBLE or _FIRST_TAG <= code <= _LAST_TAG or unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"}
    if not acts:
        return character
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
