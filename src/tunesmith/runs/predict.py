"""A finished run, ready to answer."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel

from tunesmith import settings
from tunesmith.checkpoint import adapter
from tunesmith.data.columns import ChosenExamples
from tunesmith.data.examples import Chat, Labelled, Message
from tunesmith.data.prepared import Part
from tunesmith.data.tokenise import tokenise
from tunesmith.errors import InputError, RunError
from tunesmith.evaluation.generate import Generation
from tunesmith.method import Method
from tunesmith.model import load as loading
from tunesmith.model import token_rows
from tunesmith.model.forward import Forward
from tunesmith.model.source import Source
from tunesmith.reports.result import RunResult
from tunesmith.runs import answers, base_model
from tunesmith.runs.answers import Written
from tunesmith.runs.measure import score
from tunesmith.runs.place import Place, located
from tunesmith.settings import FitSettings, TrainingSettings
from tunesmith.training import memory
from tunesmith.watch import Quiet, Watch

DEFAULT = Generation()


@dataclass(frozen=True)
class Predictor:
    """The tuned model of a run."""

    result: RunResult
    source: Source
    model: PreTrainedModel
    forward: Forward

    def predict(self, texts: Sequence[str | tuple[str, str]], settings: Generation = DEFAULT) -> list[str]:
        """The texts of `answers`."""
        return [answer.text for answer in self.answers(texts, settings)]

    def answers(self, texts: Sequence[str | tuple[str, str]], settings: Generation = DEFAULT) -> list[Written]:
        """The label of each text or pair of texts, or the written answer to each text.

        Raises:
            InputError: If pairs are given to a model of single texts, or the other way round.
        """
        texts = [self._checked(text) for text in ([texts] if isinstance(texts, str) else texts)]
        if not texts:
            return []
        if self.result.data.labels:
            return [Written(label) for label in self._classes(texts)]
        texts = [text for text in texts if isinstance(text, str)]
        if self.result.task == "chat":
            chats = [Chat((Message("user", text), Message("assistant", ""))) for text in texts]
            return answers.write(self.model, self.source.tokenizer, chats, settings)
        return answers.go_on(self.model, self.source.tokenizer, texts, settings)

    def _checked(self, text: str | tuple[str, str]) -> str | tuple[str, str]:
        """The text, if it is what the model was tuned on."""
        wants_pair, is_pair = self.result.data.has_pairs, not isinstance(text, str)
        if is_pair and len(text) != 2:
            raise InputError(f"A pair is two texts, found {len(text)}: {str(text)[:80]}.")
        if is_pair != wants_pair:
            wanted = "pairs of texts: predict([(first, second)])" if wants_pair else 'single texts: predict(["..."])'
            raise InputError(f"This run was tuned on {wanted}. Found {str(text)[:80]!r}.")
        return text

    def _classes(self, texts: Sequence[str | tuple[str, str]]) -> list[str]:
        labels = self.result.data.labels
        pairs = [(text, None) if isinstance(text, str) else text for text in texts]
        examples = [Labelled(first, labels[0], second) for first, second in pairs]  # the label is not looked at
        tokenised = tokenise(
            examples, self.source.tokenizer, task="classification", max_length=self.result.data.max_length, labels=labels
        )
        token_rows.require(self.model, tokenised.table.input_ids, self.source.tokenizer)
        part = Part(
            examples=ChosenExamples(examples, np.arange(len(examples))),
            tokens=tokenised.table,
            origins=np.arange(1, len(examples) + 1),
        )
        predicted = score(self.forward, part, Quiet(), "predicting").predicted
        assert predicted is not None
        return [labels[index] for index in predicted]

    def chat(self, messages: Sequence[Message], settings: Generation = DEFAULT) -> Generator[str, None, bool]:
        """The answer to a conversation, in pieces as they are written.

        Returns, at its end, whether the model ended the answer itself, rather than being cut off.

        Raises:
            InputError: If the run is not a chat model.
        """
        if self.result.task != "chat":
            raise InputError(f"This run was tuned for {self.result.task!r}, not for chat: use predict.")
        return answers.reply(self.model, self.source.tokenizer, messages, settings)


def load(folder: Path, watch: Watch | None = None) -> Predictor:
    """The tuned model of the run in `folder`, computing as the run did; `watch` is told if its base must be fetched.

    Raises:
        RunError: If the run is not finished.
        ModelError: If its base model is gone or has changed.
    """
    result, place = finished(folder), Place(folder)
    chosen = settings.from_mapping(FitSettings, result.settings, f"{folder}/run.json")
    is_whole = place.model.exists()
    source = loading.find(str(place.model)) if is_whole else _base_of(folder, result, watch or Quiet())
    loaded = base_model.load(source, _wish(result, chosen.training, is_whole), base_model.device())
    if not is_whole:
        adapter.load(loaded.model, place.adapter)
    loaded.model.eval()
    return Predictor(result, source, loaded.model, loaded.forward)


def _wish(result: RunResult, training: TrainingSettings, is_whole: bool) -> base_model.Wish:
    """The base model as a run had it, or the whole model that it trained; in 16 bits only where this machine is faster."""
    return base_model.Wish(
        task=result.task,
        labels=() if is_whole else tuple(result.data.labels),
        base_bits=16 if is_whole else training.base_bits,
        precision="float32" if training.precision == "float32" else "auto",
        fast=training.fast_paths == "on",
        seed=result.seed,
    )


def finished(folder: Path) -> RunResult:
    """The record of the run in `folder`.

    Raises:
        RunError: If the run is not finished.
    """
    loading.quiet()
    result = RunResult.load(folder)
    if result.status != "finished":
        raise RunError(f"{folder} is {result.status}, so it has no tuned model yet. Finish it with: tunesmith resume {folder}")
    return result


def with_adapter(folder: Path, result: RunResult, watch: Watch) -> tuple[Source, PreTrainedModel, Method]:
    """The base model of a finished run, with what the run learnt attached.

    Raises:
        RunError: If the base model has changed.
        ModelError: If the base model or the adapter cannot be read.
    """
    source, model = base(folder, result, watch)
    return source, model, adapter.load(model, Place(folder).adapter)


def base(folder: Path, result: RunResult, watch: Watch) -> tuple[Source, PreTrainedModel]:
    """The base model of a finished run in float32, but for weights that the run kept in few bits.

    Raises:
        RunError: If it has changed.
        ModelError: If it cannot be read.
    """
    source = _base_of(folder, result, watch)
    torch.manual_seed(result.seed)
    memory.keep_few_kernels()
    memory.return_freed_memory()
    return source, loading.load(source, result.task, labels=tuple(result.data.labels), base_bits=base_bits(result))


def _base_of(folder: Path, result: RunResult, watch: Watch) -> Source:
    """The files that a run's base model was read from.

    Raises:
        RunError: If it has changed.
    """
    source = loading.find(located(result.model.name, result.directory), watch)
    if source.fingerprint != result.model.fingerprint:
        raise RunError(
            f"The base model {result.model.name} is not the one that {folder} was tuned on; the adapter does not fit."
        )
    return source


def base_bits(result: RunResult) -> int:
    """In how many bits a run kept the weights of its base's linear layers; 16 if it left them as they were."""
    return int(result.settings.get("training", {}).get("base_bits", 16))
