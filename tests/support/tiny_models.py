"""Tiny random models, saved as Hugging Face folders: a few kilobytes, built in milliseconds.

Their weights are large, so that they are decided about some tokens and undecided about others, as
trained models are; with transformers' usual initialisation every distribution would be flat.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

END, THINK, END_THINK = "<|end|>", "<think>", "</think>"
ARCHITECTURES = ("gpt2", "llama", "qwen3", "gemma2")
CONTEXT = 96
WIDTH = 32
N_LAYERS = 3
SLIDING_WINDOW = 8
LABELS = ("contradiction", "neutral", "entailment")


def byte_tokenizer(special: Sequence[str] = (END, THINK, END_THINK), **kwargs: Any) -> Any:
    """A tokenizer with one token a byte; `special` tokens come first."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate((*special, *alphabet))}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(list(special))
    return PreTrainedTokenizerFast(tokenizer_object=backend, **kwargs)


def save_language_model(
    architecture: str,
    folder: Path,
    *,
    seed: int = 0,
    tokenizer: Any = None,
    context: int | None = None,
) -> Path:
    """Save a random causal language model of three layers and its tokenizer, else a byte one."""
    import torch
    from transformers import AutoModelForCausalLM

    tokenizer = tokenizer or byte_tokenizer(eos_token=END)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(
            _config(architecture, len(tokenizer), context or CONTEXT)
        )
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.eos_token_id
    return _save(model, tokenizer, folder)


def _config(architecture: str, vocabulary: int, context: int) -> Any:
    from transformers import Gemma2Config, GPT2Config, LlamaConfig, Qwen3Config

    ends = {"bos_token_id": None, "eos_token_id": 0, "pad_token_id": 0}
    common = {"vocab_size": vocabulary, "initializer_range": 0.3, **ends}
    if architecture == "gpt2":
        return GPT2Config(n_embd=WIDTH, n_layer=N_LAYERS, n_head=4, n_positions=context, **common)
    common |= {
        "hidden_size": WIDTH, "intermediate_size": 48, "num_hidden_layers": N_LAYERS,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
        "max_position_embeddings": context, "tie_word_embeddings": True,
    }  # fmt: skip
    if architecture == "gemma2":  # its window is short enough for every prompt to outgrow it
        return Gemma2Config(sliding_window=SLIDING_WINDOW, query_pre_attn_scalar=8, **common)
    return {"llama": LlamaConfig, "qwen3": Qwen3Config}[architecture](**common)


def random_model(*, layers: int = 4, vocabulary: int = 2000, context: int = 512) -> Any:
    """A random Qwen3 of width 64 as a `LanguageModel` that never ends an answer."""
    from transformers import AutoModelForCausalLM, Qwen3Config

    from helpers.models.loading import LanguageModel, ModelIdentity

    config = Qwen3Config(
        vocab_size=vocabulary, hidden_size=64, intermediate_size=192, num_hidden_layers=layers,
        num_attention_heads=4, num_key_value_heads=2, head_dim=16, max_position_embeddings=context,
        tie_word_embeddings=True, initializer_range=0.3,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config).eval()
    tokenizer, ends = byte_tokenizer(eos_token=END), frozenset[int]()
    identity = ModelIdentity("random", Path(), "", "")
    return LanguageModel(identity, model, tokenizer, "cpu", layers, 64, context, ends, pad_id=0)


def save_classifier(folder: Path, labels: Sequence[str] = LABELS, *, seed: int = 0) -> Path:
    """Save a random DeBERTa-v2 NLI classifier whose outputs are in the order of `labels`.

    The same seed gives the same classifier: the rows of its last layer belong to the labels and
    move with them. One with two labels has the rows of "neutral" and "entailment".
    """
    import torch
    from transformers import DebertaV2Config, DebertaV2ForSequenceClassification

    tokenizer, sizes = _pair_tokenizer()
    config = DebertaV2Config(
        type_vocab_size=2, relative_attention=True, pos_att_type=["p2c", "c2p"], pad_token_id=0,
        num_labels=3, **sizes,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = DebertaV2ForSequenceClassification(config)
        model.classifier.weight.data.normal_(std=1.5)
    texts = ["19", "She has 19 apples.", "no idea", "It is seven, for twelve less five is seven"]
    pairs = tokenizer(texts * 4, sorted(texts * 4), padding=True, return_tensors="pt")
    with torch.no_grad():  # a random classifier would give almost every pair the same label
        model.classifier.bias.data = -model.eval()(**pairs).logits.mean(0)
    names = {"not_entailment": "neutral"}
    plain = [label.lower().replace("-", "_") for label in labels]
    known = [names.get(label, label) for label in plain]
    rows = [LABELS.index(label) if label in LABELS else i for i, label in enumerate(known)]
    model.classifier.weight.data = model.classifier.weight.data[rows].clone()
    model.classifier.bias.data = model.classifier.bias.data[rows].clone()
    model.config.num_labels = len(labels)
    model.config.id2label = dict(enumerate(labels))
    model.config.label2id = {label: i for i, label in enumerate(labels)}
    return _save(model, tokenizer, folder)


def _pair_tokenizer() -> tuple[Any, dict[str, Any]]:
    """A tokenizer that joins pairs of texts, and the sizes of the models that read them."""
    from tokenizers import processors

    special = ("[PAD]", "[CLS]", "[SEP]")
    tokenizer = byte_tokenizer(special, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]")
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 1), ("[SEP]", 2)],
    )
    return tokenizer, {
        "vocab_size": len(tokenizer), "hidden_size": WIDTH, "intermediate_size": 48,
        "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 128,
        "initializer_range": 0.25,
    }  # fmt: skip


def save_sentence_encoder(folder: Path, *, seed: int = 0) -> Path:
    """Save a random sentence-transformers encoder: a BERT and the mean of its states."""
    import torch

    from helpers.meanings.judges import deny_jupyter

    deny_jupyter()
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer
    from transformers import BertConfig, BertModel

    tokenizer, sizes = _pair_tokenizer()
    config = BertConfig(**sizes)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        base = _save(BertModel(config), tokenizer, folder.with_name(folder.name + "-base"))
    words = Transformer(str(base), max_seq_length=64)
    SentenceTransformer(modules=[words, Pooling(WIDTH)], device="cpu").save(str(folder))
    return folder


def _save(model: Any, tokenizer: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
