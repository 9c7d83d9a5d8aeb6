"""From files to token rows, split and checked: the one entry into the data package."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tunesmith import collector
from tunesmith.data import describe
from tunesmith.data.cache import PreparedCache
from tunesmith.data.columns import ChosenExamples
from tunesmith.data.examples import Example, Task
from tunesmith.data.labels import check_labels, class_names, in_known_order
from tunesmith.data.prepared import OtherRows, Part, PreparedData
from tunesmith.data.raw import Skipped
from tunesmith.data.recognise import Shape
from tunesmith.data.source import Source, load
from tunesmith.data.split import MAX_HELD_OUT_CHATS, Shares, num_shared, split
from tunesmith.data.table import TokenTable
from tunesmith.data.tokenise import Losses, tokenise, tokenise_apart, tokenising
from tunesmith.errors import DataError, SettingsError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from tunesmith.model.source import Kind
    from tunesmith.settings import DataSettings

DEFAULT_LENGTHS: dict[Task, int] = {"chat": 2048, "classification": 512, "text": 1024, "seq2seq": 512}
"""Longest row in tokens, if the user and the model do not say less."""
MOST_CUT_SHARE, WARN_CUT_SHARE = 0.20, 0.05
WARN_SKIPPED_SHARE = 0.05


def prepare(
    settings: DataSettings,
    tokenizer: PreTrainedTokenizerBase,
    *,
    task: str,
    model_max_length: int,
    kind: Kind,
    known_labels: tuple[str, ...] = (),
) -> PreparedData:
    """The data as token rows, with rows held out.

    Args:
        settings: Which files, how to read and split them.
        tokenizer: The model's.
        task: 'chat', 'classification', 'text', 'seq2seq', or 'auto' to go by the rows.
        model_max_length: Most tokens that the model takes.
        kind: What the model is built for.
        known_labels: The classes that the model tells apart already, in the order of their ids.

    Raises:
        DataError: If a file or its rows cannot be used.
        SettingsError: If a setting does not go with the data or the model.
        ModelError: If the tokenizer or its chat template cannot be used.
    """
    _check_shares(settings)
    cache = PreparedCache.of(
        settings,
        tokenizer,
        {"task": task, "model_max_length": model_max_length, "kind": kind, "known_labels": known_labels},
    )
    found = cache.load()
    if found is None:
        found = _prepare(
            settings,
            tokenizer,
            task=task,
            model_max_length=model_max_length,
            kind=kind,
            known_labels=known_labels,
        )
        cache.store(found)
    return replace(found, notes=cache.notes)


@collector.paused()
def _prepare(
    settings: DataSettings,
    tokenizer: PreTrainedTokenizerBase,
    *,
    task: str,
    model_max_length: int,
    kind: Kind,
    known_labels: tuple[str, ...],
) -> PreparedData:
    """As `prepare`, from the files."""
    source = load(settings.data, settings, task, kind)
    shape = source.shape
    _check_model(shape, kind)
    held_out = load((settings.eval,), settings, shape.task) if settings.eval is not None else None
    labels: tuple[str, ...] = ()
    if shape.task == "classification":
        labels = in_known_order(class_names(source.converted.examples, shape.columns["label"]), known_labels, source.table)
        if held_out is not None:
            check_labels(held_out.converted, labels, held_out.table)
    max_length = _max_length(settings.max_length, shape.task, model_max_length)
    return _Preparation(settings, tokenizer, shape, labels, max_length).run(source, held_out)


def prepare_for_evaluation(
    paths: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    *,
    like: DataSettings,
    task: Task,
    labels: tuple[str, ...],
    max_length: int,
) -> OtherRows:
    """All rows of other files as token rows, read the way a run read its own (`like` are the settings of that run).

    Raises:
        DataError: If a file or its rows cannot be used, or a label is unknown to the model.
    """
    source = load(tuple(paths), replace(like, max_rows=None), task)
    if task == "classification":
        check_labels(source.converted, labels, source.table)
    tokenised = tokenise(source.converted.examples, tokenizer, task=task, max_length=max_length, labels=labels)
    part = _part(tokenised.table, tokenised.kept, source)
    if not len(part):
        reason = next(iter(tokenised.refused.values()), "all are empty")
        raise DataError(f"No row of {source.table.name} can be used: {reason}.")
    return OtherRows(
        part=part,
        description=[*describe.reading(source.table, source.shape.name, _skipped(tokenised, source)), *tokenised.notes],
        warnings=describe.losses(tokenised, source.converted, max_length, source.table.name),
    )


@dataclass
class _Preparation:
    """One call of `prepare`, after reading: split, tokenise, check, describe."""

    settings: DataSettings
    tokenizer: PreTrainedTokenizerBase
    shape: Shape
    labels: tuple[str, ...]
    max_length: int

    def run(self, source: Source, held_out: Source | None) -> PreparedData:
        """The prepared data."""
        examples = source.converted.examples
        splits = split(examples, self._shares(held_out is not None), seed=self.settings.split_seed)
        part_of = np.zeros(len(examples), dtype=np.int8)
        part_of[splits.validation], part_of[splits.test] = 1, 2
        tables, lost = self._tokenise(examples, part_of)
        table, kept = tables[0]
        tables += [(table.select([]), kept[:0])] * (3 - len(tables))
        parts, results = [_part(*own, source) for own in tables], [(lost, source)]
        if held_out is not None:
            count = len(held_out.converted.examples)
            (table,), lost = self._tokenise(held_out.converted.examples, np.zeros(count, dtype=np.int8))
            parts[2] = _part(*table, held_out)
            results.append((lost, held_out))
        for result, which in results:
            self._check_cut(result, len(which.converted.examples), which.table.name)
        self._check_filled(parts, results[0][0])
        what = f"{self.shape.name}; {self.shape.say()}"
        read = [sentence for r, s in results for sentence in describe.reading(s.table, what, _skipped(r, s))]
        tokens = describe.tokens(self.shape.task, parts, self.max_length, results[0][0].notes)
        return PreparedData(
            task=self.shape.task,
            shape=self.shape.name,
            description=[*read, *tokens, *describe.parts(parts, splits, self.labels)],
            warnings=self._warnings(results, parts, splits.group_was_cut),
            train=parts[0],
            validation=parts[1],
            test=parts[2],
            labels=self.labels,
            fingerprint=_fingerprint(source, held_out),
            fingerprints=tuple(which.table.fingerprint for _, which in results),
            name=source.table.name,
            max_length=self.max_length,
            skipped=_skipped(*results[0]),
            template=results[0][0].template,
        )

    def _tokenise(
        self, examples: Sequence[Example], part_of: NDArray[np.int8]
    ) -> tuple[list[tuple[TokenTable, NDArray[np.int64]]], Losses]:
        facts = {"task": self.shape.task, "max_length": self.max_length, "labels": self.labels}
        return tokenise_apart(examples, part_of, partial(tokenising, self.tokenizer, **facts))

    def _shares(self, has_test: bool) -> Shares:
        """Held-out shares: the user's, or 10 % each for classification and 5 % each otherwise."""
        usual = 0.10 if self.shape.task == "classification" else 0.05
        asked = self.settings
        validation = usual if asked.validation_share is None else asked.validation_share
        test = 0.0 if has_test else usual if asked.test_share is None else asked.test_share
        own = asked.validation_share is not None or asked.test_share is not None
        most = MAX_HELD_OUT_CHATS if self.shape.task == "chat" and not own else None
        return Shares(validation=validation, test=test, most=most)

    def _check_cut(self, result: Losses, count: int, name: str) -> None:
        """Refuse to train on many half answers."""
        lost = result.num_cut_answers
        if count and lost / count > MOST_CUT_SHARE:
            raise DataError(
                f"{lost:,} of {count:,} answers of {name} ({100 * lost / count:.0f} %) are cut off by the maximum length of "
                f"{self.max_length:,} tokens; a model trained on them would not learn to finish. 99 % of the rows fit in "
                f"--max-length {result.wanted_length}."
            )

    def _check_filled(self, parts: Sequence[Part], tokenised: Losses) -> None:
        """Refuse if nothing is left to train on."""
        if not len(parts[0]):
            reason = next(iter(tokenised.refused.values()), "all were held out")
            raise DataError(f"No row is left to train on: {reason}.")

    def _warnings(self, results: Sequence[tuple[Losses, Source]], parts: Sequence[Part], group_was_cut: bool) -> list[str]:
        """What may make the result worse than it could be."""
        warnings = []
        for result, source in results:
            warnings += describe.losses(result, source.converted, self.max_length, source.table.name)
        if group_was_cut:
            warnings.append(
                "over a fifth of the rows are near-identical, so held-out rows have near twins among those trained on"
            )
        if len(results) > 1 and (shared := num_shared(parts[2].examples, [*parts[0].examples, *parts[1].examples])):
            warnings.append(
                f"{shared:,} of {len(parts[2]):,} rows of --eval are near-identical to rows trained on; their numbers flatter"
            )
        tested = set(np.unique(parts[2].tokens.labels).tolist()) if self.labels else set()
        if missing := [name for index, name in enumerate(self.labels) if index not in tested]:
            warnings.append(f"no test row has the label {', '.join(map(repr, missing[:5]))}")
        return warnings


def _part(table: TokenTable, kept: NDArray[np.int64], source: Source) -> Part:
    """Token rows with their examples and row numbers; `kept` says which example each row came from."""
    return Part(examples=ChosenExamples(source.converted.examples, kept), tokens=table, origins=source.converted.origins[kept])


def _skipped(tokenised: Losses, source: Source) -> list[Skipped]:
    """Rows left out while converting or tokenising."""
    late = [Skipped(int(source.converted.origins[index]), reason) for index, reason in tokenised.refused.items()]
    return sorted([*source.converted.skipped, *late], key=lambda item: item.row)


def _fingerprint(source: Source, held_out: Source | None) -> str:
    if held_out is None:
        return source.table.fingerprint
    return hashlib.sha256((source.table.fingerprint + held_out.table.fingerprint).encode()).hexdigest()


def _check_shares(settings: DataSettings) -> None:
    held_out = (settings.validation_share or 0.0) + (settings.test_share or 0.0)
    if held_out >= 1:
        raise SettingsError(
            f"--validation-share and --test-share hold out {100 * held_out:.0f} % of the rows; nothing is left to train on."
        )


def _check_model(shape: Shape, kind: Kind) -> None:
    """Refuse rows that the model is not built for, before they are prepared."""
    if kind == "encoder" and shape.task != "classification":
        can = "reads text and cannot write any. Take a model that writes (a decoder)"
    elif kind == "encoder-decoder" and shape.task in ("chat", "text"):
        can = "writes a target to a source. Take a decoder, --task seq2seq with --prompt-column and --answer-column"
    else:
        return
    raise DataError(
        f"The rows are {shape.name}, for the task {shape.task}, but this model {can}, or name --text-column and "
        "--label-column for classification."
    )


def _max_length(asked: int | None, task: Task, model_max_length: int) -> int:
    """The longest row in tokens: what was asked, or the usual for the task, as far as the model goes."""
    if asked is None:
        return min(DEFAULT_LENGTHS[task], model_max_length)
    if asked > model_max_length:
        raise SettingsError(f"--max-length {asked:,} is more than the model takes: {model_max_length:,} tokens.")
    return asked
