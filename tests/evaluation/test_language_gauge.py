"""What the gauge says of unchanged, slightly changed and ruined language models, against the whole distribution."""

import itertools
import math

import numpy as np
import pytest
import torch

from tiny_models import build
from tunesmith.errors import RunError
from tunesmith.evaluation.language_gauge import LITTLE_RATIO, NUM_KEPT, LanguageGauge
from tunesmith.evaluation.retention import load_record, save_record

VOCABULARY = 200


@pytest.fixture
def rows():
    random = np.random.default_rng(0)
    return [random.integers(0, VOCABULARY, size=length).astype(np.int32) for length in (7, 12, 3, 1, 9, 5, 8)]


def _bigram(table, *, block=None):
    """A model whose logits are a row of a table: all blocks in one, or `block` positions each."""

    def logits_of(rows):
        logits = table[torch.from_numpy(np.concatenate(rows)).long()]
        return [logits] if block is None else logits.split(block)

    return _reader(logits_of)


def _reader(logits_of):
    return lambda passes, work: [work(one, logits_of(one.rows)) for one in passes]


def _table(scale=2.0, seed=0):
    return scale * torch.randn(VOCABULARY, VOCABULARY, generator=torch.Generator().manual_seed(seed))


def test_an_unchanged_model_has_forgotten_exactly_nothing(rows, tmp_path):
    gauge, model = LanguageGauge(rows), _bigram(_table())
    save_record(tmp_path / "base", gauge.before(model))
    found = gauge.after(model, load_record(tmp_path / "base"))
    assert found.measures["kl_to_base"].value == 0.0
    ratio = found.measures["general_perplexity_ratio"]
    assert (ratio.value, ratio.low, ratio.high) == (1.0, 1.0, 1.0)
    assert found.level == "remembers"
    assert found.sentence.startswith("remembers: predictions on general text are exactly those of the base model")


def test_perplexity_and_divergence_against_the_whole_distribution(rows):
    base, tuned = _table(), _table() + _table(scale=0.7, seed=1)
    gauge = LanguageGauge(rows)
    measures = gauge.after(_bigram(tuned), gauge.before(_bigram(base))).measures
    inputs = torch.from_numpy(np.concatenate([row[:-1] for row in rows])).long()
    targets = torch.from_numpy(np.concatenate([row[1:] for row in rows])).long()
    p, q = (table.double().log_softmax(1)[inputs] for table in (base, tuned))
    loss = {name: -log.gather(1, targets[:, None]).mean().item() for name, log in (("before", p), ("after", q))}
    for name, value in loss.items():
        assert measures[f"general_perplexity_{name}"].value == pytest.approx(math.exp(value), rel=1e-5)
    assert measures["general_perplexity_ratio"].value == pytest.approx(math.exp(loss["after"] - loss["before"]), rel=1e-5)
    assert measures["kl_to_base"].count == 6, "a row of one token predicts nothing"
    top = p.topk(NUM_KEPT).indices
    classes = [torch.cat([log.gather(1, top).exp(), 1 - log.gather(1, top).exp().sum(1, keepdim=True)], 1) for log in (p, q)]
    coarse = (classes[0] * (classes[0] / classes[1]).log()).sum(1).mean().item()
    whole = (p.exp() * (p - q)).sum(1).mean().item()
    assert measures["kl_to_base"].value == pytest.approx(coarse, rel=1e-4)
    assert 0.5 * whole < coarse < whole, "a lower bound, and not a void one"


def test_a_small_vocabulary_is_kept_whole_and_the_divergence_is_exact(rows):
    rows = [row % 40 for row in rows]
    base, tuned = _table()[:40, :40], _table(seed=3)[:40, :40]
    gauge = LanguageGauge(rows)
    inputs = torch.from_numpy(np.concatenate([row[:-1] for row in rows])).long()
    p, q = (table.double().log_softmax(1)[inputs] for table in (base, tuned))
    found = gauge.after(_bigram(tuned), gauge.before(_bigram(base)))
    assert found.measures["kl_to_base"].value == pytest.approx((p.exp() * (p - q)).sum(1).mean().item(), rel=1e-5)


@pytest.mark.parametrize(("tokens_per_pass", "block"), [(1, None), (10, 4), (1000, 1), (1000, 7)])
def test_passes_and_blocks_change_nothing(rows, tokens_per_pass, block):
    base, tuned = _table(), _table(seed=2)
    expected = LanguageGauge(rows).after(_bigram(tuned), LanguageGauge(rows).before(_bigram(base)))
    gauge = LanguageGauge(rows, tokens_per_pass)
    found = gauge.after(_bigram(tuned, block=block), gauge.before(_bigram(base, block=block)))
    for name, measure in expected.measures.items():
        assert found.measures[name].value == pytest.approx(measure.value, rel=1e-6)


@pytest.mark.parametrize(
    ("target_loss", "level"), [(-0.1, "remembers"), (0.02, "remembers"), (0.1, "forgot a little"), (0.5, "forgot much")]
)
def test_the_level_follows_the_rise_of_perplexity(rows, target_loss, level):
    base = _table()
    tuned = base.clone()
    # Every token that follows in the rows loses the same log-probability, spread over all others.
    for row in rows:
        for first, second in itertools.pairwise(row):
            log = base[first].log_softmax(0)
            share = (log[second] - target_loss).exp()
            tuned[first] = (log.exp() * (1 - share) / (1 - log[second].exp())).log()
            tuned[first, second] = share.log()
    gauge = LanguageGauge([row for row in rows if len(np.unique(row[:-1])) == len(row) - 1][:1])
    found = gauge.after(_bigram(tuned), gauge.before(_bigram(base)))
    assert found.measures["general_perplexity_ratio"].value == pytest.approx(math.exp(target_loss), rel=0.05)
    assert found.level == level
    assert found.sentence.startswith(level)


def test_it_is_unsure_where_no_difference_is_found(rows):
    """A rise that may be chance is no forgetting, and no remembering either."""
    gauge, levels = LanguageGauge(rows), set()
    record = gauge.before(_bigram(_table()))
    for seed in range(1, 40):
        found = gauge.after(_bigram(_table() + 0.3 * _table(seed=seed)), record)
        rise = found.measures["general_perplexity_ratio"]
        is_chance = rise.low <= 1 <= rise.high
        assert (found.level == "unsure") == (is_chance and rise.value >= LITTLE_RATIO)
        assert ("no difference found" in found.sentence) == is_chance
        assert found.sentence.startswith(found.level)
        assert not ("forgot" in found.sentence and is_chance)
        levels.add(found.level)
    assert levels >= {"remembers", "unsure"}


def test_a_model_that_ended_in_nan_remembers_nothing(rows):
    gauge = LanguageGauge(rows)
    found = gauge.after(_bigram(_table() * math.nan), gauge.before(_bigram(_table())))
    assert found.level == "forgot much"


def test_wrong_input_is_refused(rows):
    gauge = LanguageGauge(rows)
    record = gauge.before(_bigram(_table()))
    with pytest.raises(RunError, match="other general texts"):
        LanguageGauge(rows[1:]).after(_bigram(_table()), record)
    with pytest.raises(ValueError, match="45 tokens"):
        gauge.before(_reader(lambda rows: [torch.zeros(3, VOCABULARY)]))


def test_a_real_architecture_measured_row_by_row(rows):
    model = build("llama")

    def logits_of(group):
        with torch.no_grad():
            return [model(torch.from_numpy(row)[None].long()).logits[0] for row in group]

    gauge = LanguageGauge(rows)
    record = gauge.before(_reader(logits_of))
    assert gauge.after(_reader(logits_of), record).measures["kl_to_base"].value == 0.0
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(-1)
    assert gauge.after(_reader(logits_of), record).measures["kl_to_base"].value > 0.1
