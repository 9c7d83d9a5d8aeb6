import pytest
import torch
from transformers import AlbertConfig, AlbertModel, OPTConfig, OPTModel

import tiny_models
from tunesmith.errors import NoSuchTarget
from tunesmith.model import roles


@pytest.mark.parametrize(
    ("architecture", "task", "layer", "norm"),
    [
        ("llama", "causal", "model.layers.0", None),
        ("gpt2", "causal", "transformer.h.0", None),
        ("bert", "classification", "bert.encoder.layer.0", "output.LayerNorm"),
        ("distilbert", "classification", "distilbert.transformer.layer.0", "output_layer_norm"),
        ("bart", "seq2seq", "model.encoder.layers.0", "final_layer_norm"),
        ("t5", "seq2seq", "encoder.block.0.layer.1", None),
    ],
)
def test_the_sum_behind_a_feed_forward_block(architecture, task, layer, norm):
    model = tiny_models.build(architecture, task)
    end = roles.layers(model, (roles.FEED_FORWARD,))[0]
    assert roles.sum_behind(model, end) == (layer, norm and f"{layer}.{norm}")


@pytest.mark.parametrize(("norms_first", "norm"), [(True, None), (False, "decoder.layers.0.final_layer_norm")])
def test_opt_says_itself_where_its_norms_stand(norms_first, norm):
    sizes = {"hidden_size": 8, "word_embed_proj_dim": 8, "ffn_dim": 8, "num_attention_heads": 2, "num_hidden_layers": 1}
    with torch.device("meta"):
        model = OPTModel(OPTConfig(**sizes, do_layer_norm_before=norms_first))
    assert roles.sum_behind(model, "decoder.layers.0.fc2") == ("decoder.layers.0", norm)


def test_albert_has_a_norm_of_its_own_name():
    with torch.device("meta"):
        model = AlbertModel(AlbertConfig(hidden_size=8, intermediate_size=8, num_attention_heads=2, num_hidden_layers=1))
    layer = "encoder.albert_layer_groups.0.albert_layers.0"
    assert roles.sum_behind(model, f"{layer}.ffn_output") == (layer, f"{layer}.full_layer_layer_norm")


def test_a_layer_outside_the_stack_has_no_known_sum():
    with pytest.raises(NoSuchTarget, match="'lm_head' is in no numbered layer"):
        roles.sum_behind(tiny_models.build("llama", "causal"), "lm_head")
