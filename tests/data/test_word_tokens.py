"""Tokenising by words gives the same tokens as tokenising whole texts, or is not used."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers
from transformers import PreTrainedTokenizerFast

import chat_templates as templates
import tiny_tokenizer
from data_sentences import sentences
from tunesmith.data import word_tokens
from tunesmith.data.examples import Chat, Labelled, Message, Text
from tunesmith.data.text_tokens import TextTokenizer
from tunesmith.data.tokenise import tokenise
from tunesmith.data.word_tokens import WordTokens, encode, encode_cut

PIECES = [
    "a",
    "the",
    " ",
    "  ",
    "\n",
    "\n\n",
    " \n ",
    "\t",
    "\u00a0",
    "it's",
    "12345",
    "ü",
    "☃",
    "<|im_end|>",
    "</s>",
    "é",
    "(",
    ").",
]


@pytest.fixture(autouse=True)
def always(monkeypatch):
    monkeypatch.setattr(word_tokens, "MIN_TEXTS", 1)
    monkeypatch.setattr("tunesmith.data.chat_tokens.MIN_TEXTS", 1)


@given(st.lists(st.lists(st.sampled_from(PIECES), max_size=12).map("".join), min_size=1, max_size=20))
@settings(deadline=None, max_examples=60)
def test_same_tokens(texts):
    tokens = TextTokenizer(templates.tokenizer(None))
    expected = [encoding.ids for encoding in tokens.encode(texts, special=False)]
    assert list(WordTokens(tokens).encode(texts)) == expected
    assert list(encode(texts, WordTokens(tokens))) == expected


def test_white_space_at_the_edge_of_a_word_that_was_met_before():
    """By a tokenizer that joins a line's end with the space behind it."""
    vocabulary = {text: index for index, text in enumerate(["x", "a", "y", " ", "\n", "\n ", "  "])}
    engine = Tokenizer(models.BPE(vocab=vocabulary, merges=[("\n", " "), (" ", " ")]))
    tokens = TextTokenizer(PreTrainedTokenizerFast(tokenizer_object=engine, eos_token="a"))
    texts = ["x x\n", "x x\n y", " x", "x  x", "x\n x y", "x x y", "", " "]
    assert list(WordTokens(tokens).encode(texts)) == [encoding.ids for encoding in tokens.encode(texts, special=False)]


def llama2() -> PreTrainedTokenizerFast:
    """Puts a space before every text, as Llama 2 does, so that words by themselves get one too many."""
    letters = {letter: index for index, letter in enumerate("▁abcdefghijklmnopqrstuvwxyz")}
    engine = Tokenizer(models.BPE(vocab=letters, merges=[]))
    engine.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return PreTrainedTokenizerFast(tokenizer_object=engine, eos_token="a")


def test_tokenizer_that_words_do_not_suit_goes_the_plain_way():
    tokens, texts = TextTokenizer(llama2()), ["one two", "three four five"]
    assert not WordTokens(tokens).agrees(texts)
    assert list(encode(texts, WordTokens(tokens))) == [encoding.ids for encoding in tokens.encode(texts, special=False)]


@pytest.mark.parametrize("max_length", [8, 20, 400])
def test_between_the_tokens_of_the_model(max_length):
    tokenizer = tiny_tokenizer.build("encoder")
    texts = sentences(30, words=6)
    rows = list(encode_cut(texts, WordTokens(TextTokenizer(tokenizer)), max_length))
    assert [ids for ids, _ in rows] == tokenizer(texts, truncation=True, max_length=max_length).input_ids
    assert [cut for _, cut in rows] == [len(ids) > max_length for ids in tokenizer(texts).input_ids]


@pytest.mark.parametrize("template", [templates.CHATML, templates.LLAMA3, templates.LLAMA2])
def test_conversations_are_the_same_either_way(monkeypatch, template):
    generator = random.Random(0)
    chats = []
    for question, answer in zip(sentences(60, 1), sentences(60, 2, words=5), strict=True):
        edge = generator.choice(["", " ", "\n"])
        turns = (Message("user", question), Message("assistant", edge + answer))
        chats.append(Chat(turns * generator.choice([1, 1, 2])))
    tokenizer = templates.tokenizer(template, eos="</s>")
    by_words = tokenise(chats, tokenizer, task="chat", max_length=500)
    monkeypatch.setattr("tunesmith.data.chat_tokens.MIN_TEXTS", 10**9)
    plain = tokenise(chats, tokenizer, task="chat", max_length=500)
    assert np.array_equal(by_words.table.input_ids, plain.table.input_ids)
    assert np.array_equal(by_words.table.token_labels, plain.table.token_labels)


def test_words_are_forgotten_when_there_are_too_many(monkeypatch):
    monkeypatch.setattr(word_tokens, "MAX_WORDS", 10)
    monkeypatch.setattr(word_tokens, "TEXTS_AT_ONCE", 2)
    tokens, texts = TextTokenizer(templates.tokenizer(None)), sentences(20, words=5)
    words = WordTokens(tokens)
    assert list(words.encode(texts)) == [encoding.ids for encoding in tokens.encode(texts, special=False)]
    assert 0 < len(words._words) <= 10


def test_labelled_and_texts_go_this_way(monkeypatch):
    tokenizer = tiny_tokenizer.build("encoder")
    used = []
    monkeypatch.setattr(WordTokens, "agrees", lambda self, texts: used.append(len(texts)) or True)
    tokenise([Labelled("a b", "x")], tokenizer, task="classification", max_length=20, labels=("x",))
    tokenise([Text("a b")], tiny_tokenizer.build("plain"), task="text", max_length=20)
    assert used == [1, 1]
