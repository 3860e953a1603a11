"""Every estimator for every question of a run, with the further passes that some of them need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from helpers.config import RunConfig
from helpers.generation.records import rounded
from helpers.generation.samples import SampledAnswers
from helpers.hidden_states.capture import capture
from helpers.hidden_states.stored import (
    Advance,
    Arrays,
    Pieces,
    cut_evenly,
    read_token_entropies,
    store_missing,
    stored_arrays,
)
from helpers.meanings.judges import judge_all_pairs, nli_judge_of
from helpers.models.forwards import Backend, TokenSequence
from helpers.models.loading import LanguageModel, identify, load_language_model
from helpers.progress import Progress
from helpers.store.cache import Store, content_key
from helpers.studies.semantic_entropy.config import SemanticEntropyConfig
from helpers.studies.semantic_entropy.labels import Meanings
from helpers.uncertainty.entropies import Answers
from helpers.uncertainty.estimators import (
    ESTIMATORS,
    choose_estimators,
    missing_needs,
    score_question,
)
from helpers.uncertainty.p_true import PTrue, ask_p_true

# --- entropies of the samples --------------------------------------------------------------------


def with_full_entropies(
    config: RunConfig, answers: SampledAnswers, store: Store, progress: Progress
) -> SampledAnswers:
    """The same answers with the full vocabulary's entropies, where their backend gave no such.

    Those are of one forward over the exact tokens. Raises `UserError` as `read_token_entropies`.
    """
    rows = [(*row, *answers.greedy[i : i + 1]) for i, row in enumerate(answers.samples)]
    lacking = [
        (prompt, sample)
        for prompt, row in zip(answers.prompts, rows, strict=True)
        for sample in row
        if sample.entropy_kind != "full"
    ]
    if not lacking:
        return answers
    sequences = [TokenSequence(prompt.token_ids, sample.token_ids) for prompt, sample in lacking]
    names = [sample.name for _, sample in lacking]
    read = read_token_entropies(config, sequences, names, store, progress, unit="answers")
    full = {
        sample.name: replace(
            sample,
            token_entropies=rounded(tokens.entropies.tolist()),
            token_logprobs=rounded(tokens.logprobs.tolist()),
            entropy_kind="full",
        )
        for (_, sample), tokens in zip(lacking, read, strict=True)
    }
    return replace(
        answers,
        samples=tuple(tuple(full.get(s.name, s) for s in row) for row in answers.samples),
        greedy=tuple(full.get(s.name, s) for s in answers.greedy),
    )


# --- states of the samples -----------------------------------------------------------------------
#
# EigenScore needs the state at each sample's last token, but of all of them only the K × K matrix
# of their inner products, so that is all that is kept.


GRAM_VERSION = 2
CHUNK = 64
"""Questions whose samples are read, and whose matrices are stored, at a time."""
POSITION = "answer_last"


def middle_layer(n_layers: int) -> int:
    """The middle entry of a capture: (L + 1) // 2, the output of that block (1 is the first).

    As in the code of INSIDE, which halves the number of hidden states, L + 1; lm-polygraph takes
    L // 2, the same for an even number of layers.

    >>> middle_layer(32), middle_layer(3)
    (16, 2)
    """
    return (n_layers + 1) // 2


def sample_grams(
    config: RunConfig, answers: SampledAnswers, store: Store, progress: Progress
) -> np.ndarray:
    """Zᵀ J_d Z of each question, `[n, K, K]`, float64.

    The columns of Z, `[width, K]`, are the hidden states of the K samples at `answer_last` and the
    middle layer; J_d = I − 11ᵀ/d takes from each state the mean over its d entries. A sample
    without a token before its end has the state of the last prompt token. Chen et al. 2024
    (INSIDE), equation 4.

    Raises `UserError` when a state is not finite, or one sequence alone exhausts the memory.
    """
    ids = [prompt.token_ids for prompt in answers.prompts]
    tokens = [[s.token_ids for s in row] for row in answers.samples]
    identity = identify(config.model)
    parts = cut_evenly(len(ids), CHUNK)
    keys = tuple(
        content_key(
            stage="sample_grams",
            version=GRAM_VERSION,
            model=identity.model_hash,
            tokenizer=identity.tokenizer_hash,
            dtype=config.dtype,
            sequences=[(ids[i], tokens[i]) for i in part],
        )
        for part in parts
    )
    pieces = Pieces(parts, {"gram": keys}, CHUNK)

    def compute(
        parts: Sequence[range], names: Sequence[str], advance: Advance | None
    ) -> Mapping[str, Sequence[Arrays]]:
        lm = load_language_model(config.model, device=config.device, dtype=config.dtype)
        found = []
        for part in parts:
            grams = question_grams(
                lm, [ids[i] for i in part], [tokens[i] for i in part],
                batch_tokens=config.hidden_batch_tokens, backend=config.hidden_backend,
            )  # fmt: skip
            found.append({"gram": grams})
            if advance is not None:
                advance(len(part), 0)
        return {"gram": found}

    store_missing(
        pieces, store, progress, "Reading the samples' hidden states", "questions", compute
    )
    stored = stored_arrays(pieces, "gram", store, compute)
    return np.concatenate([arrays["gram"] for _, arrays in stored])


def question_grams(
    lm: LanguageModel,
    prompts: Sequence[tuple[int, ...]],
    samples: Sequence[Sequence[tuple[int, ...]]],
    *,
    batch_tokens: int = 16_384,
    backend: Backend = "nnsight",
) -> np.ndarray:
    """Zᵀ J_d Z of each question, `[n, K, K]`, from token ids; a repeated sample is read once."""
    rows = {
        (i, answer): row
        for row, (i, answer) in enumerate(
            dict.fromkeys((i, answer) for i, row in enumerate(samples) for answer in row)
        )
    }
    sequences = [TokenSequence(prompts[i], answer) for i, answer in rows]
    read = capture(
        lm, sequences, (POSITION,), layers=(middle_layer(lm.n_layers),),
        batch_tokens=batch_tokens, backend=backend,
    )  # fmt: skip
    # A Gram matrix squares the states: in float32 its rounding would drown what is added to it.
    states = read.hidden[POSITION][:, 0].astype(np.float64)
    states -= states.mean(axis=1, keepdims=True)
    grams = []
    for i, answers in enumerate(samples):
        z = states[[rows[i, answer] for answer in answers]]
        grams.append(z @ z.T)
    return np.stack(grams)


LABEL = "semantic_entropy"
"""What the probes learn to predict: computed whatever is asked for."""
NOT_ASKED = "not asked for (--estimators)"


@dataclass(frozen=True)
class Uncertainty:
    """Every estimator's value for every question."""

    values: dict[str, np.ndarray]
    """Estimator to `[n]`; NaN where it was not computed."""
    skipped: dict[str, str]
    """Estimator to why no question has a value."""
    judgements: np.ndarray | None
    """`[n, K + 1, K + 1, 3]`, the most likely answer last; None without an NLI judge."""
    work: dict[str, float] = field(default_factory=dict)
    """What was computed now: pairs judged, forward passes, tokens."""
    counts: dict[str, int] = field(default_factory=dict)
    """What was asked for and could be done: solved examples and prompts of p(True)."""


def estimate(
    config: SemanticEntropyConfig,
    answers: SampledAnswers,
    meanings: Meanings,
    store: Store,
    progress: Progress,
) -> Uncertainty:
    """Compute the config's estimators; one that lacks what it needs is skipped with the reason."""
    names = {LABEL, *choose_estimators(config.estimators)}
    needs = {need for name in names for need in ESTIMATORS[name].needs}
    skipped = dict.fromkeys((name for name in ESTIMATORS if name not in names), NOT_ASKED)
    work: dict[str, float] = {}
    judgements = None
    if config.judge == "nli" and (
        needs & {"judgements", "greedy_judgements"} or config.wants("audit")
    ):
        judgements = judge_answers(config, answers, store, progress, work=work)
    p_true, counts = None, {}
    if needs & {"p_true_zero_shot", "p_true_few_shot"}:
        p_true = ask_p_true(
            config, answers, meanings.greedy_grades, store, progress, shots=config.p_true_shots
        )
        skipped |= {f"p_true_{kind}": reason for kind, reason in p_true.undefined.items()}
        work |= {f"p_true_{name}": count for name, count in asdict(p_true.counts).items()}
        counts = {
            "p_true_shots_asked": config.p_true_shots,
            "p_true_shots": p_true.n_shots,
            "p_true_shots_dropped": p_true.shots_dropped,
            "p_true_shots_lacking": config.p_true_shots - p_true.n_shots - p_true.shots_dropped,
            "p_true_too_long": len(p_true.too_long),
            "p_true_few_shot_too_long": p_true.few_shot_too_long,
        }
    grams = sample_grams(config, answers, store, progress) if "gram" in needs else None
    n = len(answers.questions)
    values = {name: np.full(n, np.nan) for name in ESTIMATORS}
    with progress("Measuring uncertainty", n, "questions") as stage:
        for i in range(n):
            known = _known(answers, meanings, judgements, p_true, grams, i)
            for name, value in score_question(known, names=tuple(names)).items():
                values[name][i] = np.nan if value is None else value
            if i == 0:
                skipped = {**missing_needs(known, tuple(names)), **skipped}
            stage.advance(1)
    unknown = {name for name, column in values.items() if np.isnan(column).all()}
    reasons = {name: skipped.get(name, "undefined for every question") for name in sorted(unknown)}
    return Uncertainty(values, reasons, judgements, work, counts)


def judge_answers(
    config: RunConfig,
    answers: SampledAnswers,
    store: Store,
    progress: Progress,
    *,
    with_question: bool | None = None,
    work: dict[str, float] | None = None,
) -> np.ndarray:
    """The judge's probabilities for all pairs of a question's answers, `[n, K + 1, K + 1, 3]`.

    `with_question` puts the question in front of both answers, or not; default: as the config.
    """
    judge = nli_judge_of(config, store, with_question=with_question)
    texts = [
        [sample.text for sample in (*row, greedy)]
        for row, greedy in zip(answers.samples, answers.greedy, strict=True)
    ]
    found = judge_all_pairs(judge, texts, [q.question for q in answers.questions], progress)
    if work is not None:
        work |= {f"judge_{name}": count for name, count in asdict(judge.counts).items()}
    return found


def _known(
    answers: SampledAnswers,
    meanings: Meanings,
    judgements: np.ndarray | None,
    p_true: PTrue | None,
    grams: np.ndarray | None,
    i: int,
) -> Answers:
    """All that is known of one question's answers."""
    row, greedy, k = answers.samples[i], answers.greedy[i], len(answers.samples[i])
    judged: Mapping[str, Any] = {}
    if judgements is not None:
        both = np.stack([judgements[i, k, :k], judgements[i, :k, k]], axis=1)
        judged = {"judgements": judgements[i, :k, :k], "greedy_judgements": both}
    return Answers(
        texts=tuple(s.text for s in row),
        clusters=tuple(meanings.clusters[i]),
        sum_logprobs=tuple(float(np.sum(s.token_logprobs)) for s in row),
        mean_logprobs=_means([s.token_logprobs for s in row]),
        token_entropies=_means([s.token_entropies for s in row]),
        greedy_text=greedy.text,
        greedy_sum_logprob=float(np.sum(greedy.token_logprobs)),
        greedy_mean_logprob=(_means([greedy.token_logprobs]) or (None,))[0],
        gram=None if grams is None else grams[i],
        p_true_zero_shot=_number(p_true.zero_shot[i]) if p_true else None,
        p_true_few_shot=_number(p_true.few_shot[i]) if p_true else None,
        **judged,
    )


def _means(rows: Sequence[Sequence[float]]) -> tuple[float, ...] | None:
    """The mean of each row; None where one is empty, as of an answer that ended at once."""
    return tuple(float(np.mean(row)) for row in rows) if all(rows) else None


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
