"""The same words for every model family."""

from __future__ import annotations

import pytest
import torch

import tiny_models
from tunesmith.errors import NoSuchTarget
from tunesmith.methods.lora import LoRA
from tunesmith.model import anatomy

LINEAR_PER_LAYER = {
    "llama": 7,
    "qwen2": 7,
    "qwen3": 7,
    "gemma3": 7,
    "mistral": 7,
    "phi3": 4,
    "gpt2": 4,
    "gpt_neox": 4,
    "bert": 6,
    "roberta": 6,
    "distilbert": 6,
    "modernbert": 4,
    "electra": 6,
}


def _task(name: str) -> tiny_models.Task:
    return "causal" if name in tiny_models.DECODERS else "classification"


@pytest.mark.parametrize(("name", "count"), LINEAR_PER_LAYER.items())
def test_all_linear_is_every_linear_layer_of_the_body(name: str, count: int):
    model = tiny_models.on_meta(name, _task(name))
    found = anatomy.linear_targets(model, (anatomy.ALL_LINEAR,))
    layers = [path for path in found if any(part.isdigit() for part in path.split("."))]
    assert len(layers) == count * model.config.get_text_config().num_hidden_layers
    assert [path for path in found if path not in layers] == (["electra.embeddings_project"] if name == "electra" else [])
    assert all(anatomy.is_linear(model.get_submodule(path)) for path in found)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_sizes_and_weights_whichever_way_they_are_stored(name: str):
    model = tiny_models.build(name)
    path = {"llama": "model.layers.0.mlp.up_proj", "gpt2": "transformer.h.0.mlp.c_fc"}[name]
    layer = model.get_submodule(path)
    assert anatomy.linear_sizes(layer) == (32, 48)
    weight = anatomy.linear_weight(layer)
    assert weight.shape == (48, 32)
    assert anatomy.stores_inputs_first(layer) == (name == "gpt2")
    x = torch.randn(5, 32)
    bias = layer.bias if isinstance(layer.bias, torch.Tensor) else None
    torch.testing.assert_close(layer(x), torch.nn.functional.linear(x, weight, bias))


def test_targets_by_last_part_by_pattern_and_by_path():
    model = tiny_models.on_meta("llama")
    assert anatomy.linear_targets(model, ("q_proj",)) == [f"model.layers.{i}.self_attn.q_proj" for i in range(2)]
    both = anatomy.linear_targets(model, ("[qk]_proj",))
    assert len(both) == 4
    assert anatomy.linear_targets(model, ("model.layers.1.*",)) == [
        p for p in anatomy.linear_targets(model, (anatomy.ALL_LINEAR,)) if p.startswith("model.layers.1.")
    ]
    assert anatomy.linear_targets(model, ("model.layers.0.mlp.up_proj", "v_proj")) == [
        "model.layers.0.self_attn.v_proj",
        "model.layers.0.mlp.up_proj",
        "model.layers.1.self_attn.v_proj",
    ]
    assert anatomy.linear_targets(model, ("lm_head",)) == ["lm_head"]


def test_a_target_that_matches_nothing_names_what_there_is():
    with pytest.raises(NoSuchTarget, match=r"'query' matches no linear layer.*down_proj.*q_proj.*all-linear"):
        anatomy.linear_targets(tiny_models.on_meta("llama"), ("q_proj", "query"))


def test_a_name_found_in_the_body_leaves_a_new_head_alone():
    """RoBERTa's classification head has a `dense` too; it learns as a whole."""
    model = tiny_models.build("roberta", "classification")
    found = anatomy.linear_targets(model, ("dense",))
    assert len(found) == 6
    assert not [path for path in found if path.startswith("classifier")]
    LoRA(targets=("dense",)).attach(model)
    heads = {name for name, p in model.named_parameters() if p.requires_grad and name.startswith("classifier")}
    assert heads == {f"classifier.{layer}.{kind}" for layer in ("dense", "out_proj") for kind in ("weight", "bias")}


@pytest.mark.parametrize("name", [*tiny_models.DECODERS, *tiny_models.ENCODERS])
def test_a_new_head_is_all_that_pre_training_did_not_fill(name: str):
    model = tiny_models.on_meta(name, "classification")
    found = anatomy.new_head_parameters(model)
    body = {id(p) for p in model.base_model.parameters()}
    assert found
    assert set(found) == {n for n, p in model.named_parameters() if id(p) not in body}
    heads = {id(p) for m in anatomy.head_modules(model) for p in m.parameters()}
    pooler = anatomy.pooler(model)
    pooled = set() if pooler is None else {id(p) for p in pooler.parameters()}
    assert heads == {id(model.get_parameter(n)) for n in found} | pooled


@pytest.mark.parametrize("name", tiny_models.DECODERS)
def test_a_language_model_has_no_new_head(name: str):
    model = tiny_models.on_meta(name)
    assert anatomy.new_head_parameters(model) == []
    head = anatomy.language_head(model)
    assert head is not None
    assert head.weight is model.get_output_embeddings().weight
    assert (head.bias, head.softcap, head.scale) == (None, None, 1.0)


@pytest.mark.parametrize(("field", "value", "scale"), [("logit_scale", 0.25, 0.25), ("logits_scaling", 8.0, 0.125)])
def test_known_scalings_of_the_head(field: str, value: float, scale: float):
    model = tiny_models.on_meta("llama")
    setattr(model.config, field, value)
    model.config.final_logit_softcapping = 30.0
    head = anatomy.language_head(model)
    assert head is not None
    assert (head.scale, head.softcap) == (scale, 30.0)


@pytest.mark.parametrize("name", tiny_models.ARCHITECTURES)
def test_kinds(name: str):
    config = tiny_models.configuration(name)
    assert anatomy.is_encoder(config) == (name in tiny_models.ENCODERS)
    assert anatomy.is_encoder_decoder(config) == (name in tiny_models.ENCODER_DECODERS)


@pytest.mark.parametrize("name", [*tiny_models.DECODERS, *tiny_models.ENCODERS, "bart"])
def test_the_longest_input(name: str):
    # RoBERTa's positions begin behind the padding index, which is 0 here
    expected = tiny_models.MAX_POSITIONS + (1 if name == "roberta" else 0)
    assert anatomy.maximum_length(tiny_models.configuration(name)) == expected


def test_the_longest_input_runs_and_one_more_does_not():
    model = tiny_models.build("roberta", "classification")
    longest = anatomy.maximum_length(model.config)
    assert longest is not None
    with torch.no_grad():
        model(input_ids=torch.full((1, longest), 9))
        with pytest.raises((IndexError, RuntimeError)):
            model(input_ids=torch.full((1, longest + 1), 9))


def test_no_longest_input_where_positions_are_relative():
    assert anatomy.maximum_length(tiny_models.configuration("t5")) is None


@pytest.mark.parametrize(("name", "expected"), [("roberta", 1), ("bert", 0), ("llama", 0)])
def test_first_position(name: str, expected: int):
    assert anatomy.first_position(tiny_models.configuration(name)) == expected


def test_tied_weights():
    tied = tiny_models.build("llama", tie_word_embeddings=True)
    assert anatomy.is_tied(tied, tied.get_output_embeddings())
    loose = tiny_models.build("llama")
    assert not anatomy.is_tied(loose, loose.get_output_embeddings())


def test_parameters_are_counted_once():
    tied, loose = (tiny_models.build("llama", tie_word_embeddings=tie) for tie in (True, False))
    embeddings = 32 * tiny_models.VOCABULARY_SIZE
    assert anatomy.count_parameters(loose)[0] - anatomy.count_parameters(tied)[0] == embeddings
    loose.requires_grad_(False).get_output_embeddings().requires_grad_(True)
    assert anatomy.count_parameters(loose)[1] == embeddings


@pytest.mark.parametrize(("name", "where"), [("bert", "first"), ("modernbert", "first"), ("llama", "last"), ("gpt2", "last")])
def test_where_a_row_is_pooled(name: str, where: str):
    assert anatomy.pooling(tiny_models.on_meta(name, "classification")) == where


def test_the_reader_of_an_encoder_decoder_is_its_encoder():
    model = tiny_models.on_meta("t5", "seq2seq")
    assert anatomy.reader(model) is model.get_encoder()
    single = tiny_models.on_meta("llama")
    assert anatomy.reader(single) is single.base_model


@pytest.mark.parametrize(
    ("name", "sizes"),
    [("bart", {"encoder_layers": 2, "decoder_layers": 3}), ("t5", {"num_layers": 2, "num_decoder_layers": 3}), ("llama", {})],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_layers_are_those_of_the_decoder(name: str, sizes: dict[str, int]):
    model = tiny_models.build(name, "seq2seq" if sizes else "causal", **sizes)
    assert anatomy.num_layers(model.config) == (3 if sizes else 2)
