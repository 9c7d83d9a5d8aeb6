"""A packed stream gives each row what it gets alone: logits, loss and gradients, for every architecture of the matrix."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import PreTrainedModel

import packed_cases
import tiny_models
from largest_tensor import LargestTensor
from tunesmith.kernels import attention
from tunesmith.kernels.segments import Segments
from tunesmith.model import trial
from tunesmith.model.batch import Batch
from tunesmith.model.forward import PackedForward, PaddedForward
from tunesmith.training import precision

CASES = [(n, "causal") for n in tiny_models.DECODERS]
CASES += [(n, "classification") for n in (*tiny_models.DECODERS, *tiny_models.ENCODERS)]
CAUSAL = [case for case in CASES if case[1] == "causal"]
every_case = pytest.mark.parametrize(("name", "task"), CASES, ids=["-".join(case) for case in CASES])
every_causal = pytest.mark.parametrize("name", tiny_models.DECODERS)
every_seq2seq = pytest.mark.parametrize("name", tiny_models.ENCODER_DECODERS)


@every_case
def test_packed_equals_one_row_at_a_time(name: str, task: tiny_models.Task):
    model = tiny_models.build(name, task)
    batch = packed_cases.batch(model, task)
    packed_cases.assert_equal(packed_cases.together(PackedForward(model), batch), packed_cases.one_by_one(model, batch))


@every_case
def test_padded_equals_one_row_at_a_time(name: str, task: tiny_models.Task):
    model = tiny_models.build(name, task)
    batch = packed_cases.batch(model, task)
    packed_cases.assert_equal(packed_cases.together(PaddedForward(model), batch), packed_cases.one_by_one(model, batch))


@every_seq2seq
def test_encoder_decoders_equal_one_row_at_a_time(name: str):
    model = tiny_models.build(name, "seq2seq")
    chosen, reason = trial.choose(model, classification=False)
    assert isinstance(chosen, PaddedForward)
    assert reason == "an encoder-decoder has no single stream"
    batch = packed_cases.batch(model, "seq2seq")
    packed_cases.assert_equal(packed_cases.together(chosen, batch), packed_cases.one_by_one(model, batch))


@pytest.mark.parametrize("name", ["bert", "electra"])
def test_token_types_of_pairs(name: str):
    model = tiny_models.build(name, "classification")
    batch = packed_cases.batch(model, "classification", types=True)
    expected = packed_cases.one_by_one(model, batch)
    for kind in (PackedForward, PaddedForward):
        packed_cases.assert_equal(packed_cases.together(kind(model), batch), expected)
    without = packed_cases.batch(model, "classification")
    assert (expected.logits - packed_cases.one_by_one(model, without).logits).abs().max() > 1e-2, "types must matter"


@every_case
def test_the_probe_chooses_the_stream_and_it_is_right(name: str, task: tiny_models.Task):
    model = tiny_models.build(name, task).train()
    chosen, reason = trial.choose(model, classification=task == "classification")
    assert isinstance(chosen, PackedForward), reason
    assert reason is None
    assert model.training, "left as it was found"
    model.eval()
    batch, own = packed_cases.batch(model, task), tiny_models.build(name, task)
    packed_cases.assert_equal(packed_cases.together(chosen, batch), packed_cases.one_by_one(own, batch))


@every_case
def test_target_losses_are_the_rows_losses(name: str, task: tiny_models.Task):
    model = tiny_models.build(name, task)
    batch = packed_cases.batch(model, task)
    expected = torch.nn.functional.cross_entropy(packed_cases.one_by_one(model, batch).logits, batch.targets, reduction="none")
    for kind in (PackedForward, PaddedForward):
        losses = kind(model).target_losses(batch)
        assert not losses.requires_grad
        torch.testing.assert_close(losses, expected, rtol=1e-4, atol=1e-5)


@every_case
def test_rows_do_not_see_each_other(name: str, task: tiny_models.Task):
    model = tiny_models.build(name, task)
    batch = packed_cases.batch(model, task)
    answer = _answers(model, task)
    before = answer(batch)
    for index, place in enumerate(Segments(batch.lengths)):
        moved = answer(_changed(batch, place.stop - 1)) - before
        row = torch.arange(len(batch.lengths)) if task == "classification" else _owner(batch)
        assert moved[row != index].abs().max() <= 1e-6
        assert moved[row == index].abs().max() > 1e-3, "the row itself must notice"


@every_causal
def test_a_later_token_moves_no_earlier_logit(name: str):
    model = tiny_models.build(name)
    batch = packed_cases.batch(model, "causal")
    answer = _answers(model, "causal")
    middle = 5 + 1 + 8  # in the row of 17
    moved = (answer(_changed(batch, middle)) - answer(batch)).abs().amax(1)
    assert moved[:middle].max() <= 1e-6
    assert moved[middle] > 1e-3


@pytest.mark.parametrize(("name", "reach"), [("mistral", 2 * (tiny_models.SLIDING_WINDOW - 1)), ("gemma3", None)])
def test_sliding_windows_reach_as_far_as_the_layers_allow(name: str, reach: int | None):
    """Two layers of Mistral see twice the window less one back; Gemma's second layer sees everything."""
    model = tiny_models.build(name)
    batch = packed_cases.batch(model, "causal", [17, 9])
    answer = _answers(model, "causal")
    moved = (answer(_changed(batch, 0)) - answer(batch)).abs().amax(1)
    last = 16 if reach is None else reach
    assert moved[last] > 0
    assert moved[last + 1 :].max() <= 1e-6


@pytest.mark.parametrize("name", ["gpt2", "bert", "roberta", "distilbert", "electra"])
def test_positions_start_anew_in_every_row(name: str):
    """The same row twice gets the same answer wherever it stands, and its tokens' order matters."""
    model = tiny_models.build(name, "classification")
    row = packed_cases.batch(model, "classification", [7]).input_ids
    swapped = row.clone()
    swapped[[2, 4]] = row[[4, 2]]
    batch = Batch(input_ids=torch.cat([row, swapped, row]), lengths=[7, 7, 7], targets=torch.zeros(3, dtype=torch.long))
    with torch.no_grad():
        first, other, again = PackedForward(model).class_logits(batch)
    torch.testing.assert_close(first, again, rtol=0, atol=1e-6)
    assert (first - other).abs().max() > 1e-3


LENGTHS = pytest.mark.parametrize("limit", ["BLOCK", "LONG_SEGMENT"], ids=["blocks", "flash"])


@LENGTHS
@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt2", "gpt_neox"])
def test_long_rows(name: str, limit: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(attention, limit, 8)
    model = tiny_models.build(name)
    batch = packed_cases.batch(model, "causal")
    packed_cases.assert_equal(packed_cases.together(PackedForward(model), batch), packed_cases.one_by_one(model, batch))


@LENGTHS
@pytest.mark.parametrize("name", tiny_models.ENCODERS)
def test_long_encoder_rows(name: str, limit: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(attention, limit, 8)
    model = tiny_models.build(name, "classification")
    batch = packed_cases.batch(model, "classification")
    packed_cases.assert_equal(packed_cases.together(PackedForward(model), batch), packed_cases.one_by_one(model, batch))


def test_recomputed_activations_find_their_segments():
    model = tiny_models.build("llama")
    batch = packed_cases.batch(model, "causal")
    expected = packed_cases.together(PackedForward(model), batch)
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    model.train()
    packed_cases.assert_equal(packed_cases.together(PackedForward(model), batch), expected)


@pytest.mark.parametrize(
    ("name", "task", "rates"),
    [
        ("gpt2", "causal", {"attn_pdrop": 0.5, "resid_pdrop": 0.0, "embd_pdrop": 0.0}),
        ("bert", "classification", {"attention_probs_dropout_prob": 0.5, "hidden_dropout_prob": 0.0}),
    ],
)
def test_dropout_of_attention_is_at_work_in_training_only(name: str, task: tiny_models.Task, rates: dict[str, float]):
    model = tiny_models.build(name, task, **rates)
    batch, packed = packed_cases.batch(model, task), PackedForward(model)

    def loss(seed: int) -> float:
        torch.manual_seed(seed)
        return packed_cases.together(packed, batch).loss.item()

    assert loss(1) == loss(2)
    model.train()
    assert loss(1) == loss(1)
    assert abs(loss(1) - loss(2)) > 1e-3


def test_the_models_own_attention_is_back_after_a_pass():
    model = tiny_models.build("llama")
    usual = model.config._attn_implementation
    batch = packed_cases.batch(model, "causal")
    with PackedForward(model).scope(batch):
        assert model.config._attn_implementation != usual
    assert model.config._attn_implementation == usual
    stopped = pytest.raises(RuntimeError, match="stop")
    with stopped, PackedForward(model).scope(batch):
        raise RuntimeError("stop")
    assert model.config._attn_implementation == usual


@pytest.mark.parametrize("name", ["bert", "modernbert", "llama", "t5"])
def test_mean_states_are_the_means_of_each_row(name: str):
    task = "seq2seq" if name == "t5" else "classification"
    model = tiny_models.build(name, task)
    batch = packed_cases.batch(model, task)
    reader = model.get_encoder() if name == "t5" else model.base_model
    with torch.no_grad():
        rows = [reader(input_ids=ids[None]).last_hidden_state[0].mean(0) for ids in batch.input_ids.split(batch.lengths)]
        for kind in (PaddedForward,) if name == "t5" else (PackedForward, PaddedForward):
            torch.testing.assert_close(kind(model).mean_states(batch), torch.stack(rows), rtol=1e-4, atol=1e-5)


def test_a_soft_capped_head():
    model = tiny_models.build("gemma3", final_logit_softcapping=2.0)
    batch = packed_cases.batch(model, "causal")
    expected = packed_cases.one_by_one(model, batch)
    assert expected.logits.abs().max() <= 2.0
    packed_cases.assert_equal(packed_cases.together(PackedForward(model), batch), expected)


def test_no_tensor_of_tokens_times_vocabulary_is_made(monkeypatch: pytest.MonkeyPatch):
    """Not by the loss, the evaluation or the backward pass, with the embeddings' own weight tied to the head and learning."""
    monkeypatch.setattr("tunesmith.kernels.linear_cross_entropy.CHUNK_ELEMENTS_CPU", 16 * tiny_models.VOCABULARY_SIZE)
    model = tiny_models.build("llama", tie_word_embeddings=True)
    batch = packed_cases.batch(model, "causal", [25] * 4)
    batch = Batch(input_ids=batch.input_ids, lengths=[25] * 4, targets=batch.input_ids, positions=torch.arange(100))
    packed = PackedForward(model)
    with LargestTensor() as largest:
        packed.target_losses(batch)
        with packed.scope(batch):
            packed.loss(batch).backward()
    weight = tiny_models.VOCABULARY_SIZE * model.config.hidden_size
    assert largest.num_elements <= weight < 100 * tiny_models.VOCABULARY_SIZE
    with LargestTensor() as largest:
        PaddedForward(model).target_losses(batch)
    assert largest.num_elements == 100 * tiny_models.VOCABULARY_SIZE, "the measure sees what the obvious way makes"


def test_a_mean_pooled_head():
    model = tiny_models.build("modernbert", "classification", classifier_pooling="mean")
    batch = packed_cases.batch(model, "classification")
    assert trial.choose(model, classification=True)[1] is None
    packed_cases.assert_equal(packed_cases.together(PackedForward(model), batch), packed_cases.one_by_one(model, batch))


def test_a_row_that_ends_with_padding_tokens_is_pooled_where_the_model_pools_it():
    """Where EOS is the padding token too, the model's own head looks at the last token that is neither."""
    model = tiny_models.build("llama", "classification")
    batch = packed_cases.batch(model, "classification", [5, 3])
    batch.input_ids[4], batch.input_ids[6:] = 0, 0
    packed_cases.assert_equal(packed_cases.together(PackedForward(model), batch), packed_cases.one_by_one(model, batch))


# --- models that have no stream --------------------------------------------------------------------------------


class Scaled(nn.Linear):
    """A head that does more than a linear layer, without saying so."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) * 0.5


def test_a_head_that_is_no_linear_layer_goes_padded():
    model = tiny_models.build("llama")
    model.lm_head = nn.Sequential(model.lm_head, nn.Tanh())
    chosen, reason = trial.choose(model, classification=False)
    assert isinstance(chosen, PaddedForward)
    assert reason == "its output head is not a plain linear layer"
    batch = packed_cases.batch(model, "causal")
    packed_cases.assert_equal(packed_cases.together(chosen, batch), packed_cases.one_by_one(model, batch))


def test_a_head_that_computes_something_else_goes_padded():
    model = tiny_models.build("llama")
    head = Scaled(32, tiny_models.VOCABULARY_SIZE, bias=False)
    model.lm_head = head
    chosen, reason = trial.choose(model, classification=False)
    assert isinstance(chosen, PaddedForward)
    assert reason is not None
    assert "answers differently when packed" in reason
    batch = packed_cases.batch(model, "causal")
    packed_cases.assert_equal(packed_cases.together(chosen, batch), packed_cases.one_by_one(model, batch))


class Mixing(nn.Module):
    """A layer that mixes neighbouring tokens, as convolutions and recurrences do: rows of a stream would leak."""

    def __init__(self, inner: nn.Module, share: float = 1.0) -> None:
        super().__init__()
        self.inner, self.share = inner, share

    def forward(self, states: Tensor) -> Tensor:
        return self.inner(states + self.share * torch.nn.functional.pad(states, (0, 0, 1, 0))[:, :-1])


def test_a_model_that_mixes_tokens_elsewhere_goes_padded():
    model = tiny_models.build("llama")
    layer = cast("nn.Module", model.model.layers[1])
    layer.mlp = Mixing(layer.mlp)
    chosen, reason = trial.choose(model, classification=False)
    assert isinstance(chosen, PaddedForward)
    assert reason is not None
    assert "answers differently when packed" in reason
    batch = packed_cases.batch(model, "causal")
    packed_cases.assert_equal(packed_cases.together(chosen, batch), packed_cases.one_by_one(model, batch))


@every_causal
def test_weights_in_16_bits_are_tried_and_left_as_they_are(name: str):
    model = tiny_models.build(name)
    precision.store_frozen(model, torch.bfloat16)
    weights = {id(weight): weight.clone() for weight in model.parameters()}
    chosen, reason = trial.choose(model, classification=False)
    assert isinstance(chosen, PackedForward), reason
    assert weights.keys() == {id(weight) for weight in model.parameters()}
    assert all(torch.equal(weight, weights[id(weight)]) for weight in model.parameters())
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}


def test_a_parameter_is_wide_for_whoever_computes_with_it():
    weight = nn.Parameter(torch.ones(2, 3, dtype=torch.bfloat16))
    with trial._Wide(), torch.no_grad():
        assert (weight.dtype, weight.shape, weight.T.dtype, len(weight)) == (torch.float32, (2, 3), torch.float32, 2)
        assert (weight @ torch.ones(3)).tolist() == [3, 3]
        assert weight.data.dtype == torch.float32
        assert torch.zeros(2, 2).addmm_(torch.eye(2), weight[:, :2]).tolist() == [[1, 1]] * 2
        assert torch.zeros(2, 3).addmm_(torch.eye(2), weight).sum() == 6
        weight.mul_(2)  # what changes a parameter must reach it
        with pytest.raises(RuntimeError, match="address"):
            weight.data_ptr()
    assert weight.dtype == torch.bfloat16
    assert weight.tolist() == [[2] * 3] * 2


def test_a_leak_that_roundings_to_16_bits_would_hide_is_found():
    model = tiny_models.build("llama")
    layer = cast("nn.Module", model.model.layers[1])
    layer.mlp = Mixing(layer.mlp, share=0.01)
    precision.store_frozen(model, torch.bfloat16)
    chosen, reason = trial.choose(model, classification=False)
    assert isinstance(chosen, PaddedForward)
    assert reason is not None
    assert "answers differently when packed" in reason


def test_a_model_that_cannot_take_a_stream_goes_padded_and_says_why(monkeypatch: pytest.MonkeyPatch):
    model = tiny_models.build("bert", "classification")
    take = model.base_model.forward

    def refuse(*args: object, position_ids: Tensor | None = None, **settings: object) -> object:
        if position_ids is not None:
            raise TypeError("forward() got an unexpected keyword argument 'position_ids'")
        return take(*args, **settings)

    monkeypatch.setattr(model.base_model, "forward", refuse)
    chosen, reason = trial.choose(model, classification=True)
    assert isinstance(chosen, PaddedForward)
    assert reason is not None
    assert reason.startswith("BertForSequenceClassification cannot take a packed stream (forward() got an unexpected")


def test_a_model_with_answers_that_are_no_numbers_goes_padded():
    model = tiny_models.build("llama")
    with torch.no_grad():
        next(model.parameters()).fill_(torch.nan)
    assert isinstance(trial.choose(model, classification=False)[0], PaddedForward)


def _answers(model: PreTrainedModel, task: tiny_models.Task) -> Callable[[Batch], Tensor]:
    """Logits of every token of the stream, or of every row."""
    packed = PackedForward(model)

    def answer(batch: Batch) -> Tensor:
        with torch.no_grad():
            return packed.class_logits(batch) if task == "classification" else torch.cat(list(packed.token_logits(batch)))

    return answer


def _changed(batch: Batch, index: int) -> Batch:
    """The batch with another token at `index`."""
    ids = batch.input_ids.clone()
    ids[index] = 8 + (ids[index] + 100) % (tiny_models.VOCABULARY_SIZE - 8)
    return Batch(**{**vars(batch), "input_ids": ids})


def _owner(batch: Batch) -> Tensor:
    return torch.repeat_interleave(torch.arange(len(batch.lengths)), torch.tensor(batch.lengths))


@pytest.mark.parametrize("windows", [False, True])
def test_windows_that_only_a_mask_knows_go_padded(windows: bool):
    """Qwen2-MoE builds its windows into the mask and tells its attention nothing; a stream has no mask."""
    model = tiny_models.build("qwen2_moe", use_sliding_window=windows)
    chosen, reason = trial.choose(model, classification=False)
    assert isinstance(chosen, PaddedForward if windows else PackedForward)
    assert (reason is not None and "outside of a window" in reason) == windows
    batch = packed_cases.batch(model, "causal")
    packed_cases.assert_equal(packed_cases.together(chosen, batch), packed_cases.one_by_one(model, batch))


def test_an_encoder_decoders_logits_are_picked_once():
    """All tokens of the decoder are targets: picking those out of all would copy the largest tensor of the pass."""
    model = tiny_models.build("t5", "seq2seq")
    batch = packed_cases.batch(model, "seq2seq")
    copied = []

    class Copies(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            if isinstance(result, Tensor) and result.shape == (len(batch.targets), tiny_models.VOCABULARY_SIZE):
                copied.append(func)
            return result

    with torch.no_grad(), Copies():
        PaddedForward(model).target_logits(batch)
    assert copied == [torch.ops.aten.index.Tensor]
