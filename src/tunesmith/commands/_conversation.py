"""A conversation with a tuned model: what was said so far, and the answer to the next message."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from typing import TYPE_CHECKING

from tunesmith.commands import _output

if TYPE_CHECKING:
    from tunesmith.data.examples import Message
    from tunesmith.evaluation.generate import Generation
    from tunesmith.runs.predict import Predictor


class Conversation:
    """Messages so far, and the model that answers the next one."""

    def __init__(self, predictor: Predictor, task: str, system: str | None, settings: Generation) -> None:
        self._predictor, self._task, self._system, self._settings = predictor, task, system, settings
        self._messages: list[Message] = []
        self.was_cut = False
        """Whether the last answer ran into a limit, rather than being ended by the model."""
        self.start()

    def start(self) -> None:
        """Forget what was said."""
        from tunesmith.data.examples import Message

        self._messages = [Message("system", self._system)] if self._system else []

    def answer(self, prompt: str, *, shown: bool) -> str:
        """The answer to the next message, streamed to stdout if `shown`.

        Raises:
            InputError: If the model cannot take the message.
            KeyboardInterrupt: If the user stopped it.

        A message is part of the conversation from the first piece of its answer on, whatever ends it.
        """
        from tunesmith.data.examples import Message

        self.was_cut = False
        asked = [*self._messages, Message("user", prompt)]
        pieces = self._noting_the_end(self._pieces(asked))
        written: list[str] = []
        try:
            for piece in pieces:
                written.append(piece)
                if shown:
                    _output.stream(piece)
        finally:
            if written:
                self._messages = [*asked, Message("assistant", "".join(written))]
        if shown:
            _output.say("")
        return "".join(written)

    def _pieces(self, asked: Sequence[Message]) -> Generator[str, None, bool]:
        """The answer as it is written; returns whether the model ended it itself."""
        if self._task == "chat":
            return self._predictor.chat(asked, self._settings)
        return self._whole(asked[-1].content)

    def _whole(self, prompt: str) -> Generator[str, None, bool]:
        """The answer in one piece, of a model that knows no conversation."""
        (answer,) = self._predictor.answers([prompt], self._settings)
        yield answer.text
        return answer.ended

    def _noting_the_end(self, pieces: Generator[str, None, bool]) -> Iterator[str]:
        """The pieces of an answer, and whether it was cut off."""
        self.was_cut = not (yield from pieces)
