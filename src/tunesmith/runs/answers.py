"""What a model writes for held-out rows and for users: prompts in the model's template, answers that stop."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tunesmith.data.examples import Chat, Example, Message, SourceTarget
from tunesmith.data.prompts import Prompter
from tunesmith.evaluation.generate import Answer, Generation, generate, stream, text_pieces
from tunesmith.model import anatomy, virtual_tokens


def write(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example], settings: Generation
) -> list[str]:
    """Answers to what the examples ask; one that did not end by itself ends in an ellipsis."""
    if all(isinstance(example, Chat) for example in examples):
        with Prompter(tokenizer) as prompter:
            prompts = [prompter.prompt_ids(_before_answer(example)) for example in examples if isinstance(example, Chat)]
            stop_ids = prompter.stop_ids()
    else:
        sources = [example.source for example in examples if isinstance(example, SourceTarget)]
        prompts, stop_ids = [list(tokenizer(source)["input_ids"]) for source in sources], _end_of_text(tokenizer)  # pyright: ignore[reportArgumentType]
    answers = generate(model, prompts, _fitted(settings, model, stop_ids))
    return [_as_text(answer, tokenizer) for answer in answers]


def reply(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], settings: Generation
) -> Iterator[str]:
    """The answer to a conversation in pieces, as they are written."""
    with Prompter(tokenizer) as prompter:
        prompt, stop_ids = prompter.prompt_ids(messages), prompter.stop_ids()
    ids = stream(model, prompt, _fitted(settings, model, stop_ids))
    return text_pieces(ids, lambda tokens: str(tokenizer.decode(tokens, skip_special_tokens=True)))


def go_on(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], settings: Generation) -> list[str]:
    """How the model goes on after each text."""
    prompts = [list(tokenizer(text)["input_ids"]) for text in texts]  # pyright: ignore[reportArgumentType]
    answers = generate(model, prompts, _fitted(settings, model, _end_of_text(tokenizer)))
    return [_as_text(answer, tokenizer) for answer in answers]


def _before_answer(chat: Chat) -> Sequence[Message]:
    last = max(i for i, message in enumerate(chat.messages) if message.role == "assistant")
    return chat.messages[:last]


def _end_of_text(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    return () if tokenizer.eos_token_id is None else (int(tokenizer.eos_token_id),)  # pyright: ignore[reportArgumentType]


def _fitted(settings: Generation, model: PreTrainedModel, stop_ids: tuple[int, ...]) -> Generation:
    """The settings with where this model's answers end and how long they can be."""
    longest = anatomy.maximum_length(model.config)
    room = None if longest is None else longest - virtual_tokens.count(model)
    return dataclasses.replace(settings, stop_ids=stop_ids, max_length=room)


def _as_text(answer: Answer, tokenizer: PreTrainedTokenizerBase) -> str:
    text = str(tokenizer.decode(answer.ids, skip_special_tokens=True))
    return text if answer.stopped else f"{text} …"
