"""Judges: whether two answers to a question mean the same, and the groups that follow.

Three judges: an NLI classifier (two answers mean the same when each entails the other; Farquhar
et al., Nature 2024), the cosine of sentence embeddings, and equality of the final answers.
Verdicts are stored by (judge, premise, hypothesis): no pair is ever judged twice.
"""

from __future__ import annotations

import importlib.util
import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np

from helpers.config import RunConfig
from helpers.data.answers import answer_key, answers_equal, final_answer
from helpers.errors import UserError
from helpers.meanings.clustering import PairQuery, cluster_many
from helpers.models.loading import (
    ModelIdentity,
    free_memory,
    identify,
    load_classifier,
    pick_device,
    unless_out_of_memory,
)
from helpers.progress import Progress
from helpers.store.cache import Store, content_key

JUDGE_VERSION = 1
FEWEST_AT_ONCE = 8
"""Pairs in a batch, however much some of them are padded: a forward has its own cost."""
Equivalence = Callable[[list[PairQuery]], list[bool]]
"""Judges many pairs at once: what `clustering.cluster_many` asks."""


@dataclass
class JudgeCounts:
    """How much work a judge did."""

    pairs: int = 0  # ordered pairs asked for
    stored: int = 0  # of these, answered from the store
    forwards: int = 0  # forward passes of the judge's model


@dataclass(frozen=True)
class NliJudge:
    """An NLI classifier as a judge; nothing is loaded before the first pair that is not stored."""

    identity: ModelIdentity
    rule: str  # "strict" or "no-contradiction"
    with_question: bool
    device: str
    batch_size: int
    store: Store | None
    counts: JudgeCounts

    def equivalent(self, queries: list[PairQuery]) -> list[bool]:
        """Whether the answers of each query mean the same, by the judge's rule."""
        forward = [(self.put(q.context, q.a), self.put(q.context, q.b)) for q in queries]
        first = self.probabilities(forward)
        # The second direction can only matter where the first does not already say no.
        yes = [2 if self.rule == "strict" else row[1:].argmax() + 1 for row in first]
        open_ = [i for i, row in enumerate(first) if row.argmax() == yes[i]]
        second = self.probabilities([forward[i][::-1] for i in open_])
        verdicts = [False] * len(queries)
        for i, row in zip(open_, second, strict=True):
            labels = (int(first[i].argmax()), int(row.argmax()))
            loose = 0 not in labels and labels != (1, 1)
            verdicts[i] = labels == (2, 2) if self.rule == "strict" else loose
        return verdicts

    def probabilities(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        """P(contradiction), P(neutral), P(entailment) of each (premise, hypothesis), `[n, 3]`.

        A classifier with two labels gives its "not entailment" under neutral.
        """
        keys = [
            content_key(stage="nli", version=JUDGE_VERSION, judge=self.identity.model_hash,
                        tokenizer=self.identity.tokenizer_hash, premise=p, hypothesis=h)
            for p, h in pairs
        ]  # fmt: skip
        unique = dict(zip(keys, pairs, strict=True))
        known = self.store.get_many(unique) if self.store else {}
        self.counts.pairs += len(unique)
        self.counts.stored += len(known)
        missing = sorted(k for k in unique if k not in known)
        lengths = self._token_counts([unique[k] for k in missing])
        missing = [missing[i] for i in np.argsort(lengths, kind="stable")]
        lengths = np.sort(lengths)
        size = self.batch_size
        while missing:
            start = len(missing) - _alike(lengths[-size:])
            batch, rest = missing[start:], missing[:start]
            alone = UserError(
                f"the judge {self.identity.name!r} runs out of memory on {self.device} with a "
                "single pair; use --judge-device cpu or a smaller --judge-model"
            )
            ask = partial(self._forward, [unique[k] for k in batch])
            fresh = unless_out_of_memory(ask, alone if len(batch) == 1 else None)
            if fresh is None:
                free_memory(pick_device(self.device))
                size = len(batch) // 2
                continue
            found = dict(zip(batch, fresh.round(6).tolist(), strict=True))
            if self.store:
                self.store.put_many(found)
            known |= found
            missing, lengths = rest, lengths[:start]
        return np.array([known[k] for k in keys]).reshape(len(keys), 3)

    def _token_counts(self, pairs: list[tuple[str, str]]) -> np.ndarray:
        """The length of each pair for the tokenizer, `[n]`; characters would tell it badly."""
        if len(pairs) < 2:
            return np.ones(len(pairs), dtype=int)
        _, tokenizer, _ = _classifier(self.identity, pick_device(self.device))
        texts = list(dict.fromkeys(text for pair in pairs for text in pair))
        encoded = tokenizer(texts, add_special_tokens=False)["input_ids"]
        count = dict(zip(texts, map(len, encoded), strict=True))
        return np.array([count[p] + count[h] for p, h in pairs])

    def _forward(self, pairs: list[tuple[str, str]]) -> np.ndarray:
        import torch

        model, tokenizer, columns = _classifier(self.identity, pick_device(self.device))
        encoded = tokenizer(
            [p for p, _ in pairs],
            [h for _, h in pairs],
            padding=True,
            truncation=True,
            # RoBERTa counts its positions from 2: only the tokenizer knows how many are left.
            max_length=min(tokenizer.model_max_length, model.config.max_position_embeddings or 512),
            return_tensors="pt",
        ).to(pick_device(self.device))
        self.counts.forwards += 1
        with torch.inference_mode():
            p = model(**encoded).logits.double().softmax(-1).cpu().numpy()
        if not np.isfinite(p).all():
            raise UserError(
                f"the judge {self.identity.name!r} produced NaN; use --judge-device cpu"
            )
        return p[:, columns] if len(columns) == 3 else np.stack([0 * p[:, 0], *p[:, columns].T], 1)

    def put(self, question: str, answer: str) -> str:
        """An answer as it is put to the classifier, with or without the question in front."""
        return f"{question} {answer}" if self.with_question else answer


def nli_judge(
    name: str,
    *,
    rule: str = "strict",
    with_question: bool = False,
    device: str = "cpu",
    batch_size: int = 64,
    store: Store | None = None,
) -> NliJudge:
    """A judge from an NLI classifier's name; its labels are read from its config.

    Raises `UserError` when the model is no NLI classifier, or lacks a label that the rule needs.
    """
    identity = identify(name, "judge")
    try:
        config = json.loads((identity.folder / "config.json").read_text("utf-8"))
    except ValueError as error:
        raise UserError(
            f"judge {name!r}: {identity.folder / 'config.json'} is not JSON ({error})"
        ) from error
    named = {label: int(i) for i, label in config.get("id2label", {}).items()}
    columns = label_columns(config.get("label2id") or named, name)
    if rule == "no-contradiction" and len(columns) == 2:
        raise UserError(
            f"judge {name!r} only tells entailment from its absence, so it cannot see that nothing "
            "contradicts; use --entailment strict, or a --judge-model with three labels"
        )
    return NliJudge(identity, rule, with_question, device, batch_size, store, JudgeCounts())


@lru_cache(maxsize=1)
def _classifier(identity: ModelIdentity, device: str) -> tuple[Any, Any, list[int]]:
    model, tokenizer = load_classifier(identity, device)
    return model, tokenizer, label_columns(model.config.label2id, identity.name)


def label_columns(label2id: dict[str, int], name: str) -> list[int]:
    """The logit columns of contradiction, neutral, entailment (or not-entailment, entailment)."""
    ids = {str(label).lower().replace("-", "_"): int(i) for label, i in label2id.items()}
    for wanted in (["contradiction", "neutral", "entailment"], ["not_entailment", "entailment"]):
        if sorted(wanted) == sorted(ids):
            return [ids[label] for label in wanted]
    raise UserError(
        f"judge {name!r} has the labels {', '.join(label2id) or '(none)'}; an NLI classifier has "
        "contradiction, neutral and entailment: choose another --judge-model"
    )


def final_answer_equivalence(queries: list[PairQuery]) -> list[bool]:
    """Two answers mean the same when both state the same final answer (numbers as numbers)."""
    return [_same_final(q.a, q.b) for q in queries]


def _same_final(a: str, b: str) -> bool:
    first, second = final_answer(a), final_answer(b)
    return first is not None and second is not None and answer_key(first) == answer_key(second)


@dataclass(frozen=True)
class CosineJudge:
    """Sentence embeddings as a judge: the same meaning when the cosine reaches a threshold."""

    identity: ModelIdentity
    threshold: float
    device: str
    batch_size: int
    store: Store | None
    counts: JudgeCounts

    def equivalent(self, queries: list[PairQuery]) -> list[bool]:
        """Whether the answers of each query are at least as similar as the threshold."""
        return [bool(c >= self.threshold) for c in self.similarities([(q.a, q.b) for q in queries])]

    def similarities(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        """Cosine of the embeddings of each pair, `[n]`."""
        texts = list(dict.fromkeys(text for pair in pairs for text in pair))
        keys = {
            text: content_key(stage="embed", version=JUDGE_VERSION, model=self.identity.model_hash,
                              tokenizer=self.identity.tokenizer_hash, text=text)
            for text in texts
        }  # fmt: skip
        known = self.store.get_many(keys.values()) if self.store else {}
        self.counts.pairs += len(pairs)
        missing = [text for text in texts if keys[text] not in known]
        if missing:
            encoder = _encoder(self.identity, pick_device(self.device))
            self.counts.forwards += -(-len(missing) // self.batch_size)
            vectors = encoder.encode(
                missing, batch_size=self.batch_size, normalize_embeddings=True,
                convert_to_numpy=True, show_progress_bar=False,
            )  # fmt: skip
            fresh = {keys[t]: v.astype(float).round(6).tolist()
                     for t, v in zip(missing, vectors, strict=True)}  # fmt: skip
            if self.store:
                self.store.put_many(fresh)
            known |= fresh
        unit = {text: np.asarray(known[keys[text]]) for text in texts}
        return np.array([unit[a] @ unit[b] for a, b in pairs])


def cosine_judge(
    name: str, threshold: float, *, device: str, batch_size: int, store: Store | None
) -> CosineJudge:
    """A judge from a sentence encoder's name."""
    identity = identify(name, "sentence encoder")
    return CosineJudge(identity, threshold, device, batch_size, store, JudgeCounts())


@lru_cache(maxsize=1)
def _encoder(identity: ModelIdentity, device: str) -> Any:
    from safetensors import SafetensorError

    deny_jupyter()
    from sentence_transformers import SentenceTransformer

    broken = (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError)
    try:
        return SentenceTransformer(str(identity.folder), device=device, local_files_only=True)
    except broken as error:
        raise UserError(
            f"sentence encoder {identity.name!r} in {identity.folder} cannot be loaded ({error})"
        ) from error


def deny_jupyter() -> None:
    """Keep transformers from taking marimo for Jupyter, and asking for an IPython that is absent.

    Sentence-transformers imports the trainer, which shows its progress by IPython in any notebook.
    """
    import transformers.utils

    if importlib.util.find_spec("IPython") is None:
        vars(transformers.utils)["is_in_notebook"] = lambda: False


def best_cosine_threshold(similarities: np.ndarray, same: np.ndarray) -> float:
    """The similarity that best separates pairs with the same final answer (balanced accuracy).

    Raises `UserError` when all pairs are of one kind, for then nothing can be chosen.
    """
    if same.all() or not same.any():
        kind = "the same" if same.all() else "another"
        raise UserError(
            f"the cosine threshold cannot be chosen: all {len(same)} validation pairs have {kind} "
            "final answer; set --cosine-threshold (0.9 is a common value) or use another --judge"
        )
    order = np.argsort(-similarities, kind="stable")
    value, hit = similarities[order], same[order]
    balanced = hit.cumsum() / hit.sum() - (~hit).cumsum() / (~hit).sum()
    last_of_tie = np.append(value[1:] != value[:-1], True)
    at = int(np.flatnonzero(last_of_tie)[balanced[last_of_tie].argmax()])
    following = value[at + 1] if at + 1 < len(value) else value[at]
    return float((value[at] + following) / 2)


def _alike(lengths: np.ndarray) -> int:
    """How many of the last of ascending lengths to pad to the longest: at least a few, or none
    that would be more than a quarter padding.

    >>> _alike(np.array([10] * 20 + [30] * 20))
    20
    """
    fewest = min(FEWEST_AT_ONCE, len(lengths))
    return max(fewest, int((lengths >= 0.75 * lengths[-1]).sum()))


# --- all pairs of a question's answers -----------------------------------------------------------
#
# Clustering asks only for the pairs that it needs; estimators on graphs and kernels need all of
# them.


PAIRS_AT_ONCE = 2048
"""Pairs handed to the judge at a time: enough for batches of pairs that are alike in length."""


def judge_all_pairs(
    judge: NliJudge, texts: Sequence[Sequence[str]], contexts: Sequence[str], progress: Progress
) -> np.ndarray:
    """P(contradiction), P(neutral), P(entailment) of every pair, `[n, K + 1, K + 1, 3]`, float32.

    `texts[q]` are the texts of question q's K samples, then that of its most likely answer;
    `contexts` are the questions, put in front where the judge wants them. Entry `[q, i, j]` has
    answer i as premise and j as hypothesis; identical texts are (0, 0, 1) without asking. A pair
    that occurs in several questions is judged once, and once only over all runs with the judge's
    store. With questions in front, pairs are long and seldom occur twice, so that costs many times
    more. Raises ValueError when the questions differ in their number of answers.

    Where two texts are an answer and its denial, K + 1 = 2 and the result is
    `[[(0, 0, 1), (0.98, 0.01, 0.01)], [(0.97, 0.02, 0.01), (0, 0, 1)]]` for that question.
    """
    sizes = {len(row) for row in texts}
    if len(sizes) != 1:
        raise ValueError(f"texts: rows of {sorted(sizes)} answers; all need the same number")
    put = [[judge.put(c, t) for t in row] for c, row in zip(contexts, texts, strict=True)]
    key = content_key(
        stage="judgements", version=JUDGE_VERSION, judge=judge.identity.model_hash,
        tokenizer=judge.identity.tokenizer_hash, texts=put,
    )  # fmt: skip
    stored = judge.store.get_arrays(key) if judge.store else None
    if stored is None:
        stored = {"judgements": _judge(judge, put, progress)}
        if judge.store:
            judge.store.put_arrays(key, stored)
    return stored["judgements"]


def _judge(judge: NliJudge, texts: list[list[str]], progress: Progress) -> np.ndarray:
    """Judge each pair of different texts once; a pair is a number, as there may be millions."""
    numbers: dict[str, int] = {}
    at = np.array([[numbers.setdefault(t, len(numbers)) for t in row] for row in texts])
    premise, hypothesis = np.broadcast_arrays(at[:, :, None], at[:, None, :])
    different = premise != hypothesis
    codes = premise[different] * len(numbers) + hypothesis[different]
    unique, place = np.unique(codes, return_inverse=True)
    words = list(numbers)
    said = np.empty((len(unique), 3), dtype=np.float32)
    with progress("Judging all pairs of answers", len(unique), "pairs") as stage:
        for start in range(0, len(unique), PAIRS_AT_ONCE):
            part = slice(start, start + PAIRS_AT_ONCE)
            first, second = np.divmod(unique[part], len(numbers))
            pairs = [(words[i], words[j]) for i, j in zip(first, second, strict=True)]
            said[part] = judge.probabilities(pairs)
            work = {f"judge_{name}": count for name, count in asdict(judge.counts).items()}
            stage.advance(len(pairs), work=work)
    judgements = np.zeros((*different.shape, 3), dtype=np.float32)
    judgements[..., 2] = ~different
    judgements[different] = said[place]
    return judgements


# --- groups by the judge that a config names -----------------------------------------------------


def choose_judge(
    config: RunConfig, store: Store, validation: Sequence[Sequence[str]] | None
) -> tuple[Equivalence, dict, JudgeCounts]:
    """The config's judge: its function, a description that identifies it, and its counters.

    `validation` are the answers to each validation question, by whose final answers the threshold
    of a cosine judge is chosen where the config names none; None where there is no such split.
    """
    if config.judge == "final-answer":
        return final_answer_equivalence, {"judge": "final answer"}, JudgeCounts()
    if config.judge == "cosine":
        judge = cosine_judge(
            config.embedding_model, config.cosine_threshold or 0.0, device=config.judge_device,
            batch_size=config.judge_batch_size, store=store,
        )  # fmt: skip
        threshold = config.cosine_threshold
        if threshold is None:
            threshold = _threshold_on_validation(judge, validation)
        chosen = type(judge)(**{**judge.__dict__, "threshold": threshold})
        words = f"cosine of {config.embedding_model} >= {threshold:.3f}"
        return (
            chosen.equivalent,
            {
                "judge": words,
                "model": judge.identity.model_hash,
                "tokenizer": judge.identity.tokenizer_hash,
                "threshold": threshold,
            },
            judge.counts,
        )
    nli = nli_judge_of(config, store)
    question = ", with the question" if config.condition_on_question else ""
    description = {
        "judge": f"NLI ({config.judge_model}), {config.entailment}{question}",
        "model": nli.identity.model_hash,
        "tokenizer": nli.identity.tokenizer_hash,
    }
    return nli.equivalent, description, nli.counts


def nli_judge_of(config: RunConfig, store: Store, *, with_question: bool | None = None) -> NliJudge:
    """The config's NLI judge; `with_question` overrides whether the question stands in front."""
    if config.judge_model == "lab" and config.questions not in ("lab", "lab:ood"):
        warnings.warn(
            "the lab's judge knows answers to lab questions only; for others use --judge "
            "final-answer, or --judge-model cross-encoder/nli-deberta-v3-small",
            stacklevel=2,
        )
    return nli_judge(
        config.judge_model,
        rule=config.entailment,
        with_question=config.condition_on_question if with_question is None else with_question,
        device=config.judge_device,
        batch_size=config.judge_batch_size,
        store=store,
    )


def _threshold_on_validation(
    judge: CosineJudge, validation: Sequence[Sequence[str]] | None
) -> float:
    """Chosen so that pairs of validation answers agree best with their final answers."""
    if validation is None:
        raise UserError(
            "--judge cosine needs --cosine-threshold here: there is no validation split"
        )
    pairs, same = [], []
    for texts in validation:
        finals = {text: final_answer(text) for text in texts}
        known = sorted(text for text, final in finals.items() if final is not None)
        for i, a in enumerate(known):
            for b in known[i + 1 :]:
                pairs.append((a, b))
                same.append(answers_equal(finals[a] or "", finals[b] or ""))
    if not pairs:
        raise UserError(
            "the cosine threshold cannot be chosen: no two validation answers state a final "
            "answer; set --cosine-threshold (0.9 is a common value)"
        )
    return best_cosine_threshold(judge.similarities(pairs), np.array(same))


def group_by_meaning(
    texts: Sequence[Sequence[str]],
    contexts: Sequence[str],
    equivalent: Equivalence,
    description: dict,
    store: Store,
    progress: Progress,
    counts: JudgeCounts | None = None,
    chunk: int = 100,
) -> list[tuple[int, ...]]:
    """The meaning of every answer of every question, `[n][K]`; groupings are stored.

    `counts` are the judge's, for whoever follows the progress.
    """
    keys = [
        content_key(stage="meanings", version=1, judge=description, question=context, texts=row)
        for context, row in zip(contexts, texts, strict=True)
    ]
    known = store.get_many(keys)
    missing = [i for i, key in enumerate(keys) if key not in known]
    if missing:
        with progress("Grouping answers by meaning", len(missing), "questions") as stage:
            for start in range(0, len(missing), chunk):
                part = missing[start : start + chunk]
                found = cluster_many(
                    [texts[i] for i in part], equivalent, [contexts[i] for i in part]
                )
                fresh = {keys[i]: list(ids) for i, ids in zip(part, found, strict=True)}
                store.put_many(fresh)
                known |= fresh
                stage.advance(len(part), work=asdict(counts) if counts else None)
    return [tuple(known[key]) for key in keys]
