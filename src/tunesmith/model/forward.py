"""Losses and predictions of a batch, by the packed stream where the model allows it and by padded rows elsewhere.

Both forms give the same numbers; `model.trial` proves it for the model at hand before the packed one is used.
"""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tunesmith.kernels.linear_cross_entropy import linear_cross_entropy, row_logits, row_losses
from tunesmith.model import anatomy, fast_paths, heads, last_layer, virtual_tokens
from tunesmith.model.batch import Batch, pad
from tunesmith.model.packed import hidden_states, packing, turn

LOGITS_AT_ONCE = 128
"""Tokens whose logits over the whole vocabulary are in memory."""


@dataclass(frozen=True)
class Forward(ABC):
    """Computes with one model. `loss` may be differentiated inside `scope` only."""

    model: PreTrainedModel
    shares: bool = False
    """Whether batches may have what all their rows begin with once, apart from the rows."""

    @abstractmethod
    def scope(self, batch: Batch) -> contextlib.AbstractContextManager[object]:
        """What a forward and its backward pass run inside."""

    @abstractmethod
    def loss(self, batch: Batch) -> Tensor:
        """Summed loss over the batch's targets, float32 scalar."""

    @abstractmethod
    def target_losses(self, batch: Batch) -> Tensor:
        """Loss of every target, `(targets,)` float32, without gradients; opens its own scope."""

    @abstractmethod
    def class_logits(self, batch: Batch) -> Tensor:
        """`(rows, classes)` float32; opens its own scope."""

    @abstractmethod
    def target_logits(self, batch: Batch) -> Tensor:
        """`(targets, vocabulary or classes)` float32 of what predicts each target; for few targets, opens its own scope."""

    @abstractmethod
    def token_logits(self, batch: Batch) -> Iterator[Tensor]:
        """`(tokens, vocabulary)` of every token of the stream, some at a time; without gradients, opens its own scope."""

    @abstractmethod
    def mean_states(self, batch: Batch) -> Tensor:
        """The mean over each row's final hidden states, `(rows, hidden)` float32; without gradients, opens its own scope."""


@dataclass(frozen=True)
class PackedForward(Forward):
    """The stream goes through as it is."""

    fast: bool = False
    """Whether the model's own modules have given way to our kernels."""

    @contextlib.contextmanager
    def scope(self, batch: Batch) -> Iterator[None]:
        places = self._read(batch) if self.fast else None
        ahead = self._ahead(batch)
        with (
            self.stream(batch),
            last_layer.read_at(self.model, places, len(batch.input_ids), 0 if ahead is None else len(ahead)),
        ):
            yield

    @contextlib.contextmanager
    def stream(self, batch: Batch) -> Iterator[None]:
        """The same for a pass of which all final states are read."""
        with packing(self.model, batch.segments()), fast_paths.used(self.model) if self.fast else contextlib.nullcontext():
            yield

    def loss(self, batch: Batch) -> Tensor:
        return self.loss_of(self.hidden(batch), batch)

    def loss_of(self, hidden: Tensor, batch: Batch) -> Tensor:
        """The loss of a batch whose final hidden states `(tokens, hidden)` are known."""
        if batch.positions is None:
            logits = heads.class_logits(self.model, hidden, batch.segments(), batch.input_ids)
            return torch.nn.functional.cross_entropy(logits, batch.targets, reduction="sum")
        return linear_cross_entropy(hidden.index_select(0, batch.positions), heads.language_head(self.model), batch.targets)

    @torch.no_grad()
    def target_losses(self, batch: Batch) -> Tensor:
        if batch.positions is None:
            return torch.nn.functional.cross_entropy(self.class_logits(batch), batch.targets, reduction="none")
        with self.scope(batch):
            hidden = self.hidden(batch).index_select(0, batch.positions)
        return row_losses(hidden, heads.language_head(self.model), batch.targets)

    def class_logits(self, batch: Batch) -> Tensor:
        with self.scope(batch):
            return heads.class_logits(self.model, self.hidden(batch), batch.segments(), batch.input_ids)

    def target_logits(self, batch: Batch) -> Tensor:
        if batch.positions is None:
            return self.class_logits(batch)
        with self.scope(batch):
            hidden = self.hidden(batch).index_select(0, batch.positions)
        return row_logits(hidden, heads.language_head(self.model))

    @torch.no_grad()
    def token_logits(self, batch: Batch) -> Iterator[Tensor]:
        with self.stream(batch):
            hidden = self.hidden(batch)
        for some in hidden.split(LOGITS_AT_ONCE):
            yield row_logits(some, heads.language_head(self.model))

    @torch.no_grad()
    def mean_states(self, batch: Batch) -> Tensor:
        with self.stream(batch):
            return torch.stack([rows.float().mean(0) for rows in self.hidden(batch).split(batch.lengths)])

    def hidden(self, batch: Batch) -> Tensor:
        """Final hidden states of the stream, `(tokens, hidden)`; inside `stream`, or `scope` if only targets' are read."""
        return hidden_states(self.model, batch.input_ids, batch.segments(), batch.token_types, self._ahead(batch))

    def _ahead(self, batch: Batch) -> Tensor | None:
        """What goes through the layers before the rows: their beginning, unless virtual tokens have taken it with them."""
        return None if virtual_tokens.leave_out_words(self.model) else batch.beginning

    def _read(self, batch: Batch) -> Tensor | None:
        """Where final states are read that targets depend on; None if at every token."""
        if batch.positions is not None:
            return batch.positions
        return heads.pooled_places(self.model, batch.segments(), batch.input_ids)


class PaddedForward(Forward):
    """Rows side by side, filled up to the longest, through the model's own forward."""

    def scope(self, batch: Batch) -> contextlib.AbstractContextManager[object]:
        return turn

    def loss(self, batch: Batch) -> Tensor:
        logits = self._logits(batch)
        return torch.nn.functional.cross_entropy(logits, batch.targets, reduction="sum")

    @torch.no_grad()
    def target_losses(self, batch: Batch) -> Tensor:
        return torch.nn.functional.cross_entropy(self._logits(batch), batch.targets, reduction="none")

    def class_logits(self, batch: Batch) -> Tensor:
        return self._logits(batch)

    def target_logits(self, batch: Batch) -> Tensor:
        return self._logits(batch)

    @torch.no_grad()
    def token_logits(self, batch: Batch) -> Iterator[Tensor]:
        for row in batch.input_ids.split(batch.lengths):
            with turn:
                logits = self.model(input_ids=row[None], use_cache=False).logits[0]
            yield logits

    @torch.no_grad()
    def mean_states(self, batch: Batch) -> Tensor:
        input_ids, mask = pad(batch.input_ids, batch.lengths, self._filler)
        reader = anatomy.reader(self.model)
        with turn:
            states = reader(input_ids=input_ids, attention_mask=mask).last_hidden_state
        words = states[:, -mask.shape[1] :].float() * mask[..., None]  # virtual tokens stand before them
        return words.sum(1) / mask.sum(1, keepdim=True)

    @property
    def _filler(self) -> int:
        return self.model.config.get_text_config().pad_token_id or 0

    def _logits(self, batch: Batch) -> Tensor:
        """`(targets, vocabulary or classes)` float32."""
        input_ids, mask = pad(batch.input_ids, batch.lengths, self._filler)
        inputs = {"input_ids": input_ids, "attention_mask": mask}
        if batch.token_types is not None:
            inputs["token_type_ids"] = pad(batch.token_types, batch.lengths, 0)[0]
        lengths = batch.lengths
        if batch.decoder_lengths is not None:
            lengths = batch.decoder_lengths
            inputs["decoder_input_ids"], mask = self._decoder_inputs(batch.targets, lengths)
            inputs["decoder_attention_mask"] = mask
        with turn:
            if batch.positions is None:
                return self.model(**inputs).logits.float()
            logits = self.model(**inputs, use_cache=False).logits
        logits = logits[mask.bool()]  # every token of a decoder is a target, so that its logits are not copied once more
        return (logits if batch.decoder_lengths is not None else logits.index_select(0, batch.positions)).float()

    def _decoder_inputs(self, targets: Tensor, lengths: list[int]) -> tuple[Tensor, Tensor]:
        """Targets shifted right by one behind the model's start token, `(rows, longest)`, and their mask."""
        rectangle, mask = pad(targets, lengths, self._filler)
        start = torch.full_like(rectangle[:, :1], self.model.config.decoder_start_token_id)
        return torch.cat([start, rectangle[:, :-1]], 1), mask
