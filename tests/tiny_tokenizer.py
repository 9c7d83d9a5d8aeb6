"""A byte-level tokenizer made in memory: every text is tokenised and comes back unchanged, with 264 tokens in all."""

from __future__ import annotations

from typing import Literal

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

Kind = Literal["chat", "plain", "encoder", "seq2seq"]

SPECIAL_TOKENS = ("<|pad|>", "<|im_start|>", "<|im_end|>", "<|unk|>", "[CLS]", "[SEP]", "[MASK]", "<|endoftext|>")
"""In the order of their ids, from 0. The tiny models' configurations name 0, 1 and 2 as padding, start and end."""

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def build(kind: Kind = "chat") -> PreTrainedTokenizerFast:
    """A fresh tokenizer for the tiny models.

    Args:
        kind: `chat` has ChatML as its template and adds no token by itself; `plain` is the same without a template;
            `encoder` wraps texts and pairs in `[CLS]` and `[SEP]` with token types; `seq2seq` ends every text.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate((*SPECIAL_TOKENS, *alphabet))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<|unk|>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    _add_post_processor(tokenizer, kind)
    special = {"cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"} if kind == "encoder" else {}
    names = ["input_ids", "token_type_ids", "attention_mask"] if kind == "encoder" else ["input_ids", "attention_mask"]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|pad|>",
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        unk_token="<|unk|>",
        model_max_length=128,
        model_input_names=names,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE if kind == "chat" else None,
        **special,
    )


def _add_post_processor(tokenizer: Tokenizer, kind: Kind) -> None:
    if kind == "encoder":
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 4), ("[SEP]", 5)]
        )
    elif kind == "seq2seq":
        tokenizer.post_processor = processors.TemplateProcessing(
            single="$A <|im_end|>", pair="$A <|im_end|> $B <|im_end|>", special_tokens=[("<|im_end|>", 2)]
        )
