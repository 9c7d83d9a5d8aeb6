"""What a chat model reads before it answers, and the tokens at which its answer ends - as it was trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tunesmith.data.chat_text import ChatText
from tunesmith.data.chat_tokens import chat_writer
from tunesmith.data.examples import Chat, Message
from tunesmith.data.template import Refusal
from tunesmith.data.text_tokens import TextTokenizer
from tunesmith.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Prompter:
    """Turns conversations into prompts with one tokenizer's template; close it, or use it in a `with`."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokens = TextTokenizer(tokenizer)
        self._template, self._writer = chat_writer(tokenizer, self._tokens)

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of everything before the next answer; a prefix of what training rows look like.

        Raises:
            DataError: If the model's template refuses the conversation.
        """
        text = self._writer.prompt(tuple(messages))
        if isinstance(text, Refusal):
            raise DataError(f"The model's chat template refuses this conversation: {text.reason}.")
        return list(next(self._tokens.encode([text], special=False)).ids)

    def stop_ids(self) -> tuple[int, ...]:
        """The end of a text, and the token that ends an answer in the template."""
        found = {self._tokens.eos_id}
        written = self._writer.write([Chat((Message("user", "a"), Message("assistant", "b")))])[0]
        if isinstance(written, ChatText):
            found.add(next(self._tokens.encode([written.text[: written.spans[-1][1]]], special=False)).ids[-1])
        return tuple(sorted(token for token in found if token is not None))

    def close(self) -> None:
        """End the template's process."""
        self._template.close()

    def __enter__(self) -> Prompter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
