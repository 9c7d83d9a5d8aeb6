"""Conversations as people write them (role/content, from/value, parts, JSON text) to messages."""

from __future__ import annotations

import json
from collections.abc import Iterable

from tunesmith.data.examples import Message, Role

_ROLES: dict[str, Role] = {
    "system": "system", "developer": "system", "user": "user", "human": "user", "prompter": "user", "assistant": "assistant",
    "gpt": "assistant", "bot": "assistant", "chatgpt": "assistant", "model": "assistant", "ai": "assistant", "tool": "tool",
    "function": "tool", "observation": "tool", "ipython": "tool", "function_response": "tool",
}  # fmt: skip


class Unusable(Exception):
    """A row cannot be trained on; the message says why in a few words."""


def clean_text(value: object, what: str) -> str:
    """The value, if it is text that a tokenizer can take; a number in a text column is the text of it.

    Raises:
        Unusable: If it is something else, or damaged.
    """
    if not isinstance(value, str):
        if isinstance(value, (int, float)) and not isinstance(value, bool) and value == value:
            return str(value)
        raise Unusable(f"empty {what}" if value is None or value != value else f"{what} is not text but {_kind(value)}")
    if not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise Unusable(f"{what} holds half a character (a lone surrogate)") from None
    if "\0" in value:
        raise Unusable(f"{what} holds a NUL character")
    return value


def text_or_messages(value: object, what: str) -> str | tuple[Message, ...]:
    """A prompt or answer: text, or the messages that it consists of.

    Raises:
        Unusable: If it is neither.
    """
    if isinstance(value, (list, tuple)) and value:
        return tuple(_message(item) for item in value)
    return clean_text(value, what) if value is not None else ""


def to_messages(value: object) -> tuple[Message, ...]:
    """The messages up to the last one of the assistant.

    Raises:
        Unusable: If it is no conversation, the assistant says nothing, or there is nothing it answers to.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise Unusable("the messages are text, not a list") from None
    if not isinstance(value, Iterable) or isinstance(value, (str, dict)):
        raise Unusable("no messages" if value is None else f"the messages are {_kind(value)}, not a list")
    messages = [item if isinstance(item, Message) else _message(item) for item in value]
    while messages and messages[-1].role != "assistant":
        messages.pop()
    if not messages:
        raise Unusable("no turn of the assistant")
    answers = [message.content for message in messages if message.role == "assistant"]
    if not any(answer.strip() for answer in answers) or not answers[-1].strip():
        raise Unusable("empty answer")
    if messages[0].role == "assistant" and len(answers) == len(messages):
        raise Unusable("nothing before the answer")
    if all(not message.content.strip() for message in messages if message.role != "assistant"):
        raise Unusable("empty prompt")
    if any(message.role == "system" for message in messages[1:]):
        raise Unusable("a system turn inside the conversation")
    return tuple(messages)


def _message(item: object) -> Message:
    """One message of either spelling."""
    if not isinstance(item, dict):
        raise Unusable(f"a message is {_kind(item)}, not an object with role and content")
    role = item.get("role", item.get("from"))
    if not isinstance(role, str):
        raise Unusable("a message without a role")
    known = _ROLES.get(role.strip().lower())
    if known is None:
        raise Unusable(f"unknown role {role[:20]!r}")
    content = item.get("content", item.get("value"))
    if content is None and item.get("tool_calls"):
        raise Unusable("tool calls")
    if isinstance(content, list):
        content = "".join(_part(part) for part in content)
    return Message(known, clean_text("" if content is None else content, "message"))


def _part(part: object) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, dict) and isinstance(part.get("text"), str):
        return part["text"]
    raise Unusable("a message with something else than text (a picture?)")


def _kind(value: object) -> str:
    names = {"dict": "an object", "list": "a list", "bool": "true or false", "str": "text", "NoneType": "nothing"}
    return names.get(type(value).__name__, f"a {type(value).__name__}")
