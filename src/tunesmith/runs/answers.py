"""What a model writes for held-out rows and for users: prompts in the model's template, answers that stop."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tunesmith.data.examples import Chat, Example, Message
from tunesmith.data.prompts import Prompter
from tunesmith.evaluation.generate import Answer, Generation, Progress, TokenIds, generate, stream, text_pieces
from tunesmith.model import anatomy, virtual_tokens


@dataclass(frozen=True)
class Written:
    """What a model wrote."""

    text: str
    ended: bool = True
    """Whether the model ended it itself, rather than being cut off."""

    def __str__(self) -> str:
        """The text to be shown, which ends in an ellipsis where it was cut off."""
        return self.text if self.ended else f"{self.text} …"


def write(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example], settings: Generation
) -> list[Written]:
    """Answers to what the conversations ask."""
    with Prompter(tokenizer) as prompter:
        prompts = [prompter.prompt_ids(_before_answer(example)) for example in examples if isinstance(example, Chat)]
        stop_ids = prompter.stop_ids()
    answers = generate(model, prompts, _fitted(settings, model, stop_ids))
    return [_written(answer, tokenizer) for answer in answers]


def translate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sources: Sequence[TokenIds],
    settings: Generation,
    progress: Progress | None = None,
) -> list[Written]:
    """Answers of an encoder-decoder to sources as it was trained on them."""
    answers = generate(model, sources, _fitted(settings, model, _end_of_text(tokenizer)), progress)
    return [_written(answer, tokenizer) for answer in answers]


def reply(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], settings: Generation
) -> Generator[str, None, bool]:
    """The answer to a conversation in pieces, as they are written; returns, at its end, whether the model ended it itself."""
    with Prompter(tokenizer) as prompter:
        prompt, stop_ids = prompter.prompt_ids(messages), prompter.stop_ids()
    ids = stream(model, prompt, _fitted(settings, model, stop_ids))
    return _as_pieces(ids, tokenizer)


def _as_pieces(ids: Generator[int, None, bool], tokenizer: PreTrainedTokenizerBase) -> Generator[str, None, bool]:
    """The text of a stream of token ids, with what the stream returns."""
    stopped = False

    def noted() -> Iterator[int]:
        nonlocal stopped
        stopped = yield from ids

    yield from text_pieces(noted(), lambda tokens: str(tokenizer.decode(tokens, skip_special_tokens=True)))
    return stopped


def go_on(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], settings: Generation
) -> list[Written]:
    """How the model goes on after each text, or what it makes of it; an encoder-decoder reads what fits, as in training."""
    room = _room(model) if anatomy.is_encoder_decoder(model.config) else None
    prompts = [list(tokenizer(text, truncation=room is not None, max_length=room)["input_ids"]) for text in texts]  # pyright: ignore[reportArgumentType]
    answers = generate(model, prompts, _fitted(settings, model, _end_of_text(tokenizer)))
    return [_written(answer, tokenizer) for answer in answers]


def _before_answer(chat: Chat) -> Sequence[Message]:
    last = max(i for i, message in enumerate(chat.messages) if message.role == "assistant")
    return chat.messages[:last]


def _end_of_text(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    return () if tokenizer.eos_token_id is None else (int(tokenizer.eos_token_id),)  # pyright: ignore[reportArgumentType]


def _fitted(settings: Generation, model: PreTrainedModel, stop_ids: tuple[int, ...]) -> Generation:
    """The settings with where this model's answers end and how long they can be."""
    room = _room(model)
    if room is not None and anatomy.is_encoder_decoder(model.config):  # what it writes takes no room from what it reads
        return dataclasses.replace(settings, stop_ids=stop_ids, max_new_tokens=min(settings.max_new_tokens, room - 1))
    return dataclasses.replace(settings, stop_ids=stop_ids, max_length=room)


def _room(model: PreTrainedModel) -> int | None:
    """How many tokens of text the model takes, None if there is no limit."""
    longest = anatomy.maximum_length(model.config)
    return None if longest is None else longest - virtual_tokens.count(model)


def _written(answer: Answer, tokenizer: PreTrainedTokenizerBase) -> Written:
    return Written(str(tokenizer.decode(answer.ids, skip_special_tokens=True)), ended=answer.stopped)
