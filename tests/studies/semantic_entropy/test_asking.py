"""Asking a run one question: the reading, its interval, the strip, the check by sampling."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import expit, logit

from helpers.config import RunConfig
from helpers.data.answers import Grade
from helpers.errors import UserError
from helpers.generation.records import Sample
from helpers.generation.samples import answer_questions
from helpers.hidden_states.capture import capture_tokens
from helpers.models.forwards import TokenSequence
from helpers.models.loading import decoder_blocks, load_language_model
from helpers.models.tokens import token_texts
from helpers.probes.store import load_probe
from helpers.progress import silent_progress
from helpers.store.cache import Store
from helpers.studies.semantic_entropy import asking_views
from helpers.studies.semantic_entropy.asking import (
    Answered,
    Checked,
    Reading,
    Strip,
    answer_greedily,
    ask,
    check_by_sampling,
    conformal_interval,
    judge_reading,
    observed_share,
    score_prompt,
    token_strip,
    training_distance,
)
from helpers.studies.semantic_entropy.labels import find_meanings
from helpers.studies.semantic_entropy.open_run import open_run
from helpers.studies.semantic_entropy.run_files import StoredRun, read_run
from helpers.uncertainty.entropies import semantic_entropy
from support.tiny_models import END, byte_tokenizer, save_language_model

ASKED = "Ada has 3 apples. Then Ben picks 4 more apples for Ada. How many apples does Ada have?"
HOSTILE = "<img src=x onerror=alert(1)>\"'&</span><script>7</script>"

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def run(tiny_run: RunConfig) -> StoredRun:
    return read_run(tiny_run.run_folder)


@pytest.fixture
def copied(tiny_run: RunConfig, tmp_path: Path) -> Path:
    """A copy of the run folder, to spoil."""
    return Path(shutil.copytree(tiny_run.run_folder, tmp_path / "run"))


@pytest.fixture
def model_calls() -> Iterator[list[int]]:
    """The number of tokens of each forward pass of the lab's language model."""
    seen: list[int] = []
    model = load_language_model("lab").model
    hook = model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    yield seen
    hook.remove()


@pytest.fixture(scope="module")
def asked(run: StoredRun, tiny_run: RunConfig) -> tuple[Reading, Answered, Strip, Checked]:
    """A new question with everything that follows."""
    reading = ask(run, ASKED, config=tiny_run, reference="7")
    answered = answer_greedily(run, reading, config=tiny_run)
    strip = token_strip(run, reading.prompt_ids, answered.sample.token_ids, config=tiny_run)
    *_, checked = check_by_sampling(run, reading, config=tiny_run)
    return reading, answered, strip, checked


# --- the reading ---------------------------------------------------------------------------------


def test_a_reading_is_what_sep_score_says_from_one_forward(
    run: StoredRun, tiny_run: RunConfig, model_calls: list[int]
) -> None:
    reading = ask(run, ASKED, config=tiny_run)
    assert model_calls == [len(reading.prompt_ids)]
    scored = score_prompt(run.folder, ASKED, tiny_run)
    assert list(reading.readings.values()) == scored
    assert set(reading.intervals) == {r.target for r in scored}
    assert reading.question.split == ""
    again = ask(open_run(run.folder), f"  {ASKED}\n", config=tiny_run)
    assert again.readings == reading.readings
    assert again.intervals == reading.intervals
    assert again.question == reading.question


def test_a_question_of_the_run_is_known_and_reads_as_its_stored_prediction(
    run: StoredRun, tiny_run: RunConfig
) -> None:
    for row in (0, 11, 29):
        question = run.answers.questions[row]
        reading = ask(run, question.question.replace(" ", "  ", 1), config=tiny_run)
        assert reading.question == question
        for found in reading.readings.values():
            assert found.value == pytest.approx(run.predicted[found.name][row], abs=1e-3)


def test_few_validation_questions_leave_no_interval_and_say_so(
    run: StoredRun, tiny_run: RunConfig
) -> None:
    n = int(run.targets.rows("validation").sum())
    assert n < 9
    reading = ask(run, ASKED, config=tiny_run)
    for interval in reading.intervals.values():
        assert interval.low is interval.high is interval.share is None
        assert 0 < interval.n <= n
        assert f"{interval.n} validation questions" in interval.words
    assert reading.training_distance.quantile is None
    assert f"only {n} validation questions" in reading.training_distance.words
    assert "nan" not in asking_views.reading_view(reading).lower()


def test_intervals_and_distance_come_from_the_validation_questions(
    run: StoredRun, tiny_run: RunConfig
) -> None:
    splits = np.where(np.arange(30) < 6, "train", "validation")
    many = replace(run, targets=replace(run.targets, splits=splits))
    reading = ask(many, ASKED, config=tiny_run)
    found, interval = reading.readings["semantic_entropy"], reading.intervals["semantic_entropy"]
    rows = splits == "validation"
    largest = math.log(tiny_run.k)
    off = np.abs(run.predicted[found.name].clip(0, largest) - run.targets.semantic_entropy)[rows]
    half = np.sort(off)[math.ceil(0.9 * 25) - 1]
    centre = np.clip(found.value, 0, largest)
    assert (interval.low, interval.high) == pytest.approx(
        (max(0, centre - half), min(largest, centre + half))
    )
    assert interval.n == reading.training_distance.n == 24
    assert 0 <= (reading.training_distance.quantile or 0) <= 1


def test_conformal_intervals_cover_exchangeable_questions() -> None:
    rng, largest, inside, widths = np.random.default_rng(0), math.log(10), [], []
    for _ in range(200):
        n = int(rng.integers(9, 120))
        truth = largest * rng.beta(0.7, 0.9, n + 40)
        # A poor probe: biased, beyond the ends, and worse where the entropy is high.
        predicted = 0.3 + 1.1 * truth + (0.1 + 0.3 * truth) * rng.normal(size=n + 40)
        for i in range(n, n + 40):
            found = conformal_interval(predicted[i], predicted[:n], truth[:n], largest=largest)
            assert found.low is not None
            assert found.high is not None
            assert 0 <= found.low <= found.high <= largest
            inside.append(found.low - 1e-12 <= truth[i] <= found.high + 1e-12)
            widths.append(found.high - found.low)
    assert 0.88 <= np.mean(inside) <= 0.95
    assert np.mean(widths) < 0.9 * largest
    assert conformal_interval(0.5, np.ones(8), np.ones(8), largest=largest).low is None


def test_the_observed_share_is_that_of_the_nearest_predictions() -> None:
    predicted = np.linspace(0, 1, 101)
    labels = (predicted > 0.5) * 1.0
    shares = [observed_share(v, predicted, labels, "wrong") for v in (0.0, 0.5, 1.0)]
    assert [s.share for s in shares] == [0.0, pytest.approx(0.5, abs=0.04), 1.0]
    assert shares[0].low == 0
    assert 0.08 < (shares[0].high or 0) < 0.15  # Wilson: 3.84 / 33.84
    assert "(0.00 to 0.29), 0 % were wrong" in shares[0].words
    assert observed_share(0.5, predicted[:29], labels[:29], "wrong").share is None


def test_a_question_unlike_the_training_questions_is_told_from_a_usual_one(
    run: StoredRun,
) -> None:
    probe = load_probe(run.folder / "probes" / "semantic_entropy.json").probe
    rng, width = np.random.default_rng(1), len(probe.mean)  # type: ignore[union-attr]
    states = rng.normal(size=(700, width)) * probe.scale + probe.mean  # type: ignore[union-attr]
    train, validation = np.arange(700) < 200, (np.arange(700) >= 200) & (np.arange(700) < 400)
    usual = [
        training_distance(probe, state[None], states, train, validation)  # type: ignore[arg-type]
        for state in states[400:]
    ]
    assert np.mean([u.far for u in usual]) < 0.05
    assert 0.4 < np.mean([u.quantile or 0 for u in usual]) < 0.6
    odd = probe.mean + 3 * probe.scale  # type: ignore[union-attr]
    far = training_distance(probe, odd[None], states, train, validation)  # type: ignore[arg-type]
    assert far.far
    assert "than all 200 validation questions: do not trust the numbers" in far.words


# --- the answer and the strip --------------------------------------------------------------------


def test_states_at_every_token_are_those_of_a_plain_forward(tmp_path: Path) -> None:
    lm = load_language_model(str(save_language_model("llama", tmp_path / "llama")), device="cpu")
    sequence = TokenSequence((50, 51, 52, 53), (60, 61, 0))
    ids = torch.tensor([[*sequence.prompt_ids, *sequence.answer_ids]])
    last = []
    hook = decoder_blocks(lm.model)[1][-1].register_forward_hook(
        lambda *given: last.append(given[2])
    )
    with torch.no_grad():
        states = lm.model(input_ids=ids, output_hidden_states=True).hidden_states
    hook.remove()
    plain = dict(enumerate([*states[:-1], last[0]]))  # their last is after the final norm
    for layers in ((0,), (2,), (3, 1), (0, 1, 2, 3)):
        found = capture_tokens(lm, sequence, layers)
        assert set(found) == set(layers)
        for layer, values in found.items():
            assert values.shape == (7, lm.width)
            np.testing.assert_allclose(values, plain[layer][0].numpy(), rtol=0, atol=1e-4)


def test_the_strip_holds_the_readings_where_the_probes_were_trained(
    asked: tuple[Reading, Answered, Strip, Checked], model_calls: list[int], run: StoredRun,
    tiny_run: RunConfig,
) -> None:  # fmt: skip
    reading, answered, strip, _ = asked
    ids = (*reading.prompt_ids, *answered.sample.token_ids)
    assert strip.n_prompt == len(reading.prompt_ids)
    compared = set()
    for probe in strip.probes.values():
        assert probe.values.shape == (len(ids),) == (len(strip.texts),)
        at = probe.values[probe.trained_at.start : probe.trained_at.stop]
        own = answered.readings if probe.position != "tbg" else reading.readings
        # A linear probe of a mean is the mean of the probe, in the space in which it is linear.
        mean = at.mean() if probe.target == "semantic_entropy" else expit(logit(at).mean())
        assert own[probe.target].name == probe.name
        assert mean == pytest.approx(own[probe.target].value, abs=1e-3)
        compared.add((probe.target, probe.position == "tbg"))
        if probe.position == "tbg":
            assert probe.trained_at == range(strip.n_prompt - 1, strip.n_prompt)
    assert ("semantic_entropy", True) in compared
    assert token_strip(run, reading.prompt_ids, config=tiny_run).probes.keys() == {
        p.name for p in strip.probes.values() if p.position == "tbg"
    }
    assert model_calls == [len(reading.prompt_ids)]


def test_the_texts_of_tokens_add_up_to_the_whole_text() -> None:
    lab = load_language_model("lab").tokenizer
    for tokenizer in (lab, byte_tokenizer(eos_token=END)):
        text = f"Question: {ASKED} 😀😀é\n\nAnswer: 7 café."
        ids = tokenizer(text)["input_ids"]
        texts = token_texts(tokenizer, ids)
        assert len(texts) == len(ids)
        assert "".join(texts) == tokenizer.decode(ids)
        assert texts.count("😀") == 2
        assert texts[texts.index("😀") - 1] == ""
    assert token_texts(byte_tokenizer(eos_token=END), ids[:0]) == []


# --- the check by sampling -----------------------------------------------------------------------


def assert_same_answers(found: Sequence[Sample], expected: Sequence[Sample]) -> None:
    """The same tokens; of their log-probabilities batches may round the fifth decimal."""
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        plain = {"token_logprobs": (), "token_entropies": ()}
        assert replace(ours, **plain) == replace(theirs, **plain)
        assert ours.token_logprobs == pytest.approx(theirs.token_logprobs, abs=1e-4)


def test_a_check_draws_the_samples_that_the_run_has(
    run: StoredRun, tiny_run: RunConfig, tmp_path: Path, model_calls: list[int]
) -> None:
    for row in (2, 17):
        reading = ask(run, run.answers.questions[row].question, config=tiny_run)
        *_, last = check_by_sampling(run, reading, config=tiny_run)
        assert_same_answers(last.samples, run.answers.samples[row])
        assert_same_answers([last.greedy], [run.answers.greedy[row]])
        assert_same_answers([last.greedy], [answer_greedily(run, reading, config=tiny_run).sample])
        assert last.clusters == run.meanings.clusters[row]
        assert last.graded == run.meanings.greedy_grades[row]
        assert last.verdict is not None
        assert last.verdict.measured == run.targets.semantic_entropy[row]
    # The run's own store has them already: nothing is generated.
    store = Store(Path(shutil.copytree(tiny_run.cache_dir, tmp_path / "cache")))
    model_calls.clear()
    *_, again = check_by_sampling(run, reading, config=tiny_run, store=store)
    store.close()
    assert model_calls == []
    assert again.samples == run.answers.samples[17]
    assert again.verdict == last.verdict


def test_streaming_ends_where_drawing_all_at_once_does(
    run: StoredRun, tiny_run: RunConfig, store: Store
) -> None:
    reading = ask(run, ASKED, config=tiny_run)
    records = list(check_by_sampling(run, reading, config=tiny_run, k=9, store=store))
    assert [len(r.samples) for r in records] == [1, 3, 7, 9]
    last = records[-1]
    for record in records:
        m = len(record.samples)
        assert record.samples == last.samples[:m]
        assert record.clusters == last.clusters[:m]
        assert record.entropy == semantic_entropy(last.clusters[:m])
        assert (record.verdict is None) == (m < 9)
    small = tiny_run.model_copy(update={"batch_size": 2})
    assert [len(r.samples) for r in check_by_sampling(run, reading, config=small, k=5)] == [1, 3, 5]
    config = tiny_run.model_copy(update={"k": 9})
    fresh = Store(store.folder / "other")
    answers = answer_questions(config, [reading.question], fresh, silent_progress())
    meanings = find_meanings(config, answers, fresh, silent_progress())
    fresh.close()
    assert_same_answers(last.samples, answers.samples[0])
    assert last.clusters == meanings.clusters[0]
    assert len({s.text for s in last.samples}) > 1


def test_visitors_may_ask_while_another_checks(run: StoredRun, tiny_run: RunConfig) -> None:
    reading = ask(run, ASKED, config=tiny_run)
    with ThreadPoolExecutor(2) as visitors:
        checks = visitors.submit(
            lambda: [[*check_by_sampling(run, reading, config=tiny_run)][-1] for _ in range(4)]
        )
        asks = visitors.submit(lambda: [ask(run, ASKED, config=tiny_run) for _ in range(20)])
        for found in checks.result():
            assert_same_answers(found.samples, checks.result()[0].samples)
        assert all(a.readings == reading.readings for a in asks.result())


def test_a_check_that_is_left_early_keeps_nothing(
    run: StoredRun, tiny_run: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    reading = ask(run, ASKED, config=tiny_run)
    records = check_by_sampling(run, reading, config=tiny_run)
    next(records)
    assert len(list(tmp_path.iterdir())) == 1
    records.close()
    assert list(tmp_path.iterdir()) == []


def test_the_verdict_compares_what_was_foreseen_with_what_was_found(
    asked: tuple[Reading, Answered, Strip, Checked], run: StoredRun
) -> None:
    reading, _, _, checked = asked
    found = reading.readings["semantic_entropy"]
    high = replace(found, target="high_semantic_entropy", value=0.2)
    wrong = replace(found, target="wrong_answer", value=0.8)
    interval = replace(reading.intervals["semantic_entropy"], low=0.1, high=0.5)
    foreseen = replace(
        reading,
        readings={"semantic_entropy": found, high.target: high, wrong.target: wrong},
        intervals={"semantic_entropy": interval},
    )
    known = replace(run, targets=replace(run.targets, threshold=0.6))
    made = replace(checked, reading=foreseen, graded=Grade("9", "wrong"))
    low = judge_reading(known, replace(made, entropy=0.3))
    assert (low.inside, low.high, low.high_right, low.wrong, low.wrong_right) == (
        True, False, True, True, True,
    )  # fmt: skip
    assert "inside the interval 0.10 to 0.50" in low.words
    above = judge_reading(known, replace(made, entropy=1.2, graded=Grade("7", "correct")))
    assert (above.inside, above.high_right, above.wrong_right) == (False, False, False)
    assert "p(wrong) was 0.80 and the most likely answer is right: the less likely" in above.words
    ungraded = judge_reading(known, replace(made, graded=None))
    assert ungraded.wrong is ungraded.wrong_right is None
    assert "p(wrong)" not in ungraded.words
    fewer = judge_reading(known, replace(made, samples=made.samples[:2]))
    assert "The probe learnt entropies of 4 samples; with 2 they come out lower" in fewer.words
    trained = replace(foreseen, question=replace(reading.question, split="train"))
    assert "no test of it" in judge_reading(known, replace(made, reading=trained)).words


# --- views ---------------------------------------------------------------------------------------


class Tags(HTMLParser):
    """The tags and attributes of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.seen: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen |= {tag, *(f"@{name}" for name, _ in attrs if name.startswith("on"))}


def test_texts_of_others_are_escaped(
    asked: tuple[Reading, Answered, Strip, Checked], run: StoredRun
) -> None:
    reading, answered, strip, checked = asked
    samples = tuple(replace(s, text=HOSTILE + str(i)) for i, s in enumerate(checked.samples))
    bad = replace(
        reading,
        question=replace(reading.question, question=HOSTILE, split=HOSTILE),
        readings={},
        undefined=dict.fromkeys(("semantic_entropy", "wrong_answer"), HOSTILE),
        training_distance=replace(reading.training_distance, words=HOSTILE),
    )
    pages = [
        asking_views.reading_view(bad),
        asking_views.answered_view(
            replace(
                answered, sample=replace(answered.sample, text=HOSTILE), stand_ins=(HOSTILE,)
            ),
            reading,
        ),
        asking_views.strip_view(replace(strip, texts=(HOSTILE,) * len(strip.texts))),
        asking_views.checked_view(
            replace(
                checked, reading=bad, samples=samples, judge=HOSTILE,
                greedy=replace(checked.greedy, text=HOSTILE), graded=Grade(HOSTILE, HOSTILE),
            )
        ),
    ]  # fmt: skip
    for page in pages:
        assert "&lt;img" in page
        assert Tags(page).seen <= {
            "div", "span", "strong", "svg", "rect", "path", "g", "text", "progress",
        }  # fmt: skip
    figure = asking_views.distribution_figure(bad, run)
    assert "<img" not in figure.to_json().replace("\\u003c", "<")


def test_views_show_the_numbers(
    asked: tuple[Reading, Answered, Strip, Checked], run: StoredRun
) -> None:
    reading, answered, strip, checked = asked
    page = asking_views.reading_view(reading)
    for found in reading.readings.values():
        assert f"{found.value:.2f}" in page
        assert found.place in page
    shown = asking_views.strip_view(strip)
    assert shown.count("border-bottom:3px") == 1  # the last token of the prompt
    assert shown.count("<span title=") == len(strip.texts)
    assert "extrapolation" in shown
    long = replace(
        strip,
        texts=strip.texts * 100,
        n_prompt=strip.n_prompt * 100,
        probes={n: replace(p, values=np.tile(p.values, 100)) for n, p in strip.probes.items()},
    )
    shown = asking_views.strip_view(long)
    left_out = 100 * len(strip.texts) - asking_views.MOST_TOKENS
    assert f"The first {left_out:,} tokens are left out" in shown
    page = asking_views.checked_view(checked)
    assert "4 of 4 samples" in page
    assert checked.verdict is not None
    assert checked.verdict.words.split(".")[0] in page
    assert "so far" in asking_views.checked_view(replace(checked, verdict=None))
    assert answered.sample.text in asking_views.answered_view(answered, reading)
    figure = asking_views.distribution_figure(reading, run)
    counted = sum(int(sum(trace.y)) for trace in figure.data)
    assert counted == int((run.targets.splits != "test").sum())


# --- problems ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("question", "message"),
    [
        (" \n", "the prompt is empty"),
        ("\udcff", "the prompt is no UTF-8 text"),
        ("7 " * 2000, r"the prompt has \d{4} tokens; between 1 and \d+ fit"),
    ],
)
def test_a_question_that_cannot_be_asked_is_refused(
    question: str, message: str, run: StoredRun, tiny_run: RunConfig
) -> None:
    with pytest.raises(UserError, match=message):
        ask(run, question, config=tiny_run)


def test_what_cannot_be_checked_is_refused(run: StoredRun, tiny_run: RunConfig) -> None:
    with pytest.raises(UserError, match="reference answer states no final answer"):
        ask(run, ASKED, config=tiny_run, reference="well " * 40)
    reading = ask(run, ASKED, config=tiny_run)
    with pytest.raises(UserError, match=r"k \(--k\) is 1"):
        next(check_by_sampling(run, reading, config=tiny_run, k=1))
    context = load_language_model("lab").context
    full = replace(reading, prompt_ids=(reading.prompt_ids * context)[: int(context)])
    for attempt in (
        lambda: answer_greedily(run, full, config=tiny_run),
        lambda: next(check_by_sampling(run, full, config=tiny_run)),
    ):
        with pytest.raises(UserError, match=r"fills the model's context of \d+: no answer fits"):
            attempt()
    with pytest.raises(UserError, match="prompt and answer have"):
        token_strip(run, full.prompt_ids, (5,), config=tiny_run)


def test_a_run_that_cannot_be_asked_says_why(
    copied: Path, tiny_run: RunConfig, tmp_path: Path
) -> None:
    spoilt = read_run(copied)
    manifest = json.loads((copied / "manifest.json").read_text())

    def with_model(name: str) -> None:
        changed = manifest | {"config": manifest["config"] | {"model": name}}
        (copied / "manifest.json").write_text(json.dumps(changed))

    with_model(str(tmp_path / "gone"))
    with pytest.raises(UserError, match="there is no such folder"):
        ask(spoilt, ASKED, config=tiny_run)
    with_model(str(save_language_model("gpt2", tmp_path / "gpt2")))
    with pytest.raises(UserError, match="it was trained for model_hash"):
        ask(spoilt, ASKED, config=tiny_run)
    (copied / "manifest.json").write_text(
        json.dumps({k: v for k, v in manifest.items() if k != "config"})
    )
    with pytest.raises(UserError, match="answers that were scored without a model"):
        ask(spoilt, ASKED, config=tiny_run)
    (copied / "manifest.json").write_text(json.dumps(manifest))
    (copied / "hidden" / "tbg.safetensors").unlink()
    assert "not known whether" in ask(spoilt, ASKED, config=tiny_run).training_distance.words
    shutil.rmtree(copied / "probes")
    with pytest.raises(UserError, match="has no probe that reads the prompt alone"):
        ask(spoilt, ASKED, config=tiny_run)
