"""The NLI judge's plumbing on real pairs: MNLI's premises and hypotheses through a tiny classifier.

Its verdicts mean nothing; that they belong to the right pair, whatever the batch, the order of the
labels and the alphabet, is what is tested.
"""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from helpers.meanings.judges import NliJudge, nli_judge
from helpers.store.cache import Store
from support.tiny_models import save_classifier

pytestmark = pytest.mark.usefixtures("one_thread")

ODD = (
    ("the café is open", "the cafe is open"),
    ("a\u2028line", "a line"),
    ("𝟏𝟐 apples", "12 apples"),
    ("日本語の文", "文の語本日"),
    ("👩‍🔬 works", "👩 works"),
    ("e\u0301t\u00e9", "\u00e9te\u0301"),
    ("tab\there", "tab here"),
    ("[SEP] [CLS]", "</s> <s>"),
    ("", "nothing"),
)
"""Pairs whose two texts differ in what a careless step would throw away."""


@dataclass(frozen=True)
class GoldPair:
    """A premise, a hypothesis and what annotators said of them."""

    premise: str
    hypothesis: str
    label: str


@pytest.fixture
def gold(shared_data: Path) -> list[GoldPair]:
    (path,) = (shared_data / "nli").glob("mnli*.txt")
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        return [GoldPair(r["premise"], r["hypothesis"], r["gold_label"]) for r in rows]


@pytest.fixture
def pairs(gold: list[GoldPair]) -> list[tuple[str, str]]:
    """Three hundred: the longest, those with other alphabets' characters, and a cross-section."""
    both = [(pair.premise, pair.hypothesis) for pair in gold]
    longest = sorted(both, key=lambda pair: -len(pair[0] + pair[1]))[:10]
    foreign = [pair for pair in both if not (pair[0] + pair[1]).isascii()]
    found = [*longest, *foreign, *both[:: len(both) // 200][:200]]
    return list(dict.fromkeys(found))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("classifiers")


@pytest.fixture(scope="module")
def classifier(folder: Path) -> str:
    return str(save_classifier(folder / "nli"))


def test_the_pairs_come_with_gold_labels(gold: list[GoldPair]) -> None:
    assert Counter(pair.label for pair in gold) == {
        "entailment": 3479,
        "contradiction": 3213,
        "neutral": 3123,
    }
    assert all(pair.premise.strip() and pair.hypothesis.strip() for pair in gold)


def test_a_batch_a_single_pair_and_another_order_give_the_same(
    classifier: str, pairs: list[tuple[str, str]]
) -> None:
    assert len(pairs) > 270
    expected = nli_judge(classifier, batch_size=1).probabilities(pairs)
    assert expected.sum(1) == pytest.approx(1, abs=1e-5)
    assert {int(row.argmax()) for row in expected} == {0, 1, 2}
    for size in (7, 64, 1000):
        found = nli_judge(classifier, batch_size=size).probabilities(pairs)
        assert found == pytest.approx(expected, abs=2e-5)
    order = np.random.default_rng(0).integers(len(pairs), size=2 * len(pairs))  # with repetitions
    found = nli_judge(classifier, batch_size=64).probabilities([pairs[i] for i in order])
    assert found == pytest.approx(expected[order], abs=2e-5)


def test_the_order_of_the_labels_makes_no_difference(
    classifier: str, folder: Path, pairs: list[tuple[str, str]]
) -> None:
    expected = nli_judge(classifier).probabilities(pairs)
    orders = [
        ("contradiction", "entailment", "neutral"),  # cross-encoder/nli-deberta-v3-small
        ("entailment", "neutral", "contradiction"),  # those of MoritzLaurer
        ("CONTRADICTION", "NEUTRAL", "ENTAILMENT"),  # roberta-large-mnli
    ]
    for i, order in enumerate(orders):
        judge = nli_judge(str(save_classifier(folder / f"order-{i}", order)))
        assert judge.probabilities(pairs) == pytest.approx(expected, abs=2e-5)


def test_of_a_long_pair_the_longer_text_loses_its_end(
    classifier: str, pairs: list[tuple[str, str]]
) -> None:
    long, short = max(pairs, key=lambda pair: len(pair[0]) - len(pair[1]))
    assert len(long) > 900
    judge = nli_judge(classifier)

    def differ(a: tuple[str, str], b: tuple[str, str]) -> bool:
        first, second = judge.probabilities([a, b])
        return bool(np.abs(first - second).max() > 1e-4)

    for pair in ((long, short), (short, long)):
        cut, whole = sorted(pair, key=len, reverse=True)
        ends = {text: text[:-1] + "#" for text in pair}
        starts = {text: "#" + text[1:] for text in pair}

        def changed(text: str, to: str, pair: tuple[str, str] = pair) -> tuple[str, str]:
            first, second = (to if t == text else t for t in pair)
            return first, second

        assert not differ(pair, changed(cut, ends[cut]))
        assert differ(pair, changed(cut, starts[cut]))
        assert differ(pair, changed(whole, ends[whole]))
        assert differ(pair, changed(whole, starts[whole]))


def test_odd_characters_are_neither_lost_nor_confused(classifier: str) -> None:
    judge = nli_judge(classifier, batch_size=4)
    hypothesis = "Someone is here."
    for odd, plain in ODD:
        first, second = judge.probabilities([(odd, hypothesis), (plain, hypothesis)])
        assert np.abs(first - second).max() > 1e-5, odd
    both = [(odd, plain) for odd, plain in ODD]
    alone = [nli_judge(classifier).probabilities([pair])[0] for pair in both]
    assert judge.probabilities(both) == pytest.approx(np.array(alone), abs=2e-5)


def test_what_is_stored_is_given_back_to_its_own_pair(
    classifier: str, pairs: list[tuple[str, str]], tmp_path: Path
) -> None:
    store = Store(tmp_path)
    first = nli_judge(classifier, store=store)
    expected = first.probabilities(pairs)
    again: NliJudge = nli_judge(classifier, store=store)
    assert (again.probabilities(pairs[::-1]) == expected[::-1]).all()
    assert (again.counts.forwards, again.counts.stored) == (0, len(pairs))
    turned = again.probabilities([pair[::-1] for pair in pairs])
    assert again.counts.forwards > 0  # the other direction is another question
    assert np.abs(turned - expected).max() > 0.1
    store.close()
