"""The lab's tokenizers: byte-level BPE, so that any text can be fed, with every digit a token."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

END, THINK, END_THINK = "<|end|>", "<think>", "</think>"
CLS, SEP, PAD = "[CLS]", "[SEP]", "[PAD]"

CHAT_TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'user' %}Question: {{ m['content'] }}\nAnswer:"
    "{% elif m['role'] == 'assistant' %} {{ m['content'] }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt and enable_thinking is defined and enable_thinking %}<think>"
    "{% endif %}"
)
"""Thinking is asked for by an opened tag at the end of the prompt (as in DeepSeek-R1)."""


def train_bpe(texts: Iterable[str], vocabulary: int, special: list[str]) -> Any:
    """A `tokenizers.Tokenizer` trained on `texts`: byte-level, digits split, `special` first."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def as_text(backend: Any, tokens: Iterable[str]) -> Any:
    """The same tokenizer with tokens that are not special, as Qwen3's tags are not.

    A server that leaves special tokens out of its answers would lose where the thinking ends.
    """
    from tokenizers import Tokenizer

    plain = json.loads(backend.to_str())
    for token in plain["added_tokens"]:
        token["special"] = token["special"] and token["content"] not in tokens
    return Tokenizer.from_str(json.dumps(plain))


def language_model_tokenizer(texts: Iterable[str], vocabulary: int = 1024) -> Any:
    """A `PreTrainedTokenizerFast` for the language model, with a chat template."""
    from transformers import PreTrainedTokenizerFast

    backend = as_text(train_bpe(texts, vocabulary, [END, THINK, END_THINK]), (THINK, END_THINK))
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=END,
        pad_token=END,
        chat_template=CHAT_TEMPLATE,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def judge_tokenizer(texts: Iterable[str], vocabulary: int = 768) -> Any:
    """A `PreTrainedTokenizerFast` that joins two texts the way DeBERTa-v2 does."""
    from tokenizers import processors
    from transformers import PreTrainedTokenizerFast

    backend = train_bpe(texts, vocabulary, [PAD, CLS, SEP])
    ids = {token: backend.token_to_id(token) for token in (CLS, SEP)}
    backend.post_processor = processors.TemplateProcessing(
        single=f"{CLS} $A {SEP}",
        pair=f"{CLS} $A {SEP} $B:1 {SEP}:1",
        special_tokens=list(ids.items()),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        cls_token=CLS,
        sep_token=SEP,
        padding_side="right",
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )
