"""A conversation with a tuned model: what was said so far, and the answer to the next message."""

from __future__ import annotations

from collections.abc import Generator, Iterator
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
        """The answer to the next message, streamed to stdout if `shown`; Ctrl-C ends it early."""
        self.was_cut = False
        if self._task != "chat":
            answer = str(self._predictor.predict([prompt], self._settings)[0])
            self.was_cut = self._task != "classification" and _ends_in_the_mark(answer)
            if shown:
                _output.say(answer)
            return answer
        from tunesmith.data.examples import Message

        self._messages.append(Message("user", prompt))
        pieces: list[str] = []
        try:
            for piece in self._noting_the_end(self._predictor.chat(self._messages, self._settings)):
                pieces.append(piece)
                if shown:
                    _output.stream(piece)
        except KeyboardInterrupt:
            pieces.append(" [stopped]")
        if shown:
            _output.say("")
        self._messages.append(Message("assistant", "".join(pieces)))
        return "".join(pieces)

    def _noting_the_end(self, pieces: Generator[str, None, bool]) -> Iterator[str]:
        """The pieces of an answer, and whether it was cut off."""
        self.was_cut = not (yield from pieces)


def _ends_in_the_mark(answer: str) -> bool:
    from tunesmith.runs.answers import CUT_MARK

    return answer.endswith(CUT_MARK)
