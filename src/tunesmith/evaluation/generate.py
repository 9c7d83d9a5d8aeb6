"""Answers from a language model: many rows at once through transformers' `generate`, or one row token by token.

Rows of like length go together and are padded on the left, with a mask that hides the padding and positions counted from
the first real token, so that a row's answer does not depend on its neighbours.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import GenerationConfig, GenerationMixin, LogitsProcessor, LogitsProcessorList, PreTrainedModel

from tunesmith.errors import DataError, SettingsError
from tunesmith.evaluation.sampling import Sampling, choose
from tunesmith.model import token_rows
from tunesmith.model.packed import turn

TokenIds = Sequence[int] | NDArray
Progress = Callable[[int, int], None]
"""Receives rows done and rows in all."""


@dataclass(frozen=True, kw_only=True)
class Generation:
    """How answers are generated."""

    max_new_tokens: int = 256
    stop_ids: tuple[int, ...] = ()
    """Token ids that end an answer: end of text, end of turn."""
    sampling: Sampling = field(default_factory=Sampling)
    max_length: int | None = None
    """Tokens of prompt and answer together that the model can take; None if there is no limit."""
    tokens_per_pass: int = 8192
    """Rows times their final length, padding included, that are worked on at once."""

    def __post_init__(self) -> None:
        """Check the range.

        Raises:
            SettingsError: If an answer could not have a single token.
        """
        if self.max_new_tokens < 1:
            raise SettingsError(f"max_new_tokens must be at least 1, got {self.max_new_tokens}.")

    def budget(self, row: TokenIds, number: int) -> int:
        """How many new tokens a prompt leaves room for.

        Raises:
            DataError: If the prompt is empty or leaves no room.
        """
        if len(row) == 0:
            raise DataError(f"Prompt {number + 1} is empty; a model needs at least one token to go on from.")
        room = self.max_new_tokens if self.max_length is None else min(self.max_new_tokens, self.max_length - len(row))
        if room < 1:
            raise DataError(
                f"Prompt {number + 1} has {len(row)} tokens and the model takes {self.max_length} in all, "
                "which leaves no room for an answer. Shorten the prompt."
            )
        return room


@dataclass(frozen=True)
class Answer:
    """What a model wrote for one row."""

    ids: list[int]
    """The new token ids, without the one that ended them."""
    stopped: bool
    """Whether the model ended the answer itself, rather than being cut off."""


def generate(
    model: PreTrainedModel, rows: Sequence[TokenIds], settings: Generation, progress: Progress | None = None
) -> list[Answer]:
    """The answer to each row of token ids, in the order of the rows.

    Raises:
        DataError: If a row is empty or leaves no room for an answer.
    """
    budgets = [settings.budget(row, number) for number, row in enumerate(rows)]
    for row in rows:
        token_rows.require(model, row)
    answers: dict[int, Answer] = {}
    with turn, _ready(model, settings):
        for group in _groups([len(row) for row in rows], budgets, settings.tokens_per_pass):
            new_ids = _generate_group(model, [rows[number] for number in group], group, budgets[group[0]], settings)
            answers |= {number: _cut(ids, settings.stop_ids) for number, ids in zip(group, new_ids, strict=True)}
            if progress is not None:
                progress(len(answers), len(rows))
    return [answers[number] for number in range(len(rows))]


def stream(model: PreTrainedModel, row: TokenIds, settings: Generation) -> Generator[int, None, bool]:
    """The new token ids of one row, each as soon as it is known; the one that ends the answer is not given.

    Returns, at its end, whether the model ended the answer itself, rather than being cut off.

    Raises:
        DataError: If the row is empty or leaves no room for an answer.
    """
    budget = settings.budget(row, 0)
    token_rows.require(model, row)
    return _stream(model, torch.tensor([list(row)], dtype=torch.int64, device=model.device), budget, settings)


def text_pieces(ids: Iterator[int], decode: Callable[[list[int]], str]) -> Iterator[str]:
    """The text of a stream of token ids in pieces that never split a character or lose a space between tokens."""
    window: list[int] = []
    shown = 0
    for token in ids:
        window.append(token)
        # The text of the window with and without what is new: some tokenizers drop the space of a first token.
        text, before = decode(window), decode(window[:shown])
        # A character of several bytes is complete once it no longer decodes to the replacement character.
        if len(text) > len(before) and not text.endswith("\ufffd"):
            yield text[len(before) :]
            window, shown = window[shown:], len(window) - shown
    rest = decode(window)[len(decode(window[:shown])) :]
    if rest:
        yield rest


def _groups(lengths: Sequence[int], budgets: Sequence[int], tokens_per_pass: int) -> Iterator[list[int]]:
    """Row numbers that are generated together: of one budget, of like length, within the tokens of a pass."""
    group: list[int] = []
    for number in sorted(range(len(lengths)), key=lambda row: (budgets[row], lengths[row], row)):
        full = (len(group) + 1) * (lengths[number] + budgets[number]) > tokens_per_pass
        if group and (full or budgets[number] != budgets[group[0]]):
            yield group
            group = []
        group.append(number)
    if group:
        yield group


def _generate_group(
    model: PreTrainedModel, rows: Sequence[TokenIds], numbers: list[int], budget: int, settings: Generation
) -> list[list[int]]:
    """New token ids of rows that are generated together, padding and all."""
    longest, is_encoder_decoder = max(map(len, rows)), model.config.is_encoder_decoder
    ids = torch.full((len(rows), longest), _padding(settings), dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for index, row in enumerate(rows):
        # An encoder reads from position 0; a decoder goes on from the last position.
        place = slice(0, len(row)) if is_encoder_decoder else slice(longest - len(row), longest)
        ids[index, place], mask[index, place] = torch.tensor(list(row), dtype=torch.int64), 1
    assert isinstance(model, GenerationMixin), f"{type(model).__name__} cannot generate."
    chooser = LogitsProcessorList([_Chooser(numbers, settings.sampling)] if settings.sampling.temperature else [])
    output = model.generate(  # pyright: ignore[reportAttributeAccessIssue] (its protocol demands optional attributes)
        input_ids=ids.to(model.device), attention_mask=mask.to(model.device), max_new_tokens=budget, logits_processor=chooser
    )
    assert isinstance(output, Tensor)
    return output[:, 1 if is_encoder_decoder else longest :].tolist()


class _Chooser(LogitsProcessor):
    """Leaves only the drawn token, so that transformers' greedy search becomes our sampling."""

    def __init__(self, rows: list[int], sampling: Sampling) -> None:
        self.rows = rows
        self.sampling = sampling
        self.step = 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        chosen = choose(scores, self.rows, self.step, self.sampling)
        self.step += 1
        return torch.full_like(scores, -torch.inf).scatter_(1, chosen[:, None], 0.0)


def _stream(model: PreTrainedModel, ids: Tensor, budget: int, settings: Generation) -> Generator[int, None, bool]:
    """Prefill with the prompt (1, tokens), then one token a step through the cache."""
    takes_logits_to_keep = "logits_to_keep" in inspect.signature(model.forward).parameters
    extra = {"logits_to_keep": 1} if takes_logits_to_keep else {}
    cache = None
    with _ready(model, settings):
        for step in range(budget):
            # Not around the yield: the caller would find gradients switched off, and other threads would wait for it.
            with turn, torch.no_grad():
                output = model(input_ids=ids, past_key_values=cache, use_cache=True, **extra)
                ids = choose(output.logits[:, -1], [0], step, settings.sampling)[:, None]
            token, cache = int(ids), output.past_key_values
            if token in settings.stop_ids:
                return True
            yield token
    return False


@contextmanager
def _ready(model: PreTrainedModel, settings: Generation) -> Iterator[None]:
    """The model in evaluation mode and with our settings only; everything as it was afterwards.

    A model brings its own defaults (temperature, repetition penalty, forced tokens), which transformers mixes into any
    configuration that is passed, so they are put aside.
    """
    training = [module for module in model.modules() if module.training]
    own = model.generation_config
    model.generation_config = _configuration(own, settings)
    model.eval()
    try:
        yield
    finally:
        model.generation_config = own
        for module in training:
            module.training = True


def _configuration(own: GenerationConfig | None, settings: Generation) -> GenerationConfig:
    """Greedy search with our stop ids; of the model's own settings only the token that a decoder starts with."""
    start = None if own is None else own.decoder_start_token_id
    return GenerationConfig(
        do_sample=False,
        num_beams=1,
        use_cache=True,
        eos_token_id=list(settings.stop_ids) or None,
        pad_token_id=_padding(settings),
        decoder_start_token_id=start,
        bos_token_id=None if own is None else own.bos_token_id,
    )


def _padding(settings: Generation) -> int:
    """Any token id will do, since it is masked; a stop id is cut off again behind an answer that ended early."""
    return settings.stop_ids[0] if settings.stop_ids else 0


def _cut(ids: list[int], stop_ids: tuple[int, ...]) -> Answer:
    """The answer up to the first stop id."""
    end = next((index for index, token in enumerate(ids) if token in stop_ids), None)
    return Answer(ids, stopped=False) if end is None else Answer(ids[:end], stopped=True)
