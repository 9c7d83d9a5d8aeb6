"""Answers do not depend on batching, stop where they should, and equal the plain forward pass."""

import pytest
import torch

from tiny_models import DECODERS, VOCABULARY_SIZE, build
from tiny_tokenizer import build as build_tokenizer
from tunesmith.errors import DataError
from tunesmith.evaluation.generate import Answer, Generation, generate, stream, text_pieces
from tunesmith.evaluation.sampling import Sampling

ROWS = [
    torch.randint(8, VOCABULARY_SIZE, (length,), generator=torch.Generator().manual_seed(length)).tolist()
    for length in (5, 1, 12, 3, 9)
]
SETTINGS = Generation(max_new_tokens=10)
SAMPLED = Generation(max_new_tokens=10, sampling=Sampling(temperature=1.0, top_p=0.95, seed=3))


def _by_plain_forward(model, row, num):
    ids = list(row)
    for _ in range(num):
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(row) :]


@pytest.mark.parametrize("name", DECODERS)
def test_a_batch_gives_what_each_row_gives_alone_and_by_the_plain_forward(name, capfd):
    # With tied embeddings a tiny random model repeats its last token.
    model = build(name, tie_word_embeddings=False)
    expected = [_by_plain_forward(model, row, 10) for row in ROWS]
    assert len({token for ids in expected for token in ids}) > 5, "a constant output would prove nothing"
    assert [answer.ids for answer in generate(model, ROWS, SETTINGS)] == expected
    assert [generate(model, [row], SETTINGS)[0].ids for row in ROWS] == expected
    assert [list(stream(model, row, SETTINGS)) for row in ROWS] == expected
    assert capfd.readouterr() == ("", ""), "nothing is printed"


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_sampled_answers_do_not_depend_on_batching_or_order(name):
    model = build(name)
    together = generate(model, ROWS, SAMPLED)
    narrow = Generation(max_new_tokens=10, sampling=SAMPLED.sampling, tokens_per_pass=1)
    assert together == generate(model, ROWS, narrow)
    assert together[0].ids == list(stream(model, ROWS[0], SAMPLED))
    assert together != generate(model, ROWS, SETTINGS)
    assert generate(model, [ROWS[0]] * 3, SAMPLED)[0].ids != generate(model, [ROWS[0]] * 3, SAMPLED)[1].ids


@pytest.mark.parametrize("settings", [SETTINGS, SAMPLED])
def test_answers_end_before_any_stop_id(settings):
    model = build("llama")
    free = generate(model, ROWS, settings)
    stop_ids = (free[0].ids[4], free[2].ids[0])
    stopping = Generation(max_new_tokens=10, stop_ids=stop_ids, sampling=settings.sampling)
    expected = []
    for answer in free:
        end = next((i for i, token in enumerate(answer.ids) if token in stop_ids), None)
        expected.append(Answer(answer.ids[:end], end is not None))
    assert expected[2] == Answer([], stopped=True)
    assert any(not answer.stopped for answer in expected) or any(0 < len(answer.ids) < 10 for answer in expected)
    assert generate(model, ROWS, stopping) == expected
    ids: list[int] = []
    assert _drained(stream(model, ROWS[0], stopping), ids) == expected[0].stopped
    assert ids == expected[0].ids
    assert not _drained(stream(model, ROWS[0], settings), []), "nothing ends it but the limit"


def _drained(tokens, into: list[int]) -> bool:
    """What a stream returns at its end."""
    while True:
        try:
            into.append(next(tokens))
        except StopIteration as end:
            return end.value


def test_the_model_is_left_as_it_was_and_its_own_defaults_do_not_count():
    model = build("llama")
    expected = generate(model, ROWS, SETTINGS)
    config = model.generation_config
    config.repetition_penalty, config.temperature, config.do_sample, config.max_length = 5.0, 3.0, True, 7
    config.suppress_tokens = [expected[0].ids[0]]
    model.train()
    model.lm_head.eval()
    state = torch.random.get_rng_state()
    assert generate(model, ROWS, SETTINGS) == expected
    assert list(stream(model, ROWS[1], SETTINGS)) == expected[1].ids
    assert model.generation_config is config
    assert model.training
    assert not model.lm_head.training
    assert torch.equal(state, torch.random.get_rng_state())


def test_streaming_leaves_gradients_on_between_tokens():
    tokens = stream(build("gpt2"), ROWS[0], SETTINGS)
    next(tokens)
    assert torch.is_grad_enabled()
    tokens.close()


def test_progress_counts_rows_and_ends_at_all_of_them():
    seen = []
    generate(
        build("gpt2"), ROWS, Generation(max_new_tokens=2, tokens_per_pass=12), lambda done, total: seen.append((done, total))
    )
    assert seen == [(2, 5), (3, 5), (4, 5), (5, 5)]


def test_a_long_prompt_shortens_only_its_own_answer():
    model = build("gpt2")
    free = generate(model, ROWS, SETTINGS)
    short = generate(model, ROWS, Generation(max_new_tokens=10, max_length=16))
    assert [len(answer.ids) for answer in short] == [10, 10, 4, 10, 7]
    assert [answer.ids for answer in short] == [a.ids[: len(b.ids)] for a, b in zip(free, short, strict=True)]


@pytest.mark.parametrize(
    ("row", "message"), [([], "Prompt 2 is empty"), ([3] * 16, "Prompt 2 has 16 tokens and the model takes 16")]
)
def test_prompts_that_cannot_be_answered_are_refused(row, message):
    with pytest.raises(DataError, match=message):
        generate(build("gpt2"), [ROWS[0], row], Generation(max_length=16))
    with pytest.raises(DataError, match=message.replace("2", "1", 1)):
        stream(build("gpt2"), row, Generation(max_length=16))


@pytest.mark.parametrize("name", ["t5", "bart"])
def test_encoder_decoders_answer_the_same_in_a_batch(name):
    model = build(name, "seq2seq", seed=1)
    together = generate(model, ROWS, SETTINGS)
    assert together == [generate(model, [row], SETTINGS)[0] for row in ROWS]
    ids = [0]
    for _ in range(10):
        with torch.no_grad():
            ids.append(
                int(model(input_ids=torch.tensor([ROWS[3]]), decoder_input_ids=torch.tensor([ids])).logits[0, -1].argmax())
            )
    assert together[3].ids == ids[1:]
    assert len({tuple(answer.ids) for answer in together}) > 1


def test_no_rows_give_no_answers():
    assert generate(build("gpt2"), [], SETTINGS) == []


def test_pieces_of_text_never_split_a_character():
    tokenizer = build_tokenizer()
    text = "naïve 東京 🙂 done"
    ids = tokenizer.encode(text)
    assert len(ids) > len(text)
    pieces = list(text_pieces(iter(ids), tokenizer.decode))
    assert "".join(pieces) == text
    assert len(pieces) == len(text), "each character comes as soon as it is complete"


def test_pieces_keep_the_space_that_a_tokenizer_drops_at_the_start():
    words = ["▁Hello", "▁world", "!"]

    def decode(ids):
        return "".join(words[i] for i in ids).replace("▁", " ").removeprefix(" ")

    assert list(text_pieces(iter([0, 1, 2]), decode)) == ["Hello", " world", "!"]


def test_a_character_that_was_cut_off_still_appears_as_damaged():
    cut = "né".encode()[:-1]
    assert "".join(text_pieces(iter(cut), lambda ids: bytes(ids).decode(errors="replace"))) == "n\ufffd"
