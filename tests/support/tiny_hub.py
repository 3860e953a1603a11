"""Tiny repositories with the layouts of those on the hub: random weights, and decoys.

Beside what is loaded lie the files that must not be fetched: pickled weights, other frameworks'
weights, ONNX; none of them holds what its name says.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from support.tiny_models import (
    END_THINK,
    THINK,
    byte_tokenizer,
    save_classifier,
    save_language_model,
    save_sentence_encoder,
)

GPT2 = "openai-community/gpt2"
QWEN = "Qwen/Qwen3-0.6B"
SHARDED = "Qwen/Qwen3-1.7B"
NLI = "cross-encoder/nli-deberta-v3-small"
MINILM = "sentence-transformers/all-MiniLM-L6-v2"
GSM8K = "openai/gsm8k"
PICKLED = "example/pickled-only"

DECOYS = ("pytorch_model.bin", "tf_model.h5", "rust_model.ot", "onnx/model.onnx", "train_script.py")
CONTEXT = 512
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


def save_models(folder: Path) -> dict[str, Path]:
    """All tiny models: name on the hub to the folder that holds its files."""
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForCausalLM

    into = {name: folder / name for name in (GPT2, QWEN, SHARDED, NLI, MINILM, PICKLED)}
    end = "<|endoftext|>"
    gpt2 = byte_tokenizer((end,), bos_token=end, eos_token=end)
    save_language_model("gpt2", into[GPT2], tokenizer=gpt2, context=CONTEXT)
    # Its names lack "transformer.", and masks, which are most of the file, are among its weights.
    weights = load_file(into[GPT2] / "model.safetensors")
    renamed = {name.removeprefix("transformer."): w for name, w in weights.items()}
    masks = {f"h.{i}.attn.bias": torch.tril(torch.ones(1, 1, CONTEXT, CONTEXT)) for i in range(3)}
    save_file(renamed | masks, into[GPT2] / "model.safetensors", metadata={"format": "pt"})

    special = (end, "<|im_start|>", "<|im_end|>", THINK, END_THINK)
    chat = byte_tokenizer(
        special, eos_token="<|im_end|>", pad_token=end, chat_template=CHAT_TEMPLATE
    )
    save_language_model("qwen3", into[QWEN], tokenizer=chat, context=CONTEXT)
    model = AutoModelForCausalLM.from_pretrained(into[QWEN], dtype=torch.bfloat16)
    model.generation_config.eos_token_id = [2, 0]
    for name, most in ((QWEN, "1GB"), (SHARDED, "40KB")):
        model.save_pretrained(into[name], max_shard_size=most)
        chat.save_pretrained(into[name])

    save_classifier(into[NLI], ("contradiction", "entailment", "neutral"))
    save_sentence_encoder(into[MINILM])
    shutil.rmtree(folder / f"{MINILM}-base")
    gpt2.save_pretrained(into[PICKLED])
    (into[PICKLED] / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    for path in into.values():
        (path / "onnx").mkdir()
        for decoy in DECOYS:
            (path / decoy).write_text(f"this is not what its name says: {decoy}")
        (path / "README.md").write_text("# A tiny stand-in\n")
    return into


def word_problem(i: int, config: str = "main") -> dict[str, str]:
    """A word problem in GSM8K's form, with its calculator's marks."""
    apples, eaten = 20 + 3 * i, 2 + i % 7
    left = apples - eaten
    step = f"{apples} - {eaten} = <<{apples}-{eaten}={left}>>{left} apples are left."
    if config == "socratic":
        step = f"How many are left? ** {step}"
    question = f"Basket {i} holds {apples} apples and {eaten} are eaten. How many are left?"
    return {"question": question, "answer": f"{step}\n#### {left}"}


def save_gsm8k(folder: Path, n: int = 60) -> dict[str, Path]:
    """openai/gsm8k: a card with two configurations, each with two parquet files."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    into, card, infos = folder / GSM8K, ["---", "configs:"], ["dataset_info:"]
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
            infos += [f"  - name: {split}", f"    num_bytes: {table.nbytes}"]
            infos += [f"    num_examples: {table.num_rows}"]
    (into / "README.md").write_text("\n".join([*card, *infos, "---", "", "# A stand-in", ""]))
    return {GSM8K: into}
