"""What attaching counts is what the formulas and the papers say."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from transformers import BertConfig, GPT2Config, LlamaConfig, OPTConfig, PretrainedConfig, RobertaConfig, T5Config

import tiny_models
from tunesmith.errors import InputError, ModelError
from tunesmith.planning import catalogue, parameters
from tunesmith.planning.catalogue import Entry
from tunesmith.planning.parameters import Count


@dataclass(frozen=True)
class Shape:
    """A model as a paper describes it, written down by hand."""

    linear: list[tuple[int, int]]
    """(inputs, outputs) of every linear layer between the embeddings and the head."""
    hidden: int
    keys: list[int]
    """Width of the keys, which is that of the values, of every attention layer."""
    prefixed: int
    """How many attention layers see a prefix: those of words on themselves, where answers are written."""
    inner: list[int]
    """Inner width of every feed-forward block."""
    vectors: int
    """Numbers that BitFit trains: all biases, or all norms where there is no bias."""
    total: int
    head: int = 0
    """Numbers of a new classification head."""


def llama(hidden: int, inner: int, layers: int, heads: int, groups: int) -> tuple[PretrainedConfig, Shape]:
    keys = hidden // heads * groups
    linear = [(hidden, hidden)] * 2 + [(hidden, keys)] * 2 + [(hidden, inner)] * 2 + [(inner, hidden)]
    norms = (2 * layers + 1) * hidden
    config = LlamaConfig(
        hidden_size=hidden, intermediate_size=inner, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=groups, vocab_size=500,
    )  # fmt: skip
    total = layers * sum(a * b for a, b in linear) + norms + 2 * 500 * hidden
    return config, Shape(linear * layers, hidden, [keys] * layers, layers, [inner] * layers, norms, total)


def gpt2(hidden: int, layers: int) -> tuple[PretrainedConfig, Shape]:
    linear = [(hidden, 3 * hidden), (hidden, hidden), (hidden, 4 * hidden), (4 * hidden, hidden)]
    biases = layers * (sum(b for _, b in linear) + 2 * hidden) + hidden
    weights = layers * (sum(a * b for a, b in linear) + 2 * hidden) + hidden
    config = GPT2Config(n_embd=hidden, n_layer=layers, n_head=4, vocab_size=500, n_positions=64)
    inner = [4 * hidden] * layers
    return config, Shape(linear * layers, hidden, [hidden] * layers, layers, inner, biases, weights + biases + 564 * hidden)


def bert(hidden: int, inner: int, layers: int) -> tuple[PretrainedConfig, Shape]:
    """With a pooler, which learns only where all or all biases do, and a head for two classes."""
    linear = [(hidden, hidden)] * 4 + [(hidden, inner), (inner, hidden)]
    pooler, head = hidden * hidden, 2 * hidden + 2
    biases = layers * (sum(b for _, b in linear) + 2 * hidden) + 2 * hidden
    weights = layers * (sum(a * b for a, b in linear) + 2 * hidden) + hidden + pooler
    config = BertConfig(
        hidden_size=hidden, intermediate_size=inner, num_hidden_layers=layers, num_attention_heads=4, vocab_size=500,
        max_position_embeddings=64,
    )  # fmt: skip
    total = weights + biases + (500 + 64 + 2) * hidden + head
    return config, Shape(linear * layers, hidden, [hidden] * layers, layers, [inner] * layers, biases, total, head)


def t5(hidden: int, width: int, inner: int, layers: int) -> tuple[PretrainedConfig, Shape]:
    """`layers` in each stack; `width` of all heads together, which need not be the hidden size."""
    attention = [(hidden, width)] * 3 + [(width, hidden)]
    block = [(hidden, inner), (inner, hidden)]
    linear = (attention + block) * layers + (2 * attention + block) * layers
    norms = (2 * layers + 1 + 3 * layers + 1) * hidden
    config = T5Config(d_model=hidden, d_kv=width // 4, d_ff=inner, num_layers=layers, num_heads=4, vocab_size=500)
    total = sum(a * b for a, b in linear) + norms + 500 * hidden + 2 * 32 * 4  # two tables of relative positions
    return config, Shape(linear, hidden, [width] * 3 * layers, layers, [inner] * 2 * layers, norms, total)


MODELS = {
    "llama": llama(hidden=64, inner=176, layers=3, heads=4, groups=4),
    "llama, grouped heads": llama(hidden=96, inner=160, layers=2, heads=6, groups=2),
    "llama, one group": llama(hidden=64, inner=96, layers=1, heads=8, groups=1),
    "gpt2": gpt2(hidden=64, layers=2),
    "bert": bert(hidden=64, inner=144, layers=3),
    "t5": t5(hidden=64, width=32, inner=80, layers=2),
}


def low_rank(rank: int) -> Callable[[Shape], int]:
    return lambda m: sum(rank * (d_in + d_out) for d_in, d_out in m.linear)


def bottleneck(width: Callable[[int], int], per_block: Callable[[Shape], int]) -> Callable[[Shape], int]:
    def formula(m: Shape) -> int:
        size = width(m.hidden)
        return per_block(m) * (2 * size * m.hidden + m.hidden + size)

    return formula


def sublayers(m: Shape) -> int:
    return len(m.keys) + len(m.inner)


def blocks(m: Shape) -> int:
    return len(m.inner)


FORMULAS: dict[str, Callable[[Shape], int]] = {
    "lora": low_rank(16),
    "lora-plus": low_rank(16),
    "pissa": lambda m: sum(
        min(16, d_in, d_out) * (d_in + d_out) for d_in, d_out in m.linear
    ),  # a weight has no more directions
    "rslora": low_rank(32),
    "dora": lambda m: low_rank(16)(m) + sum(d_out for _, d_out in m.linear),
    "vera": lambda m: sum(256 + d_out for _, d_out in m.linear),
    "adapter": bottleneck(lambda _: 64, sublayers),
    "houlsby": bottleneck(lambda _: 64, sublayers),
    "pfeiffer": bottleneck(lambda hidden: hidden // 16, blocks),
    "parallel-adapter": bottleneck(lambda hidden: hidden // 2, blocks),
    "prefix": lambda m: 2 * 20 * m.prefixed * m.keys[0],
    "prompt": lambda m: 20 * m.hidden,
    "ptuning": lambda m: 20 * m.hidden + 3 * (m.hidden * m.hidden + m.hidden),
    "ia3": lambda m: 2 * sum(m.keys) + sum(m.inner),
    "bitfit": lambda m: m.vectors,
    "full": lambda m: m.total - m.head,
}


@pytest.mark.parametrize("model", MODELS)
def test_counts_equal_the_formulas(model):
    config, shape = MODELS[model]
    found = parameters.count(config, [catalogue.find(name) for name in FORMULAS])
    assert {n: c.num_trainable if isinstance(c, Count) else c for n, c in found.items()} == {
        name: formula(shape) + shape.head for name, formula in FORMULAS.items()
    }
    for name, count in found.items():
        assert isinstance(count, Count)
        assert count.num_base == shape.total
        assert count.num_added == (0 if catalogue.find(name).trains_base_weights else FORMULAS[name](shape))


def _added(config: PretrainedConfig, name: str, **settings: object) -> int:
    entry = catalogue.find(name)
    chosen = {**entry.method, **settings}
    count = parameters.count(config, [_with(entry, chosen)])[name]
    assert isinstance(count, Count)
    return count.num_added


def _with(entry: Entry, method: dict[str, object]) -> Entry:
    return Entry(**{**vars(entry), "method": method})


GPT3 = OPTConfig(hidden_size=12288, ffn_dim=49152, num_hidden_layers=96, num_attention_heads=96, word_embed_proj_dim=12288)
T5_XXL = T5Config(d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64, feed_forward_proj="gated-gelu")
ROBERTA_BASE = RobertaConfig()
ROBERTA_LARGE = RobertaConfig(hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16)
LLAMA_7B = LlamaConfig()


def test_lora_on_gpt3():
    """Hu et al. (2021), section 4.2: with rank 4 in W_q and W_v a checkpoint shrinks to 35 MB."""
    added = _added(GPT3, "lora", rank=4, targets=["q_proj", "v_proj"])
    assert added == 18_874_368
    assert 2 * added / 1e6 == pytest.approx(37.7, abs=0.05)  # 36 of what 1024 x 1024 bytes are


def test_lora_on_roberta_base():
    """Hu et al. (2021), table 2: 0.3 M."""
    assert _added(ROBERTA_BASE, "lora", rank=8, targets=["query", "value"]) == 294_912


def test_prompt_tuning_on_t5_xxl():
    """Lester et al. (2021), section 1: 20,480 for a prompt of five tokens."""
    assert _added(T5_XXL, "prompt", num_tokens=5) == 20_480


def test_dora_and_lora_on_llama_7b():
    """Liu et al. (2024), table 1: 0.83 % and 0.84 %."""
    for name, share in (("lora", 0.83), ("dora", 0.84)):
        targets = ["q_proj", "k_proj", "v_proj", "up_proj", "down_proj"]
        added = _added(LLAMA_7B, name, rank=32, targets=targets)
        assert 100 * added / (6_738_415_616 + added) == pytest.approx(share, abs=0.005)


def test_vera_on_roberta():
    """Kopiczko et al. (2023), table 2: 0.043 M and 0.061 M."""
    assert _added(ROBERTA_BASE, "vera", rank=1024, targets=["query", "value"]) == 43_008
    assert _added(ROBERTA_LARGE, "vera", rank=256, targets=["query", "value"]) == 61_440


@pytest.mark.parametrize(
    ("config", "percent"),
    [
        (BertConfig(), 0.09),
        (BertConfig(hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16), 0.08),
    ],
    ids=["base", "large"],
)
def test_bitfit_on_bert(config, percent):
    """Ben Zaken et al. (2021), section 4: 0.09 % of BERT-base, 0.08 % of BERT-large."""
    count = parameters.count(config, [catalogue.find("bitfit")])["bitfit"]
    assert isinstance(count, Count)
    head = 2 * config.hidden_size + 2
    assert 100 * (count.num_trainable - head) / (count.num_base - head) == pytest.approx(percent, abs=0.005)


def test_an_eight_billion_model_takes_a_second():
    """Twice that is allowed for a busy machine; a model with real weights would take minutes and 32 GB."""
    config = LlamaConfig(
        hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8,
        vocab_size=128256,
    )  # fmt: skip
    entries = catalogue.entries()
    parameters.count(tiny_models.configuration("llama"), entries)  # imports what torch and transformers import late
    start = time.process_time()
    counts = parameters.count(config, entries)
    assert time.process_time() - start < 2
    assert all(isinstance(count, Count) and count.num_base == 8_030_261_248 for count in counts.values())


def test_a_method_that_does_not_fit_says_so_and_hinders_no_other():
    entries = [catalogue.find("prompt"), _with(catalogue.find("lora"), {"name": "lora", "targets": ["nothing"]})]
    counts = parameters.count(tiny_models.configuration("llama"), [*reversed(entries), catalogue.find("full")])
    assert isinstance(counts["lora"], InputError)
    assert "This model has: down_proj" in str(counts["lora"])
    assert isinstance(counts["prompt"], Count)
    assert isinstance(counts["full"], Count)


def test_a_configuration_of_no_model():
    with pytest.raises(ModelError, match="No model can be built from this BertConfig"):
        parameters.count(BertConfig(hidden_size=10, num_attention_heads=3), [])
