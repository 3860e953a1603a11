"""Judges: their verdicts, what they ask of their models, and what they refuse."""

from __future__ import annotations

import csv
import hashlib
from itertools import permutations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers.errors import UserError
from helpers.meanings import judges
from helpers.meanings.clustering import PairQuery, cluster_many, cluster_naive
from helpers.meanings.judges import (
    JudgeCounts,
    NliJudge,
    best_cosine_threshold,
    cosine_judge,
    deny_jupyter,
    final_answer_equivalence,
    judge_all_pairs,
    nli_judge,
)
from helpers.models.loading import ModelIdentity
from helpers.progress import progress_through, silent_progress
from support.tiny_models import LABELS, save_classifier, save_language_model, save_sentence_encoder

ANSWERS = (
    "19",
    "She has 19 apples.",
    "It is nineteen",
    "7 cars are left, because twelve without five makes seven.",
    "no idea",
    "20 apples",
    "",
    "The answer is 19, and it is a rather long answer for a number so small.",
)
ODD = (
    ("the café is open", "the cafe is open"), ("a\u2028line", "a line"), ("𝟏𝟐 apples", "12 apples"),
    ("日本語の文", "文の語本日"), ("👩‍🔬 works", "👩 works"), ("e\u0301t\u00e9", "\u00e9te\u0301"),
    ("tab\there", "tab here"), ("[SEP] [CLS]", "</s> <s>"), ("", "nothing"),
)  # fmt: skip
"""Pairs whose two texts differ in what a careless step would throw away."""
QUERIES = [PairQuery("How many?", a, b) for a in ANSWERS for b in ANSWERS if a != b]
PAIRS = [(q.a, q.b) for q in QUERIES]


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("judges")


@pytest.fixture(scope="module")
def classifier(folder) -> str:
    return str(save_classifier(folder / "nli"))


@pytest.fixture(scope="module")
def encoder(folder) -> str:
    return str(save_sentence_encoder(folder / "encoder"))


def fake_judge(
    monkeypatch: pytest.MonkeyPatch, labels: dict[tuple[str, str], str], **kwargs: Any
) -> tuple[NliJudge, list[tuple[str, str]]]:
    """A judge whose classifier is a table, and the pairs that it was asked."""
    asked: list[tuple[str, str]] = []

    def probabilities(self: NliJudge, pairs: list[tuple[str, str]]) -> np.ndarray:
        asked.extend(pairs)
        rows = [[0.8 if label == labels[pair] else 0.1 for label in LABELS] for pair in pairs]
        return np.array(rows).reshape(len(pairs), 3)

    monkeypatch.setattr(NliJudge, "probabilities", probabilities)
    identity = ModelIdentity("table", Path(), "", "")
    fields = {"rule": "strict", "with_question": False, **kwargs}
    judge = NliJudge(
        identity, device="cpu", batch_size=8, store=None, counts=JudgeCounts(), **fields
    )
    return judge, asked


def test_pairs_in_batches_are_judged_as_they_are_one_at_a_time(classifier):
    alone = nli_judge(classifier, batch_size=1)
    together = nli_judge(classifier, batch_size=13)
    expected = alone.probabilities(PAIRS)
    assert together.probabilities(PAIRS) == pytest.approx(expected, abs=1e-5)
    assert expected.sum(1) == pytest.approx(np.ones(len(PAIRS)), abs=1e-5)
    assert len({int(row.argmax()) for row in expected}) == 3  # it has opinions
    assert together.equivalent(QUERIES) == alone.equivalent(QUERIES)
    assert alone.counts.forwards > 6 * together.counts.forwards


def test_of_a_pair_longer_than_the_model_the_longer_text_loses_its_end(classifier):
    long, short = "one two three four " * 40, "It is four."
    judge = nli_judge(classifier)

    def differ(a: tuple[str, ...], b: tuple[str, ...]) -> bool:
        first, second = judge.probabilities([a, b])  # type: ignore[list-item]
        return bool(np.abs(first - second).max() > 1e-4)

    for pair in ((long, short), (short, long)):
        for text, end, seen in ((long, True, False), (long, False, True), (short, True, True)):
            other = text[:-1] + "#" if end else "#" + text[1:]
            assert differ(pair, tuple(other if t == text else t for t in pair)) == seen


def test_odd_characters_are_neither_lost_nor_confused(classifier):
    judge = nli_judge(classifier, batch_size=4)
    for odd, plain in ODD:
        first, second = judge.probabilities(
            [(odd, "Someone is here."), (plain, "Someone is here.")]
        )
        assert np.abs(first - second).max() > 1e-5, odd
    alone = [nli_judge(classifier).probabilities([pair])[0] for pair in ODD]
    assert judge.probabilities(list(ODD)) == pytest.approx(np.array(alone), abs=2e-5)


def test_real_pairs_are_judged_alike_in_any_batch_and_order(classifier, shared_data):
    (path,) = (shared_data / "nli").glob("mnli*.txt")
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        both = [(row["premise"], row["hypothesis"]) for row in rows]
    foreign = [pair for pair in both if not (pair[0] + pair[1]).isascii()]
    pairs = list(dict.fromkeys([*foreign, *both[:: len(both) // 100][:100]]))
    expected = nli_judge(classifier, batch_size=1).probabilities(pairs)
    order = np.random.default_rng(0).integers(len(pairs), size=2 * len(pairs))
    for size in (7, 1000):
        found = nli_judge(classifier, batch_size=size).probabilities([pairs[i] for i in order])
        assert found == pytest.approx(expected[order], abs=2e-5)


def test_the_order_and_the_case_of_the_labels_make_no_difference(classifier, folder):
    orders = [*permutations(LABELS), tuple(label.upper() for label in LABELS[::-1])]
    expected = nli_judge(classifier).probabilities(PAIRS)
    verdicts = nli_judge(classifier).equivalent(QUERIES)
    assert 0 < sum(verdicts) < len(verdicts)
    for i, order in enumerate(orders):
        judge = nli_judge(str(save_classifier(folder / f"order-{i}", order)))
        assert judge.probabilities(PAIRS) == pytest.approx(expected, abs=1e-5)
        assert judge.equivalent(QUERIES) == verdicts


@pytest.mark.parametrize(
    "labels", [("entailment", "not_entailment"), ("NOT-ENTAILMENT", "ENTAILMENT")]
)
def test_a_classifier_with_two_labels_serves_the_strict_rule_only(classifier, folder, labels):
    name = str(save_classifier(folder / labels[0], labels))
    found = nli_judge(name).probabilities(PAIRS)
    three = nli_judge(classifier).probabilities(PAIRS)
    entailed = three[:, 2] / three[:, 1:].sum(1)  # the same rows of the same last layer
    assert found == pytest.approx(np.stack([0 * entailed, 1 - entailed, entailed], 1), abs=2e-4)
    table = {pair: bool(row[2] > row[1]) for pair, row in zip(PAIRS, found, strict=True)}
    assert nli_judge(name).equivalent(QUERIES) == [table[a, b] and table[b, a] for a, b in PAIRS]
    with pytest.raises(UserError, match=r"--entailment strict, or a --judge-model with three"):
        nli_judge(name, rule="no-contradiction")


def test_a_model_that_is_no_nli_classifier_is_refused_before_it_is_loaded(folder, monkeypatch):
    def load(*_: object) -> None:
        raise AssertionError("loaded")

    monkeypatch.setattr(judges, "load_classifier", load)
    mood = save_classifier(folder / "mood", ("negative", "neutral", "positive"))
    with pytest.raises(UserError, match=r"labels negative, neutral, positive; .*--judge-model"):
        nli_judge(str(mood))
    with pytest.raises(UserError, match=r"an NLI classifier has contradiction"):
        nli_judge(str(save_language_model("gpt2", folder / "gpt2")))


@pytest.mark.parametrize("first", LABELS)
@pytest.mark.parametrize("second", LABELS)
def test_rules(monkeypatch, first, second):
    labels = {("a", "b"): first, ("b", "a"): second}
    both = {first, second}
    expected = {
        "strict": both == {"entailment"},
        "no-contradiction": "contradiction" not in both and both != {"neutral"},
    }
    for rule, holds in expected.items():
        judge, _ = fake_judge(monkeypatch, labels, rule=rule)
        assert judge.equivalent([PairQuery("", "a", "b")]) == [holds]


def test_the_second_direction_is_asked_only_where_the_first_leaves_it_open(monkeypatch):
    texts = "abc"
    labels = {(x + "1", x + "2"): label for x, label in zip(texts, LABELS, strict=True)} | {
        (x + "2", x + "1"): "entailment" for x in texts
    }
    queries = [PairQuery("", x + "1", x + "2") for x in texts]
    forward = [(q.a, q.b) for q in queries]
    judge, asked = fake_judge(monkeypatch, labels)
    assert judge.equivalent(queries) == [False, False, True]
    assert asked == [*forward, ("c2", "c1")]
    judge, asked = fake_judge(monkeypatch, labels, rule="no-contradiction")
    assert judge.equivalent(queries) == [False, True, True]
    assert asked == [*forward, ("b2", "b1"), ("c2", "c1")]


def test_the_question_is_put_before_both_answers_when_asked(monkeypatch):
    labels = {("Q? a", "Q? b"): "entailment", ("Q? b", "Q? a"): "entailment"}
    judge, asked = fake_judge(monkeypatch, labels, with_question=True)
    assert judge.equivalent([PairQuery("Q?", "a", "b")]) == [True]
    assert asked == [("Q? a", "Q? b"), ("Q? b", "Q? a")]


def test_no_pair_is_judged_twice_over_a_whole_run(classifier, store, forwards):
    judge = nli_judge(classifier, batch_size=16, store=store)
    answers = [ANSWERS, ANSWERS[::-1], ANSWERS[:4] * 2]
    found = cluster_many(answers, judge.equivalent, ["first?", "second?", "third?"])
    judged = [pair for batch in forwards for pair in batch]
    assert len(judged) == len(set(judged))
    assert all(a != b for a, b in judged)
    assert judge.counts.forwards == len(forwards)
    assert judge.counts.pairs - judge.counts.stored == len(judged)

    plain = nli_judge(classifier, batch_size=1)
    for ids, texts in zip(found, answers, strict=True):
        expected = cluster_naive(texts, lambda a, b: plain.equivalent([PairQuery("", a, b)])[0])
        assert ids == expected


def test_stored_verdicts_need_no_model(classifier, store, forwards, monkeypatch):
    judge = nli_judge(classifier, store=store)
    verdicts = judge.equivalent(QUERIES)
    forwards.clear()

    def load(*_: object) -> None:
        raise AssertionError("loaded")

    monkeypatch.setattr(judges, "_classifier", load)
    again = nli_judge(classifier, store=store)
    assert again.equivalent(QUERIES) == verdicts
    assert forwards == []
    assert again.counts.forwards == 0
    assert again.counts.stored == again.counts.pairs > 0


def test_verdicts_of_another_judge_are_not_taken(classifier, folder, store, forwards):
    nli_judge(classifier, store=store).probabilities(PAIRS)
    other = nli_judge(str(save_classifier(folder / "other", seed=1)), store=store)
    forwards.clear()
    found = other.probabilities(PAIRS)
    assert sum(map(len, forwards)) == len(PAIRS)
    assert np.abs(found - nli_judge(classifier).probabilities(PAIRS)).max() > 0.1


def test_out_of_memory_halves_the_batch_and_keeps_what_was_judged(classifier, store, monkeypatch):
    expected = nli_judge(classifier).probabilities(PAIRS)
    plain, sizes = NliJudge._forward, []

    def forward(self: NliJudge, pairs: list[tuple[str, str]]) -> np.ndarray:
        sizes.append(len(pairs))
        if len(pairs) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return plain(self, pairs)

    monkeypatch.setattr(NliJudge, "_forward", forward)
    monkeypatch.setattr(judges, "free_memory", lambda _: None)
    monkeypatch.setattr(judges, "_alike", len)  # however much is padding
    limit = 5
    judge = nli_judge(classifier, batch_size=20, store=store)
    assert judge.probabilities(PAIRS) == pytest.approx(expected, abs=1e-5)
    assert sizes[:3] == [20, 10, 5]
    assert max(sizes[2:]) == 5
    limit = 0
    with pytest.raises(UserError, match=r"single pair; use --judge-device cpu"):
        nli_judge(classifier).probabilities(PAIRS[:4])


def test_a_judge_that_says_nan_is_refused(classifier, folder):
    broken = save_classifier(folder / "nan")
    from safetensors.torch import load_file, save_file

    weights = load_file(broken / "model.safetensors")
    weights["classifier.bias"][:] = torch.nan
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"NaN; use --judge-device cpu"):
        nli_judge(str(broken)).equivalent(QUERIES[:2])


def test_similarities_are_cosines_of_embeddings_computed_alone(encoder, store):
    deny_jupyter()
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(encoder, device="cpu")
    vectors = {text: model.encode([text])[0].astype(float) for text in ANSWERS}
    naive = [
        vectors[a] @ vectors[b] / np.linalg.norm(vectors[a]) / np.linalg.norm(vectors[b])
        for a, b in PAIRS
    ]
    judge = cosine_judge(encoder, 0.9, device="cpu", batch_size=3, store=store)
    assert judge.similarities(PAIRS) == pytest.approx(naive, abs=1e-5)
    assert np.ptp(naive) > 0.2
    assert judge.counts.forwards == 3  # eight texts, three at a time
    threshold = float(np.median(naive))
    again = cosine_judge(encoder, threshold, device="cpu", batch_size=3, store=store)
    found = again.equivalent(QUERIES)
    assert again.counts.forwards == 0
    clear = np.abs(np.array(naive) - threshold) > 1e-4
    assert (np.array(found) == (np.array(naive) >= threshold))[clear].all()


@given(
    st.lists(
        st.tuples(st.integers(-8, 8).map(lambda i: i / 8), st.booleans()), min_size=2, max_size=20
    ).filter(lambda rows: 0 < sum(same for _, same in rows) < len(rows))
)
def test_the_threshold_is_the_best_of_all(rows):
    similarities, same = np.array([s for s, _ in rows]), np.array([s for _, s in rows])

    def balanced(threshold: float) -> float:
        said = similarities >= threshold
        return float((said[same].mean() + (~said)[~same].mean()) / 2)

    best = max(balanced(t) for t in (*similarities, 2.0))
    assert balanced(best_cosine_threshold(similarities, same)) == pytest.approx(best)


@pytest.mark.parametrize(("kind", "words"), [(True, "the same"), (False, "another")])
def test_a_threshold_cannot_be_chosen_from_pairs_of_one_kind(kind, words):
    with pytest.raises(UserError, match=rf"all 2 .* have {words} final.*--cosine-threshold"):
        best_cosine_threshold(np.array([0.3, 0.6]), np.array([kind, kind]))


def test_the_final_answer_judge_compares_numbers_as_numbers_and_no_answer_with_nothing():
    same = ("so\n#### 1,000", "The answer is 1000.", "1000.0 pears")
    other = ("The answer is 10.", "I do not know", "who knows")
    queries = [PairQuery("", a, b) for a, b in product(same + other, repeat=2) if a != b]
    expected = [q.a in same and q.b in same for q in queries]
    assert final_answer_equivalence(queries) == expected


# --- judging all pairs ---------------------------------------------------------------------------


QUESTIONS = ("How many apples?", "How many cars?", "And now?")
TEXTS = (
    ("19", "She has 19 apples.", "19", "It is nineteen", "no idea"),
    ("7 cars are left.", "19", "", "She has 19 apples.", "7 cars are left."),
    ("yes", "yes", "yes", "yes", "yes"),
)
# Of the first question 4 different texts, of the second 4, two of them shared.
UNIQUE_PAIRS = 4 * 3 + 4 * 3 - 2


def one_at_a_time(classifier: str, with_question: bool = False) -> np.ndarray:
    judge = nli_judge(classifier, batch_size=1)
    found = np.empty((3, 5, 5, 3))
    for q, (question, texts) in enumerate(zip(QUESTIONS, TEXTS, strict=True)):
        for i, a in enumerate(texts):
            for j, b in enumerate(texts):
                pair = (f"{question} {a}", f"{question} {b}") if with_question else (a, b)
                found[q, i, j] = (0, 0, 1) if a == b else judge.probabilities([pair])[0]
    return found


@pytest.mark.parametrize("with_question", [False, True])
@pytest.mark.parametrize("chunk", [5, 2048])
def test_all_pairs_are_judged_once_as_they_are_one_at_a_time(
    classifier, with_question, chunk, monkeypatch, forwards, store
):
    monkeypatch.setattr(judges, "PAIRS_AT_ONCE", chunk)
    judge = nli_judge(classifier, batch_size=7, with_question=with_question, store=store)
    seen: list[tuple[int, int]] = []
    progress = progress_through(lambda state: seen.append((state.done, state.total)))
    found = judge_all_pairs(judge, TEXTS, QUESTIONS, progress)
    asked = [pair for batch in forwards for pair in batch]
    assert len(asked) == len(set(asked)) == UNIQUE_PAIRS + 2 * with_question
    assert (seen[0], seen[-1]) == ((0, len(asked)), (len(asked), len(asked)))
    assert all(a != b for a, b in asked)
    assert found.dtype == np.float32
    assert np.abs(found - found.transpose(0, 2, 1, 3)).max() > 0.1  # premise is not hypothesis
    forwards.clear()
    fewer = [row[1:] for row in TEXTS[::-1]]
    again = judge_all_pairs(judge, fewer, QUESTIONS[::-1], silent_progress())
    assert again == pytest.approx(found[::-1, 1:, 1:])
    assert forwards == []  # it was stored
    assert found == pytest.approx(one_at_a_time(classifier, with_question), abs=1e-5)


def test_a_killed_run_keeps_what_was_judged(classifier, store, forwards, monkeypatch):
    monkeypatch.setattr(judges, "PAIRS_AT_ONCE", 8)
    whole = judge_all_pairs(
        nli_judge(classifier, batch_size=4), TEXTS, QUESTIONS, silent_progress()
    )
    forwards.clear()
    counted = NliJudge._forward

    def dies(self: NliJudge, pairs: list[tuple[str, str]]) -> np.ndarray:
        if len(forwards) == 3:
            raise KeyboardInterrupt
        return counted(self, pairs)

    judge = nli_judge(classifier, batch_size=4, store=store)
    monkeypatch.setattr(NliJudge, "_forward", dies)
    with pytest.raises(KeyboardInterrupt):
        judge_all_pairs(judge, TEXTS, QUESTIONS, silent_progress())
    monkeypatch.setattr(NliJudge, "_forward", counted)
    found = judge_all_pairs(judge, TEXTS, QUESTIONS, silent_progress())
    asked = [pair for batch in forwards for pair in batch]
    assert len(asked) == len(set(asked)) == UNIQUE_PAIRS
    assert (found == whole).all()  # to the bit: the batches are those of an undisturbed run


def test_questions_with_other_numbers_of_answers_are_refused(classifier):
    with pytest.raises(ValueError, match=r"rows of \[1, 2\] answers"):
        judge_all_pairs(nli_judge(classifier), [("a", "b"), ("c",)], ("", ""), silent_progress())


class TableJudge(NliJudge):
    """A judge that says of a pair what its hash says, and remembers what it was asked."""

    def probabilities(self, pairs):
        ASKED.extend(pairs)
        return np.array([said_of(*pair) for pair in pairs]).reshape(len(pairs), 3)


ASKED: list[tuple[str, str]] = []


def said_of(premise: str, hypothesis: str) -> np.ndarray:
    digest = hashlib.sha256(f"{premise}\0{hypothesis}".encode()).digest()
    weights = np.frombuffer(digest[:3], np.uint8) + 1.0
    return weights / weights.sum()


@given(
    st.integers(1, 4).flatmap(
        lambda k: st.lists(
            st.tuples(st.lists(st.sampled_from("abcde"), min_size=k, max_size=k), st.text("Q?")),
            min_size=1,
            max_size=5,
        )
    ),
    st.booleans(),
)
def test_every_entry_is_what_the_judge_says_of_its_own_pair(rows, with_question):
    texts, contexts = [row for row, _ in rows], [context for _, context in rows]
    identity = ModelIdentity("table", Path(), "", "")
    judge = TableJudge(identity, "strict", with_question, "cpu", 8, None, JudgeCounts())
    ASKED.clear()
    found = judge_all_pairs(judge, texts, contexts, silent_progress())
    expected = set()
    for q, (row, context) in enumerate(rows):
        put = [f"{context} {text}" if with_question else text for text in row]
        for i, a in enumerate(put):
            for j, b in enumerate(put):
                said = (0, 0, 1) if a == b else said_of(a, b)
                assert found[q, i, j] == pytest.approx(said, abs=1e-6)
                expected |= {(a, b)} - {(a, a)}
    assert sorted(ASKED) == sorted(expected)
