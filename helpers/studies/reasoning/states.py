"""Hidden states and token entropies of reasoning runs: where they are read, and of which rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from helpers.hidden_states.capture import ForcedTokens, think_end_id
from helpers.hidden_states.stored import BY_PROMPT, read_hidden_states, read_token_entropies
from helpers.models.forwards import TokenSequence
from helpers.models.loading import identify, load_tokenizer
from helpers.progress import Progress
from helpers.store.cache import Store
from helpers.studies.reasoning.config import ReasoningConfig
from helpers.studies.reasoning.records import ReasoningRun, Traced


@dataclass(frozen=True)
class TracePosition:
    """Where the states of a run are read."""

    position: str
    """"think_end", or "answer_last" where no run closes its thinking itself."""
    reason: str
    """Why it is not `think_end`, in words; "" where it is."""


def trace_position(config: ReasoningConfig, tokenizer: Any) -> TracePosition:
    """The position of a run's states: the last generated `</think>`, where there can be one."""
    if think_end_id(tokenizer) is None:
        why = f"the tokenizer of {config.model!r} has no </think> token"
    elif not config.thinking:
        why = (
            "thinking is off, so that </think> stands in the prompt, the same for all runs of a "
            "question"
        )
    else:
        return TracePosition("think_end", "")
    return TracePosition(
        "answer_last",
        f"{why}: hidden states are read at answer_last, the last token of the answer",
    )


def row_names(runs: Sequence[ReasoningRun]) -> list[str]:
    """The name of each row in the file of hidden states: "question_id#run_id"."""
    return [f"{run.question_id}#{run.run_id}" for run in runs]


def trace(
    config: ReasoningConfig,
    prompt_ids: Sequence[tuple[int, ...]],
    runs: Sequence[ReasoningRun],
    store: Store,
    progress: Progress,
) -> Traced:
    """Hidden states of the valid runs, all layers, in the order of `runs`.

    `prompt_ids[i]` is the prompt of `runs[i]`; runs of one prompt stand together. Raises
    `UserError` as `read_hidden_states` does, and ValueError where a run never closes its thinking.
    """
    where = trace_position(config, load_tokenizer(identify(config.model)))
    names = row_names(runs)
    states = read_hidden_states(
        config, _sequences(prompt_ids, runs), names, (where.position,), config.run_folder, store,
        progress, company=BY_PROMPT, unit="runs",
    )  # fmt: skip
    stand_ins = states.stand_ins[where.position]
    if where.position == "think_end" and stand_ins.any():
        first = names[int(stand_ins.argmax())]
        raise ValueError(f"run {first} never closes its thinking, so it is not valid")
    hidden, token_ids = states.hidden[where.position], states.token_ids[where.position]
    return Traced(where.position, where.reason, hidden, token_ids)


def forced_entropies(
    config: ReasoningConfig,
    prompt_ids: Sequence[tuple[int, ...]],
    runs: Sequence[ReasoningRun],
    store: Store,
    progress: Progress,
) -> dict[int, ForcedTokens]:
    """Entropies and log-probabilities of the runs that have no full ones, by the row in `runs`."""
    lacking = [i for i, run in enumerate(runs) if run.entropy_kind != "full"]
    some = [runs[i] for i in lacking]
    sequences = _sequences([prompt_ids[i] for i in lacking], some)
    found = read_token_entropies(config, sequences, row_names(some), store, progress, unit="runs")
    return dict(zip(lacking, found, strict=True))


def _sequences(
    prompt_ids: Sequence[tuple[int, ...]], runs: Sequence[ReasoningRun]
) -> list[TokenSequence]:
    return [TokenSequence(p, run.token_ids) for p, run in zip(prompt_ids, runs, strict=True)]
