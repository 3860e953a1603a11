"""Tokenizers, weights and other files of the tiny repositories in `tiny_hub`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

WIDTH = 32
INNER = 48
DECOYS = ("pytorch_model.bin", "tf_model.h5", "rust_model.ot", "onnx/model.onnx")

Weights = dict[str, np.ndarray]


def word_problem(i: int, config: str = "main") -> dict[str, str]:
    """A word problem in GSM8K's form, with its calculator's marks."""
    apples, eaten = 20 + 3 * i, 2 + i % 7
    left = apples - eaten
    step = f"{apples} - {eaten} = <<{apples}-{eaten}={left}>>{left} apples are left."
    if config == "socratic":
        step = f"How many are left? ** {step}"
    question = f"Basket {i} holds {apples} apples and {eaten} are eaten. How many are left?"
    return {"question": question, "answer": f"{step}\n#### {left}"}


# --- tokenizers ----------------------------------------------------------------------------------

_TEXT = [f"{row['question']} {row['answer']}" for row in map(word_problem, range(20))]


def save_byte_tokenizer(
    into: Path, special: tuple[str, ...], settings: dict[str, Any]
) -> dict[str, int]:
    """GPT-2's kind, trained on a few lines, with all four of its files; the ids of all tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(_TEXT, trainer)
    tokenizer.add_special_tokens(list(special))
    whole = json.loads(tokenizer.to_str())
    write(into / "tokenizer.json", tokenizer.to_str(pretty=True).encode())
    write_json(into / "vocab.json", whole["model"]["vocab"])
    merges = "\n".join(" ".join(pair) for pair in whole["model"]["merges"])
    write(into / "merges.txt", f"#version: 0.2\n{merges}\n".encode())
    added = {
        str(token["id"]): {k: v for k, v in token.items() if k != "id"}
        for token in whole["added_tokens"]
    }
    if "chat_template" in settings:
        settings = {**settings, "added_tokens_decoder": added}
    write_json(into / "tokenizer_config.json", settings)
    ids: dict[str, int] = tokenizer.get_vocab()
    return ids


def save_deberta_tokenizer(into: Path) -> int:
    """A sentencepiece model and the tokenizer.json made of it; the size of the vocabulary."""
    import sentencepiece
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    into.mkdir(parents=True)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(_TEXT), model_prefix=str(into / "spm"), vocab_size=60,
        pad_id=0, bos_id=1, eos_id=2, unk_id=3, minloglevel=2,
        pad_piece="[PAD]", bos_piece="[CLS]", eos_piece="[SEP]", unk_piece="[UNK]",
    )  # fmt: skip
    (into / "spm.vocab").unlink()
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(into / "spm.model"))
    vocabulary = [(pieces.id_to_piece(i), pieces.get_score(i)) for i in range(len(pieces))]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=3, byte_fallback=False))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Strip(), normalizers.NFKC()])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"])
    _finish_pair_tokenizer(into, tokenizer, {"tokenizer_class": "DebertaV2Tokenizer",
                                             "vocab_type": "spm", "split_by_punct": False,
                                             "do_lower_case": False})  # fmt: skip
    write_json(into / "added_tokens.json", {"[MASK]": tokenizer.token_to_id("[MASK]")})
    size: int = tokenizer.get_vocab_size()
    return size


def save_bert_tokenizer(into: Path) -> int:
    """Lower-case word pieces: vocab.txt and tokenizer.json; the size of the vocabulary."""
    from tokenizers import BertWordPieceTokenizer, Tokenizer

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trained = BertWordPieceTokenizer(lowercase=True)
    trained.train_from_iterator(_TEXT, 80, show_progress=False, special_tokens=special)
    tokenizer = Tokenizer.from_str(trained.to_str())
    words = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    write(into / "vocab.txt", "".join(f"{word}\n" for word, _ in words).encode())
    _finish_pair_tokenizer(into, tokenizer, {"tokenizer_class": "BertTokenizer",
                                             "do_lower_case": True})  # fmt: skip
    return len(words)


def _finish_pair_tokenizer(into: Path, tokenizer: Any, settings: dict[str, Any]) -> None:
    from tokenizers import processors

    ids = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ids
    )
    write(into / "tokenizer.json", tokenizer.to_str(pretty=True).encode())
    names = {f"{kind}_token": f"[{kind.upper()}]" for kind in ("pad", "unk", "cls", "sep", "mask")}
    write_json(into / "special_tokens_map.json", names)
    write_json(into / "tokenizer_config.json", {"model_max_length": 512, **names, **settings})


# --- weights -------------------------------------------------------------------------------------

_GENERATOR_SEED = 7


def random_weights(*shape: int, scale: float = 0.3) -> np.ndarray:
    """Large enough to be decided about some tokens, as trained weights are."""
    generator = np.random.default_rng([_GENERATOR_SEED, *shape])
    return generator.normal(scale=scale, size=shape).astype(np.float32)


def norm(name: str, size: int = WIDTH) -> Weights:
    return {f"{name}.weight": np.ones(size, np.float32), f"{name}.bias": np.zeros(size, np.float32)}


def linear(name: str, outputs: int, inputs: int, scale: float = 0.3) -> Weights:
    weight = random_weights(outputs, inputs, scale=scale)
    return {f"{name}.weight": weight, f"{name}.bias": np.zeros(outputs, np.float32)}


def bert_layers(name: str, n_layers: int, projections: tuple[str, ...]) -> Weights:
    w: Weights = {}
    for i in range(n_layers):
        at = f"{name}.layer.{i}"
        for projection in projections:
            w |= linear(f"{at}.attention.self.{projection}", WIDTH, WIDTH)
        w |= linear(f"{at}.attention.output.dense", WIDTH, WIDTH)
        w |= norm(f"{at}.attention.output.LayerNorm") | norm(f"{at}.output.LayerNorm")
        w |= linear(f"{at}.intermediate.dense", INNER, WIDTH)
        w |= linear(f"{at}.output.dense", WIDTH, INNER)
    return w


def save_weights(path: Path, weights: Weights, kind: str = "F32") -> None:
    """A safetensors file, byte by byte; a bfloat16 is the upper half of a float32."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    body = b""
    for name, array in weights.items():
        own = {"float32": kind, "int64": "I64"}[str(array.dtype)]
        data = (array.view(np.uint32) >> 16).astype(np.uint16) if own == "BF16" else array
        ends = [len(body), len(body) + data.nbytes]
        header[name] = {"dtype": own, "shape": array.shape, "data_offsets": ends}
        body += data.tobytes()
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    write(path, len(text).to_bytes(8, "little") + text + body)


def save_decoys(into: Path) -> None:
    for name in DECOYS:
        write(into / name, b"this is not what its name says: " + name.encode())
    write(into / "README.md", b"# A tiny stand-in\n")


def write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def write_json(path: Path, value: Any) -> None:
    write(path, json.dumps(value, indent=2).encode())
