"""The four canonical forms of a training row; whatever the file looked like, one of these comes out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Role = Literal["system", "user", "assistant", "tool"]
Task = Literal["chat", "classification", "text", "seq2seq"]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation; the loss is on the assistant's turns."""

    messages: tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Labelled:
    """A text, or a pair of texts, with the name of its class."""

    text: str
    label: str
    pair: str | None = None


@dataclass(frozen=True, slots=True)
class Text:
    """Plain text; the loss is on every token."""

    text: str


@dataclass(frozen=True, slots=True)
class SourceTarget:
    """What an encoder reads and what the decoder should write."""

    source: str
    target: str


Example = Chat | Labelled | Text | SourceTarget
