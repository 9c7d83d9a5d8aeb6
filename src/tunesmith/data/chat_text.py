"""Conversations as the text that the model reads, with the exact characters that it must learn to write.

The place of an answer in a rendering is found by rendering the conversation with marks in place of the contents: what stands
before, between and behind the marks is the template's own. The frames between the marks depend on the roles alone, so one
rendering serves all conversations with the same roles; rows on which a template could act differently (white space at an
edge, a content that names one of the template's own markers) are rendered one by one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tunesmith.data.examples import Chat, Message
from tunesmith.data.template import ChatTemplate, Refusal

SAMPLE_ROWS = 100
_MARK = "\ue000\ue0f7\ue001"
_MARKS = re.compile("\ue000\\d+\ue001")
_LITERAL = re.compile(r"'((?:[^'\\\n]|\\.)*)'|\"((?:[^\"\\\n]|\\.)*)\"")


@dataclass(frozen=True, slots=True)
class ChatText:
    """A conversation in the model's own format, up to the end of its last answer."""

    text: str
    spans: tuple[tuple[int, int], ...]
    """Start and end, in characters, of what carries loss: each answer with its end-of-turn token."""


_Written = ChatText | Refusal


@dataclass(frozen=True)
class _Frame:
    """What a template writes around the contents of a conversation with certain roles."""

    pieces: tuple[str, ...]
    """Before the first content, between the contents, behind the last."""
    lead: int
    """How many characters before the last answer the model has to write itself (an empty thought, for instance)."""


class ChatWriter:
    """Writes conversations with one template and one set of special tokens."""

    def __init__(self, template: ChatTemplate, special_texts: Sequence[str], eos: str) -> None:
        """Prepare to write.

        Args:
            template: The template, in its sandbox.
            special_texts: The tokenizer's special tokens, as text.
            eos: The text of the token that ends a text.
        """
        self._template = template
        self._special = re.compile("|".join(map(re.escape, sorted(special_texts, key=len, reverse=True))) or r"(?!)")
        self._eos = eos
        self._frames: dict[tuple[str, ...], _Frame | Refusal] = {}
        literals = {first or second for first, second in _LITERAL.findall(template.source)}
        markers = sorted(text for text in literals if text.strip() and not text.isidentifier() and len(text) > 1)
        self._risky = re.compile("|".join(map(re.escape, markers)) or r"(?!)")
        self.ends_turns = True
        """Whether the template ends the last answer with a token of its own; if not, EOS is put there."""
        self.merges_system = False
        """Whether the template has no place for the system's turn, so that it is put before the user's first."""

    def write(self, chats: Sequence[Chat]) -> list[ChatText | Refusal]:
        """Each conversation as text, or why it cannot be written."""
        conversations = [chat.messages for chat in chats]
        written: list[ChatText | Refusal | None] = [self._write_by_frame(messages) for messages in conversations]
        if self._frames_are_wrong(conversations, written):
            written = [None] * len(conversations)
        slow = [index for index, item in enumerate(written) if item is None]
        for index, item in zip(slow, self._write_slowly([conversations[i] for i in slow]), strict=True):
            written[index] = item
        return [item for item in written if item is not None]

    def prompt(self, messages: Sequence[Message]) -> str | Refusal:
        """What the model reads before it writes the next answer; a prefix of what it was trained on."""
        mark = (*messages, Message("assistant", _MARK))
        messages, mark = self._adapted(messages), self._adapted(mark)
        rendered, flagless = self._template.render([messages], add_generation_prompt=True), self._template.render([messages])
        if isinstance(rendered[0], Refusal) or rendered[0] != flagless[0]:
            return rendered[0]
        whole = self._template.render([mark])[0]
        return whole if isinstance(whole, Refusal) else whole[: whole.index(_MARK)]

    def _write_by_frame(self, messages: tuple[Message, ...]) -> ChatText | Refusal | None:
        """The conversation by its roles' frame, or None if it must be rendered by itself."""
        contents = [message.content for message in messages]
        for text in contents:
            if not text or text[0].isspace() or text[-1].isspace() or self._risky.search(text):
                return None
        frame = self._frame(tuple(message.role for message in messages))
        if isinstance(frame, Refusal):
            return frame if frame.reason else None
        if len(frame.pieces) == len(contents):
            first, second, *others = contents
            contents = [f"{first}\n\n{second}", *others]
            messages = self._merged(messages)
        return self._join(frame, contents, [message.role == "assistant" for message in messages])

    def _join(self, frame: _Frame, contents: Sequence[str], answers: Sequence[bool]) -> ChatText:
        """Contents set into a frame, up to the end of the last answer."""
        end_text = self._end_of_turn(frame.pieces[-1])
        parts, spans, position, last = [], [], 0, len(contents) - 1
        for index, (piece, content) in enumerate(zip(frame.pieces, contents, strict=False)):
            start = position + len(piece)
            position = start + len(content)
            parts += [piece, content]
            if answers[index]:
                tail = frame.pieces[index + 1]
                ended = end_text if index == last or tail.startswith(end_text) else ""
                spans.append((start - (frame.lead if index == last else 0), position + len(ended)))
        parts.append(end_text)
        return ChatText("".join(parts), tuple(spans))

    def _end_of_turn(self, tail: str) -> str:
        """What ends an answer: the template's text up to its first special token, or EOS if it has none."""
        found = self._special.search(tail)
        if found is None:
            self.ends_turns = False
            return self._eos
        following = self._special.match(tail, found.end())
        return tail[: following.end() if following and following[0] == self._eos else found.end()]

    def _frame(self, roles: tuple[str, ...]) -> _Frame | Refusal:
        """The frame for these roles; a refusal without a reason means that the template has none."""
        if roles not in self._frames:
            frame = self._render_frame(roles)
            if isinstance(frame, Refusal) and roles[0] == "system" and len(roles) > 2:
                merged = self._render_frame(roles[1:])
                if isinstance(merged, _Frame):
                    frame, self.merges_system = merged, True
            self._frames[roles] = frame
        return self._frames[roles]

    def _render_frame(self, roles: tuple[str, ...]) -> _Frame | Refusal:
        marks = [f"\ue000{index}\ue001" for index in range(len(roles))]
        messages = [Message(role, mark) for role, mark in zip(roles, marks, strict=True)]  # type: ignore[arg-type]
        whole, before = self._template.render([messages, messages[:-1]])
        prompt = self._template.render([messages[:-1]], add_generation_prompt=True)[0]
        if isinstance(whole, Refusal):
            return whole
        pieces = _MARKS.split(whole)
        if _MARKS.findall(whole) != marks:
            return Refusal("" if all(mark in whole for mark in marks) else "the template leaves a turn out")
        head = len(whole) - len(pieces[-1]) - len(marks[-1])
        if not isinstance(prompt, str) or prompt == before or not whole.startswith(prompt) or len(prompt) > head:
            return _Frame(tuple(pieces), 0)
        return _Frame(tuple(pieces), head - len(prompt))

    def _frames_are_wrong(
        self, conversations: Sequence[tuple[Message, ...]], written: Sequence[ChatText | Refusal | None]
    ) -> bool:
        """Whether any of a sample, rendered in earnest, differs from what the frames gave."""
        joined = [(index, item) for index, item in enumerate(written) if isinstance(item, ChatText)]
        sample = joined[:: max(1, len(joined) // SAMPLE_ROWS)]
        rendered = self._template.render([self._adapted(conversations[index]) for index, _ in sample])
        for (_, item), text in zip(sample, rendered, strict=True):
            known = item.text if self.ends_turns else item.text.removesuffix(self._eos)
            if not isinstance(text, str) or not text.startswith(known):
                return True
        return False

    def _adapted(self, messages: Sequence[Message]) -> tuple[Message, ...]:
        """The messages as the template takes them."""
        messages = tuple(messages)
        if not messages or messages[0].role != "system" or len(messages) < 2:
            return messages
        frame = self._frame(tuple(message.role for message in messages))
        merged = isinstance(frame, _Frame) and len(frame.pieces) == len(messages)
        return self._merged(messages) if merged else messages

    def _merged(self, messages: tuple[Message, ...]) -> tuple[Message, ...]:
        system, first, *others = messages
        return (replace(first, content=f"{system.content}\n\n{first.content}"), *others)

    def _write_slowly(self, conversations: Sequence[tuple[Message, ...]]) -> list[ChatText | Refusal]:
        """Conversations rendered one by one, with a mark in place of one answer after the other."""
        adapted = [self._adapted(messages) for messages in conversations]
        wanted: list[tuple[Message, ...]] = []
        for messages in adapted:
            wanted.append(messages)
            for index in _answers(messages):
                marked = replace(messages[index], content=_MARK)
                wanted.append((*messages[:index], marked, *messages[index + 1 :]))
        rendered = iter(self._template.render(wanted))
        written: list[ChatText | Refusal] = []
        for messages in adapted:
            whole, *marked = [next(rendered) for _ in range(1 + len(_answers(messages)))]
            written.append(self._locate(messages, whole, marked))
        return written

    def _locate(
        self, messages: tuple[Message, ...], whole: str | Refusal, marked: Sequence[str | Refusal]
    ) -> ChatText | Refusal:
        """Where the answers stand in the whole text, from the renderings with marks."""
        if isinstance(whole, Refusal):
            return whole
        spans, cut, end_text = [], len(whole), ""
        for text in reversed(marked):
            if isinstance(text, Refusal):
                return text
            head, mark, tail = text.partition(_MARK)
            start, end = len(head), len(whole) - len(tail)
            if not mark or not whole.endswith(tail):
                return Refusal("the template changes the text around the answer")
            if not whole.startswith(head) or end <= start:
                if spans:
                    continue
                start = self._after_prompt(messages, whole)
                if start is None or end <= start:
                    return Refusal("the template changes the text around the answer")
                head = ""
            if not spans:
                frame = self._frame(tuple(message.role for message in messages))
                lead = frame.lead if isinstance(frame, _Frame) and head else 0
                end_text = self._end_of_turn(tail)
                cut, start = end, start - lead
                spans.append((start, end + len(end_text)))
            else:
                spans.append((start, end + (len(end_text) if tail.startswith(end_text) else 0)))
        return ChatText(whole[:cut] + end_text, tuple(reversed(spans)))

    def _after_prompt(self, messages: tuple[Message, ...], whole: str) -> int | None:
        """Where the last answer begins if the template writes it otherwise than it stands (a thought set apart, say)."""
        prompt = self._template.render([messages[:-1]], add_generation_prompt=True)[0]
        return len(prompt) if isinstance(prompt, str) and whole.startswith(prompt) else None


def _answers(messages: Sequence[Message]) -> list[int]:
    """Places of the assistant's turns that say something."""
    return [index for index, message in enumerate(messages) if message.role == "assistant" and message.content.strip()]
