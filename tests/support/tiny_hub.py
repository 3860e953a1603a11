"""Tiny repositories with the very files of those on the hub: random weights, the same layout.

Configs, names of weights and tokenizers are written as the real repositories have them, not as
today's libraries would save them. Beside what is loaded lie the files that must not be fetched:
pickled weights, other frameworks' weights, ONNX; none of them holds what its name says.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from support.tiny_files import (
    INNER,
    WIDTH,
    Weights,
    bert_layers,
    linear,
    norm,
    random_weights,
    save_bert_tokenizer,
    save_byte_tokenizer,
    save_deberta_tokenizer,
    save_decoys,
    save_weights,
    word_problem,
    write,
    write_json,
)

GPT2 = "openai-community/gpt2"
QWEN = "Qwen/Qwen3-0.6B"
SHARDED = "Qwen/Qwen3-1.7B"
NLI = "cross-encoder/nli-deberta-v3-small"
MINILM = "sentence-transformers/all-MiniLM-L6-v2"
GSM8K = "openai/gsm8k"
PICKLED = "example/pickled-only"

CONTEXT = 512
HEADS = 4
N_LAYERS = 3


def save_models(folder: Path) -> dict[str, Path]:
    """All tiny models: name on the hub to the folder that holds its files."""
    for save in (save_gpt2, save_qwen3, save_sharded, save_nli, save_minilm, save_pickled_only):
        save(folder)
    return {name: folder / name for name in (GPT2, QWEN, SHARDED, NLI, MINILM, PICKLED)}


def save_gpt2(folder: Path) -> None:
    """openai-community/gpt2: no "transformer." in its weights' names, masks among them."""
    into, end = folder / GPT2, "<|endoftext|>"
    ids = save_byte_tokenizer(into, (end,), {"model_max_length": CONTEXT})
    write_json(
        into / "config.json",
        {
            "activation_function": "gelu_new",
            "architectures": ["GPT2LMHeadModel"],
            "attn_pdrop": 0.1,
            "bos_token_id": ids[end],
            "embd_pdrop": 0.1,
            "eos_token_id": ids[end],
            "initializer_range": 0.02,
            "layer_norm_epsilon": 1e-05,
            "model_type": "gpt2",
            "n_ctx": CONTEXT,
            "n_embd": WIDTH,
            "n_head": HEADS,
            "n_layer": N_LAYERS,
            "n_positions": CONTEXT,
            "resid_pdrop": 0.1,
            "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
            "vocab_size": len(ids),
        },
    )
    ends = {"bos_token_id": ids[end], "eos_token_id": ids[end]}
    write_json(into / "generation_config.json", {"_from_model_config": True, **ends})
    w: Weights = {
        "wte.weight": random_weights(len(ids), WIDTH),
        "wpe.weight": random_weights(CONTEXT, WIDTH),
    }
    for i in range(N_LAYERS):
        at = f"h.{i}"
        w |= norm(f"{at}.ln_1") | norm(f"{at}.ln_2")
        w[f"{at}.attn.bias"] = np.tri(CONTEXT, dtype=np.float32)[None, None]
        for name, inputs, outputs in (
            ("attn.c_attn", WIDTH, 3 * WIDTH),
            ("attn.c_proj", WIDTH, WIDTH),
            ("mlp.c_fc", WIDTH, 4 * WIDTH),
            ("mlp.c_proj", 4 * WIDTH, WIDTH),
        ):
            w[f"{at}.{name}.weight"] = random_weights(
                inputs, outputs
            )  # the other way round than linear
            w[f"{at}.{name}.bias"] = np.zeros(outputs, np.float32)
    save_weights(into / "model.safetensors", w | norm("ln_f"))
    save_decoys(into)


CHAT_TEMPLATE = """\
{%- for message in messages -%}
<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant
{% if enable_thinking is defined and enable_thinking is false %}<think>

</think>

{% endif -%}
{%- endif -%}
"""
"""As Qwen3's does, it opens an empty thinking where none is wanted, and else says nothing of it."""


def save_qwen3(folder: Path) -> None:
    """Qwen/Qwen3-0.6B: a chat template with thinking, two end tokens, bfloat16."""
    save_weights(folder / QWEN / "model.safetensors", _save_qwen3(folder / QWEN), "BF16")


def save_sharded(folder: Path) -> None:
    """Qwen/Qwen3-1.7B: the same in two files and an index."""
    into = folder / SHARDED
    weights = _save_qwen3(into)
    names = sorted(weights)
    index: dict[str, str] = {}
    for i, part in enumerate((names[:10], names[10:]), start=1):
        file = f"model-0000{i}-of-00002.safetensors"
        save_weights(into / file, {name: weights[name] for name in part}, "BF16")
        index |= dict.fromkeys(part, file)
    size = sum(2 * w.size for w in weights.values())
    whole = {"metadata": {"total_size": size}, "weight_map": index}
    write_json(into / "model.safetensors.index.json", whole)


def _save_qwen3(into: Path) -> Weights:
    special = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>")
    settings = {
        "add_bos_token": False,
        "bos_token": None,
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": 131072,
        "pad_token": "<|endoftext|>",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
    ids = save_byte_tokenizer(into, special, settings)
    write_json(
        into / "config.json",
        {
            "architectures": ["Qwen3ForCausalLM"],
            "attention_bias": False,
            "attention_dropout": 0.0,
            "bos_token_id": ids["<|endoftext|>"],
            "eos_token_id": ids["<|im_end|>"],
            "head_dim": 8,
            "hidden_act": "silu",
            "hidden_size": WIDTH,
            "initializer_range": 0.02,
            "intermediate_size": INNER,
            "max_position_embeddings": CONTEXT,
            "max_window_layers": N_LAYERS,
            "model_type": "qwen3",
            "num_attention_heads": HEADS,
            "num_hidden_layers": N_LAYERS,
            "num_key_value_heads": 2,
            "rms_norm_eps": 1e-06,
            "rope_scaling": None,
            "rope_theta": 1000000,
            "sliding_window": None,
            "tie_word_embeddings": True,
            "torch_dtype": "bfloat16",
            "use_cache": True,
            "use_sliding_window": False,
            "vocab_size": len(ids),
        },
    )
    write_json(
        into / "generation_config.json",
        {
            "bos_token_id": ids["<|endoftext|>"],
            "do_sample": True,
            "eos_token_id": [ids["<|im_end|>"], ids["<|endoftext|>"]],
            "pad_token_id": ids["<|endoftext|>"],
            "temperature": 0.6,
            "top_k": 20,
            "top_p": 0.95,
        },
    )
    w: Weights = {"model.embed_tokens.weight": random_weights(len(ids), WIDTH)}
    for i in range(N_LAYERS):
        at = f"model.layers.{i}"
        for name, outputs, inputs in (
            ("self_attn.q_proj", HEADS * 8, WIDTH),
            ("self_attn.k_proj", 2 * 8, WIDTH),
            ("self_attn.v_proj", 2 * 8, WIDTH),
            ("self_attn.o_proj", WIDTH, HEADS * 8),
            ("mlp.gate_proj", INNER, WIDTH),
            ("mlp.up_proj", INNER, WIDTH),
            ("mlp.down_proj", WIDTH, INNER),
        ):
            w[f"{at}.{name}.weight"] = random_weights(outputs, inputs)
        for name, size in (
            ("self_attn.q_norm", 8),
            ("self_attn.k_norm", 8),
            ("input_layernorm", WIDTH),
            ("post_attention_layernorm", WIDTH),
        ):
            w[f"{at}.{name}.weight"] = np.ones(size, np.float32)
    return {**w, "model.norm.weight": np.ones(WIDTH, np.float32)}


def save_nli(folder: Path) -> None:
    """cross-encoder/nli-deberta-v3-small: contradiction, entailment, neutral, in that order."""
    into = folder / NLI
    labels = ("contradiction", "entailment", "neutral")
    size = save_deberta_tokenizer(into)
    write_json(
        into / "config.json",
        {
            "architectures": ["DebertaV2ForSequenceClassification"],
            "attention_probs_dropout_prob": 0.1,
            "hidden_act": "gelu",
            "hidden_dropout_prob": 0.1,
            "hidden_size": WIDTH,
            "id2label": {str(i): label for i, label in enumerate(labels)},
            "initializer_range": 0.02,
            "intermediate_size": INNER,
            "label2id": {label: i for i, label in enumerate(labels)},
            "layer_norm_eps": 1e-07,
            "max_position_embeddings": 512,
            "max_relative_positions": -1,
            "model_type": "deberta-v2",
            "norm_rel_ebd": "layer_norm",
            "num_attention_heads": HEADS,
            "num_hidden_layers": 2,
            "pad_token_id": 0,
            "pooler_dropout": 0,
            "pooler_hidden_act": "gelu",
            "pooler_hidden_size": WIDTH,
            "pos_att_type": ["p2c", "c2p"],
            "position_biased_input": False,
            "position_buckets": 16,
            "relative_attention": True,
            "share_att_key": True,
            "type_vocab_size": 0,
            "vocab_size": size,
        },
    )
    w = {"deberta.embeddings.word_embeddings.weight": random_weights(size, WIDTH)}
    w |= norm("deberta.embeddings.LayerNorm") | norm("deberta.encoder.LayerNorm")
    w["deberta.encoder.rel_embeddings.weight"] = random_weights(32, WIDTH)
    projections = ("query_proj", "key_proj", "value_proj")
    w |= bert_layers("deberta.encoder", 2, projections)
    w |= linear("pooler.dense", WIDTH, WIDTH) | linear("classifier", 3, WIDTH, 2.0)
    save_weights(into / "model.safetensors", w)
    save_decoys(into)


def save_minilm(folder: Path) -> None:
    """sentence-transformers/all-MiniLM-L6-v2: three modules, the last of which has no folder."""
    into = folder / MINILM
    size = save_bert_tokenizer(into)
    write_json(
        into / "config.json",
        {
            "_name_or_path": "nreimers/MiniLM-L6-H384-uncased",
            "architectures": ["BertModel"],
            "attention_probs_dropout_prob": 0.1,
            "gradient_checkpointing": False,
            "hidden_act": "gelu",
            "hidden_dropout_prob": 0.1,
            "hidden_size": WIDTH,
            "initializer_range": 0.02,
            "intermediate_size": INNER,
            "layer_norm_eps": 1e-12,
            "max_position_embeddings": 512,
            "model_type": "bert",
            "num_attention_heads": HEADS,
            "num_hidden_layers": 2,
            "pad_token_id": 0,
            "position_embedding_type": "absolute",
            "type_vocab_size": 2,
            "use_cache": True,
            "vocab_size": size,
        },
    )
    modules = (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize"))
    listed = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(modules)
    ]
    write_json(into / "modules.json", listed)
    write_json(into / "sentence_bert_config.json", {"max_seq_length": 256, "do_lower_case": False})
    versions = {"sentence_transformers": "2.0.0", "transformers": "4.6.1", "pytorch": "1.8.1"}
    write_json(into / "config_sentence_transformers.json", {"__version__": versions})
    pooling = {f"pooling_mode_{kind}": kind == "mean_tokens" for kind in
               ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens")}  # fmt: skip
    write_json(into / "1_Pooling/config.json", {"word_embedding_dimension": WIDTH, **pooling})
    write_json(into / "data_config.json", [{"name": "pairs.jsonl.gz", "lines": 1, "weight": 1}])
    write(into / "train_script.py", b"raise SystemExit('never run')\n")
    w: Weights = {"embeddings.position_ids": np.arange(512)[None]}
    for name, rows in (("word", size), ("position", 512), ("token_type", 2)):
        w[f"embeddings.{name}_embeddings.weight"] = random_weights(rows, WIDTH)
    w |= norm("embeddings.LayerNorm") | linear("pooler.dense", WIDTH, WIDTH)
    save_weights(
        into / "model.safetensors", w | bert_layers("encoder", 2, ("query", "key", "value"))
    )
    save_decoys(into)
    write(into / "openvino/openvino_model.bin", b"no model")


def save_pickled_only(folder: Path) -> None:
    """A model from before safetensors."""
    into = folder / PICKLED
    save_byte_tokenizer(into, ("<|endoftext|>",), {})
    write_json(into / "config.json", {"model_type": "gpt2"})
    save_decoys(into)


def save_gsm8k(folder: Path, n: int = 60) -> dict[str, Path]:
    """openai/gsm8k: a card with two configurations, each with two parquet files."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    into = folder / GSM8K
    card, infos = ["---", "configs:"], ["dataset_info:"]
    for config in ("main", "socratic"):
        card += [f"- config_name: {config}", "  data_files:"]
        infos += [f"- config_name: {config}", "  features:"]
        for name in ("question", "answer"):
            infos += [f"  - name: {name}", "    dtype: string"]
        infos.append("  splits:")
        for split, rows in (("train", range(n)), ("test", range(n, n + n // 3))):
            card += [f"  - split: {split}", f"    path: {config}/{split}-*"]
            table = pa.Table.from_pylist([word_problem(i, config) for i in rows])
            path = into / config / f"{split}-00000-of-00001.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(table, path)
            counts = (f"    num_bytes: {table.nbytes}", f"    num_examples: {table.num_rows}")
            infos += [f"  - name: {split}", *counts]
    text = "\n".join([*card, *infos, "---", "", "# A stand-in for GSM8K", ""])
    write(into / "README.md", text.encode())
    return {GSM8K: into}
