"""The tiny models and tokenizers are what other tests rely on: alike when built twice, unlike for unlike inputs."""

import pytest
import torch

import tiny_models
import tiny_tokenizer

CASES = [
    *((name, "causal") for name in tiny_models.DECODERS),
    *((name, "classification") for name in tiny_models.ARCHITECTURES if name != "t5"),
    *((name, "seq2seq") for name in tiny_models.ENCODER_DECODERS),
]


@pytest.mark.parametrize(("name", "task"), CASES)
def test_one_token_changes_the_output(name, task):
    model = tiny_models.build(name, task)
    ids = torch.randint(8, tiny_models.VOCABULARY_SIZE, (1, 12), generator=torch.Generator().manual_seed(1))
    ids[:, -1] = 2
    other = ids.clone()
    other[:, 9] = 8 + (other[:, 9] - 7) % 256
    extra = {"decoder_input_ids": ids} if task == "seq2seq" else {}
    with torch.no_grad():
        difference = model(input_ids=ids, **extra).logits - model(input_ids=other, **extra).logits
    assert difference.abs().max() > 0.01  # a thousand times what rounding does
    assert model.dtype == torch.float32


def test_the_same_arguments_give_the_same_weights_in_separate_memory():
    first, second = tiny_models.build("llama"), tiny_models.build("llama")
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
        assert a.data_ptr() != b.data_ptr()
    assert not torch.equal(first.lm_head.weight, tiny_models.build("llama", seed=1).lm_head.weight)


@pytest.mark.parametrize("kind", ["chat", "plain", "encoder", "seq2seq"])
def test_every_text_comes_back(kind):
    tokenizer = tiny_tokenizer.build(kind)
    text = "  Žluťoučký kůň,\n\tà la 汉字 🙂 "
    assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) == text
    assert len(tokenizer) <= tiny_models.VOCABULARY_SIZE


def test_chat_template_and_pairs():
    chat = tiny_tokenizer.build("chat")
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]
    assert chat.apply_chat_template(turns, tokenize=False).endswith("<|im_start|>assistant\nyo<|im_end|>\n")
    pair = tiny_tokenizer.build("encoder")("a", "b")
    assert pair.input_ids[0] == 4
    assert pair.token_type_ids == [0, 0, 0, 1, 1]
