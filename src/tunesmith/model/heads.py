"""Task heads over the hidden states of a packed stream: the model's own head code, over the rows that matter."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPoolingAndCrossAttentions

from tunesmith.errors import SettingsError
from tunesmith.kernels.linear_cross_entropy import Head
from tunesmith.kernels.segments import Segments
from tunesmith.model import anatomy, surgery


def language_head(model: PreTrainedModel) -> Head:
    """The output head as the loss kernel takes it; only for models where `anatomy.language_head` finds one."""
    head = anatomy.language_head(model)
    assert head is not None
    return head


def require_plain(model: PreTrainedModel) -> None:
    """Check that a method has left the output head as it was.

    Raises:
        SettingsError: If it has changed it; the message says which layer to leave out.
    """
    if anatomy.language_head(model) is None:
        head = model.get_output_embeddings()
        assert isinstance(head, nn.Module), "streams are for models that have one"
        path = anatomy.path_of(model, head)
        raise SettingsError(
            f"The output head {path!r} cannot be adapted: it is computed for some words at a time, from its weight alone. "
            f"Leave it out of --method.targets; {anatomy.ALL_LINEAR!r} takes all other linear layers."
        )


def class_logits(model: PreTrainedModel, hidden: Tensor, segments: Segments, input_ids: Tensor) -> Tensor:
    """Logits `(rows, classes)` in float32 from the stream's hidden states `(tokens, hidden)`.

    The model's own head runs over a stand-in for its backbone that answers with one state per row,
    `(rows, 1, hidden)`, so whatever the head does to the first or last token it does to the right one.
    """
    ends, places = _ends(model, segments, input_ids), pooled_places(model, segments, input_ids)
    if places is None:
        sums = torch.segment_reduce(hidden.float(), "sum", lengths=segments.sizes, axis=0, unsafe=True)
        pooled = sums / segments.sizes[:, None]
    else:
        pooled = hidden.index_select(0, places)
    body = anatomy.backbone(model)
    states = pooled.to(anatomy.head_dtype(model))[:, None]
    pooler = anatomy.pooler(model)
    output = BaseModelOutputWithPoolingAndCrossAttentions(
        last_hidden_state=states,  # pyright: ignore[reportArgumentType]
        pooler_output=None if pooler is None else pooler(states),
    )

    def answer(*_: Any, **__: Any) -> BaseModelOutputWithPoolingAndCrossAttentions:
        return output

    ids = input_ids.index_select(0, ends)[:, None]
    with surgery.stand_in(body, answer):
        return model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.float()


def pooled_places(model: PreTrainedModel, segments: Segments, input_ids: Tensor) -> Tensor | None:
    """(rows,) the token of the stream whose state stands for each row; None where all do together."""
    which = anatomy.pooling(model)
    if which == "mean":
        return None
    return segments.starts if which == "first" else _ends(model, segments, input_ids)


def _ends(model: PreTrainedModel, segments: Segments, input_ids: Tensor) -> Tensor:
    """(rows,) where each row ends: its last token that is not padding, as models see it; with many, EOS is padding too."""
    filler = model.config.get_text_config().pad_token_id
    if filler is None:
        return segments.last
    positions = torch.where(input_ids == filler, 0, segments.positions)
    return segments.starts + torch.stack([row.max() for row in positions.split(segments.lengths)])
