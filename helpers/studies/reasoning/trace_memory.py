"""What reading the states and entropies of long runs takes of a device, before it is started.

>>> from helpers.projection import MODELS
>>> found = trace_memory(MODELS["Qwen3-4B"], trace_tokens=16_384, longest=20_000)
>>> 8e9 < found.always["weights"] < found.total < 12e9
True
"""

from __future__ import annotations

from helpers.forced_entropies import BLOCK_ROWS
from helpers.projection import (
    ALLOCATOR,
    CUDA_CONTEXT,
    NUMBER_BYTES,
    Budget,
    ModelShape,
    Workload,
    activations,
)
from helpers.studies.reasoning.trace_pieces import PIECE

FLOATS_OF_A_BLOCK = 2
"""float32 copies of a block's logits that `forced_entropies` has at a time."""


def trace_memory(
    shape: ModelShape,
    *,
    trace_tokens: int,
    longest: int,
    dtype: str = "bfloat16",
    device: str = "cuda",
    block_rows: int = BLOCK_ROWS,
) -> Budget:
    """Bytes that tracing takes of the device on which the model runs.

    `longest` is the longest run with its prompt, in tokens: it is read alone where it is longer
    than `trace_tokens`. Attention must be one that makes no matrix of scores (SDPA's flash or
    memory-efficient kernels; on GPUs half precision, and grouped keys need Ampere or newer);
    a model that makes one (`eager`) takes memory with the square of the longest run. Raises
    KeyError for a number type that is not one of `NUMBER_BYTES`.
    """
    number, tokens = NUMBER_BYTES[dtype], max(trace_tokens, longest)
    work = Workload(n_questions=1, dtype=dtype, device=device)
    phases: dict[str, dict[str, float]] = {
        "hidden states": {
            "activations": tokens * activations(shape, work, longest),
            # One list of layers, and the same stacked; a batch has as many runs as fit, or fewer.
            "kept states": 2 * PIECE * (shape.layers + 1) * shape.width * 4,
        },
        "token entropies": {
            "states": 2 * tokens * shape.width * number,
            "one block": block_rows * shape.vocabulary * 4 * FLOATS_OF_A_BLOCK,
        },
    }
    always = {"weights": shape.parameters * number}
    if device != "cpu":
        always["CUDA context"] = CUDA_CONTEXT
    rounded = {
        phase: {part: int(ALLOCATOR * value) for part, value in parts.items()}
        for phase, parts in phases.items()
    }
    return Budget(always, rounded)
