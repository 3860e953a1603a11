"""Looking at questions: clicks, instructive cases, a question's page, its tokens, its judge."""

from __future__ import annotations

import html
import json
import math
import re
import textwrap
from collections import Counter
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest

from helpers.data.questions import Question
from helpers.errors import UserError
from helpers.generation.records import GREEDY, Sample
from helpers.generation.samples import SampledAnswers
from helpers.models.loading import identify, load_tokenizer
from helpers.models.tokens import _by_prefixes, token_texts
from helpers.studies.semantic_entropy import explore
from helpers.studies.semantic_entropy.explore import (
    case_rows,
    cases,
    clicked_question,
    judge_matrix,
    question_page,
    question_view,
    run_decoder,
)
from helpers.studies.semantic_entropy.records import Run
from helpers.studies.semantic_entropy.run_files import StoredRun
from helpers.views import charts
from helpers.views import html as html_views
from support.browser import served, window
from support.figures import scatter
from support.made_up_runs import assemble, made_up_run
from support.tiny_models import byte_tokenizer, save_language_model

ATTACK = """<img src=x onerror=alert(1)>"' onload='alert(2)'<script>$x$</script>"""
LAB_END = 0  # the lab's token that ends a text
LISTS = (
    "same words, different meanings",
    "different words, one meaning",
    "confidently wrong",
    "probe and sampling disagree",
    "judge in doubt",
)


def as_marimo_gives(figure: go.Figure, selection: dict[str, Any]) -> Any:
    """What `mo.ui.plotly` makes of a selection that its front end sends."""
    import marimo as mo

    chart = mo.ui.plotly(figure)
    chart._update(selection)
    return chart.value


def point(trace: int, place: int) -> dict[str, Any]:
    """A point as the front end sends it: not with its customdata."""
    at = {"x": 0.1, "y": 0.2, "curveNumber": trace}
    return at | {"pointNumber": place, "pointIndex": place}


def test_a_click_and_a_box_give_the_question_of_the_last_point() -> None:
    fig = scatter()
    one = as_marimo_gives(fig, {"points": [point(2, 4)], "indices": [4]})
    assert clicked_question(fig, one) == "q9"
    box = {"range": {"x": [-1, 2], "y": [-1, 2]}, "points": [point(1, 0), point(2, 3)]}
    several = as_marimo_gives(fig, {**box, "indices": [0, 3]})
    assert len(several) == 4  # marimo adds the two ends of the line of equality
    assert clicked_question(fig, several) == "q7"
    assert clicked_question(fig, as_marimo_gives(fig, {"points": [], "indices": []})) is None
    predicted = charts.predicted_against_true([0, 1], [1, 0], {}, ["a", "b"], ["?", "!"])
    assert clicked_question(predicted, [point(1, 1)]) == "b"


@pytest.mark.parametrize(
    "value",
    [
        None, {}, "q1", 3, [None], [{}], [[1]], [point(0, 0)], [point(9, 0)], [point(-1, 0)],
        [point(1, 99)], [point(1, -1)], [{"curveNumber": 1}], [{**point(1, 1), "pointIndex": "1"}],
    ],
)  # fmt: skip
def test_what_is_no_point_of_a_question_gives_none(value: object) -> None:
    assert clicked_question(scatter(), value) is None


def test_points_of_other_figures_give_none() -> None:
    heat = charts.layer_position_map(np.eye(2), ["tbg", "answer_last"], [0, 1])
    cell = as_marimo_gives(heat, {"points": [{"x": 0, "y": 0, "z": 1, "curveNumber": 0}]})
    assert cell
    assert clicked_question(heat, [*cell, point(0, 0)]) is None
    hovers = go.Figure(go.Scatter(x=[1], y=[1], customdata=["a hover label"]))
    numbers = go.Figure(go.Scatter(x=[1], y=[1], customdata=[[0.1, 0.2]]))
    assert clicked_question(hovers, [point(0, 0)]) is None
    assert clicked_question(numbers, [point(0, 0)]) is None


def test_a_click_in_a_browser_chooses_the_question(root: Path, tmp_path: Path) -> None:
    notebook = tmp_path / "clicks.py"
    notebook.write_text(
        textwrap.dedent(
            f"""
            import marimo
            app = marimo.App()
            @app.cell
            def _():
                import sys
                sys.path[:0] = [{str(root)!r}, {str(root / "tests")!r}]
                import marimo as mo
                from support.figures import scatter
                from helpers.studies.semantic_entropy.explore import clicked_question
                fig = scatter()
                get, put = mo.state("nothing")
                chart = mo.ui.plotly(fig, on_change=lambda at: put(clicked_question(fig, at)))
                chart
                return get, mo
            @app.cell
            def _(get, mo):
                mo.md(f"chosen: {{get()}}")
            """
        )
    )
    with served("run", notebook) as address, window(900, 700) as opened:
        opened.page.goto(address)
        opened.until("chosen: nothing")
        for trace, place, name in ((1, 1, "q2"), (2, 4, "q9")):
            mark = opened.page.locator(".scatterlayer .trace").nth(trace).locator("path.point")
            box = mark.nth(place).bounding_box()
            x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
            opened.page.mouse.move(x - 9, y - 9)
            opened.page.mouse.move(x, y, steps=3)
            opened.page.locator(".hovertext", has_text=name).wait_for()
            opened.page.wait_for_timeout(150)  # a hand rests; it is not steady, and holds
            opened.page.mouse.down()
            opened.page.mouse.move(x + 3, y)
            opened.page.wait_for_timeout(80)
            opened.page.mouse.up()
            opened.until(f"chosen: {name}", 15)
            opened.page.wait_for_timeout(400)  # sooner, Plotly takes two clicks for a double one


# --- instructive cases ---------------------------------------------------------------------------


def planted(**changes: Any) -> StoredRun:
    """Six test questions of four samples, each an example of one thing; three to train on."""
    texts = {
        "train high": ["1", "2", "3", "4", "1"],
        "train low": ["1", "1", "1", "1", "1"],
        "train also high": ["1", "2", "3", "4", "1"],
        "same words": ["it has 1 leg", "it has 2 leg", "it has 3 leg", "it has 1 leg", "1"],
        "other words": ["1", "2", "cat 3", "dog 4", "1"],
        "paraphrases": ["it is 1", "that makes 1", "there is 1", "1", "1"],
        "wrong": ["7", "7", "7", "7", "7"],
        "probe high": ["1", "1", "1", "1", "1"],
        "probe low": ["1", "2", "3", "4", "1"],
    }
    questions, samples, greedy, clusters = [], [], [], []
    for name, row in texts.items():
        split = "train" if name.startswith("train") else "test"
        questions.append(Question(name, f"{name}?", "#### 1", "1", split, "planted"))
        made = [
            Sample(name, s, text, (1, s + 2), (-0.5, -0.1), (0.05, 1.25), "stop")
            for s, text in zip((0, 1, 2, 3, GREEDY), row, strict=True)
        ]
        samples.append(tuple(made[:4]))
        greedy.append(made[4])
        numbers = [re.findall(r"\d", text)[0] for text in row[:4]]
        clusters.append(tuple(list(dict.fromkeys(numbers)).index(number) for number in numbers))
    judgements = np.full((len(texts), 5, 5, 3), (0.98, 0.01, 0.01), np.float32)
    judgements[:, range(5), range(5)] = (0, 0, 1)
    answers = SampledAnswers(tuple(questions), tuple(samples), tuple(greedy), (), 0)
    run = assemble(answers, tuple(clusters), judgements)
    entropy = run.targets.semantic_entropy
    predicted = entropy.copy()
    predicted[-2:] += (0.9, -0.6)
    return replace(run, predicted={"semantic_entropy": predicted}, **changes)


def ids(run: StoredRun, name: str) -> list[str]:
    """The questions of one list of cases."""
    return [case.question_id for case in cases(run)[name].cases]


def test_cases_are_what_they_claim_and_in_order() -> None:
    run = planted()
    found = cases(run)
    assert tuple(found) == LISTS
    assert ids(run, LISTS[0])[0] == "same words"
    assert "other words" in ids(run, LISTS[0])
    assert ids(run, LISTS[1]) == ["paraphrases"]
    case = found[LISTS[1]].cases[0]
    assert case.values == {
        "semantic entropy (nats)": 0.0,
        "lexical entropy (nats)": round(math.log(4), 3),
    }
    assert ids(run, LISTS[2]) == ["wrong"]
    assert found[LISTS[2]].cases[0].values["most likely answer"] == "7"
    assert ids(run, LISTS[3]) == ["probe high", "probe low"]
    signs = [case.values["predicted − sampled"] for case in found[LISTS[3]].cases]
    assert signs == [0.9, -0.6]
    row = case_rows(found[LISTS[0]])[0]
    assert (row["question_id"], row["question"]) == ("same words", "same words?")
    assert row["semantic entropy (nats)"] == pytest.approx(1.04, abs=0.001)
    for name, part in found.items():
        assert part.lesson
        assert bool(part.cases) != bool(part.empty), name


def test_a_judge_that_contradicts_itself_or_does_not_know_is_in_doubt() -> None:
    run = planted()
    assert ids(run, LISTS[4]) == []
    assert "never contradicts itself" in cases(run)[LISTS[4]].empty
    judged = run.judgements.copy()
    for a, b in ((0, 1), (1, 0), (1, 2), (2, 1)):  # the first and the third stay apart
        judged[3, a, b] = (0.01, 0.01, 0.98)
    judged[4, 0, 1] = (0.3, 0.2, 0.5)
    judged[0] = judged[3]  # a training question is not shown
    # Samples of the same text say nothing of the judge.
    judged[7, 0, 1] = (0.3, 0.2, 0.5)
    doubted = replace(run, judgements=judged)
    assert ids(doubted, LISTS[4]) == ["same words", "other words"]
    broken, unsure = (case.values for case in cases(doubted)[LISTS[4]].cases)
    assert broken["broken triples"] == 1
    assert unsure == {"broken triples": 0, "share of pairs in doubt": round(1 / 12, 3)}


def test_only_test_questions_and_at_most_eight_a_list() -> None:
    run = made_up_run(80)
    noise = np.random.default_rng(1).normal(size=80)
    run = replace(run, predicted={"semantic_entropy": run.targets.semantic_entropy + noise})
    splits = {question.id: question.split for question in run.answers.questions}
    found = cases(replace(run, targets=replace(run.targets, wrong=np.ones(80))))
    for name, part in found.items():
        assert 0 < len(part.cases) <= 8, name
        assert {splits[case.question_id] for case in part.cases} == {"test"}
        assert len({case.question_id for case in part.cases}) == len(part.cases)
    difference = [case.values["predicted − sampled"] for case in found[LISTS[3]].cases]
    assert difference == [*sorted(difference[:4])[::-1], *sorted(difference[4:])]
    assert difference[3] > 0 > difference[4]
    for name, sign in ((LISTS[0], 1), (LISTS[1], -1)):
        gaps = [
            sign * (case.values["lexical entropy (nats)"] - case.values["semantic entropy (nats)"])
            for case in found[name].cases
        ]
        assert np.diff(gaps).min() > -0.002  # the values are rounded
    alike = [case.values["mean ROUGE-L of pairs"] for case in found[LISTS[0]].cases]
    assert alike == sorted(alike, reverse=True)
    assert alike[0] > alike[-1]  # there were enough without a gap to be told apart by it


def test_an_empty_list_says_why() -> None:
    run = planted()
    ungraded = replace(run.targets, wrong=np.full(9, np.nan))
    right = replace(run.targets, wrong=np.zeros(9))
    unsure = replace(run.targets, wrong=(run.targets.semantic_entropy > 1) * 1.0)
    reasons = {
        "can be graded": replace(run, targets=ungraded),
        "is right": replace(run, targets=right),
        "its samples disagree": replace(run, targets=unsure),
    }
    for words, changed in reasons.items():
        assert words in cases(changed)[LISTS[2]].empty
    bare = replace(
        run, predicted={}, judgements=None, uncertainty={}, targets=replace(right, threshold=None)
    )
    found = cases(bare)
    assert "same semantic entropy" in found[LISTS[0]].empty
    assert "not computed" in found[LISTS[1]].empty
    assert "no probe" in found[LISTS[3]].empty
    assert "made-up judge" in found[LISTS[4]].empty


# --- a question's page ---------------------------------------------------------------------------


class Reader(HTMLParser):
    """Every tag and attribute of a page, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags, self.attributes, self.text = Counter(), [], ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags[tag] += 1
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        self.tags[tag] -= tag != "br"

    def handle_data(self, data: str) -> None:
        self.text += data


def hostile() -> StoredRun:
    """A run in which every text that somebody else wrote is an attack."""
    run = planted()
    questions = tuple(
        replace(q, question=ATTACK, answer=ATTACK + "\n", final_answer=ATTACK)
        for q in run.answers.questions
    )
    attacked = [tuple(replace(s, text=ATTACK * 9) for s in row) for row in run.answers.samples]
    greedy = tuple(replace(s, text=ATTACK) for s in run.answers.greedy)
    answers = replace(run.answers, questions=questions, samples=tuple(attacked), greedy=greedy)
    meanings = replace(run.meanings, judge=ATTACK)
    predicted = {"semantic_entropy": run.targets.semantic_entropy + 1, ATTACK: np.zeros(9)}
    return replace(run, answers=answers, meanings=meanings, predicted=predicted)


def test_nothing_that_others_wrote_becomes_markup() -> None:
    run = hostile()
    pages = [
        question_page(run, "same words", lambda ids: [ATTACK] * len(ids)),
        question_page(run, "same words", None, ATTACK),
    ]
    for page in pages:
        reader = Reader(page)
        assert ATTACK[:28] in reader.text
        assert not {"img", "script"} & set(reader.tags)
        names = {name for name, _ in reader.attributes}
        assert names <= {"style", "title", "role", "aria-label"}
    for fig in (
        judge_matrix(run, "same words"),
        judge_matrix(replace(run, judgements=None), "same words"),
    ):
        assert not re.search(r"<(img|script)|\$", json.loads(json.dumps(fig.to_json())))
        assert "&lt;img" in fig.to_json()


def test_the_page_shows_every_sample_once_and_works_the_entropy_out() -> None:
    run = made_up_run(30, 6)
    for i, question in enumerate(run.answers.questions):
        page = question_page(run, question.id)
        reader = Reader(page)
        assert not +reader.tags - Counter(br=99), "a tag is left open"
        groups = explore.by_meaning(run.meanings.clusters[i])
        shares = [int(size) for size in re.findall(r"p = (\d+)/6", reader.text)]
        assert shares == sorted(map(len, groups), reverse=True)
        assert f"{run.targets.semantic_entropy[i]:.3f} nats" in reader.text
        terms = re.search(r"−Σ p ln p = ([\d. +×]+) = ([\d.]+) nats", reader.text)
        added = sum(math.prod(map(float, t.split("×"))) for t in terms[1].split("+"))
        assert added == pytest.approx(float(terms[2]), abs=0.004)
        counted = sum(int(n) for n in re.findall(r"× (\d+) · ", reader.text))
        texts = [sample.text for sample in run.answers.samples[i]]
        assert counted == sum(n for n in Counter(texts).values() if n > 1)


def test_probes_stand_beside_what_was_measured() -> None:
    run = planted()
    ones = np.ones(9)
    predicted = {
        "semantic_entropy": 0.111 * ones,
        "semantic_entropy_mlp_prompt": 0.222 * ones,
        "high_semantic_entropy": 0.333 * ones,
        "wrong_answer_hybrid": 0.444 * ones,
        "of_another_version": 0.555 * ones,
        "wrong_answer": np.nan * ones,
    }
    text = Reader(question_page(replace(run, predicted=predicted), "wrong")).text
    for words in ("0.111", "0.222", "perceptron, prompt only", "0.333", "0.444", "hybrid"):
        assert words in text
    assert "of_another_version 0.555" in text
    assert "undefined" in text
    assert "nan" not in text.lower()
    assert f"low (γ = {run.targets.threshold:.3f})wrong" in text
    assert "no probe was trained on it" in text
    assert "no probe was trained on it" not in question_page(run, "train low")
    assert "no probes (yet)" in question_page(replace(run, predicted={}), "wrong")
    with pytest.raises(UserError, match="no question 'elsewhere'"):
        question_page(run, "elsewhere")


def under_way(run: StoredRun) -> Run:
    """The run as `open_run` opens it before its probes are trained."""
    return Run(
        config=run.config, folder=run.folder, manifest=run.manifest, answers=run.answers,
        meanings=run.meanings, uncertainty=run.uncertainty, skipped={}, judgements=run.judgements,
        targets=run.targets,
    )  # fmt: skip


def test_a_run_under_way_shows_what_there_is() -> None:
    run = under_way(planted())
    page = question_page(run, "wrong")
    assert "no probes (yet)" in page
    assert "Semantic entropy (discrete)" in page
    assert "no probe" in cases(run)[LISTS[3]].empty
    assert cases(run)[LISTS[2]].cases[0].values["semantic entropy (nats)"] == 0


# --- tokens --------------------------------------------------------------------------------------


@dataclass
class Counting:
    """A tokenizer that counts how often it decodes."""

    tokenizer: Any
    calls: int = 0

    def decode(self, ids: list[int], **options: Any) -> str:
        self.calls += 1
        return self.tokenizer.decode(ids, **options)


def test_texts_of_tokens_make_up_the_text_whatever_the_bytes() -> None:
    tokenizer = byte_tokenizer()
    for text in ("Köln 東京 👩‍👩‍👧 naïve", "a", "", "<think>x</think>\n\n é<|end|>", "é" * 40):
        tokens = tokenizer(text)["input_ids"]
        found = token_texts(tokenizer, tokens)
        assert len(found) == len(tokens)
        assert "".join(found) == text
    tokens = tokenizer("é1")["input_ids"]
    assert token_texts(tokenizer, tokens) == ["", "é", "1"]
    torn = tokenizer("aé")["input_ids"][:2]
    assert token_texts(tokenizer, torn) == ["a", "\ufffd"]


def test_texts_of_many_tokens_take_few_decodings_and_are_those_found_one_by_one() -> None:
    tokenizer = byte_tokenizer()
    for text in ("She has 19 apples. " * 40, "naïve 東京 👩‍👩‍👧 " * 30, "é" * 300):
        tokens = tokenizer(text)["input_ids"]
        counting = Counting(tokenizer)
        assert token_texts(counting, tokens) == _by_prefixes(tokenizer, tokens)
        assert counting.calls < 5 * len(tokens)
    counting = Counting(tokenizer)
    token_texts(counting, tokenizer("ab" * 1000)["input_ids"])
    assert counting.calls == 3  # the whole, and the two that there are


def of_the_lab(**config: Any) -> StoredRun:
    """The planted run, with answers that the lab's model could have given."""
    lab = identify("lab")
    tokenizer = load_tokenizer(lab)
    run, samples = planted(), []
    for row, best in zip(run.answers.samples, run.answers.greedy, strict=True):
        made = []
        for sample in (*row, best):
            tokens = (*tokenizer(f" {sample.text} chairs, Köln.")["input_ids"], LAB_END)
            shown = tokenizer.decode(tokens[:-1], skip_special_tokens=False).strip()
            nats = tuple(round(0.3 * place, 3) for place in range(len(tokens)))
            made.append(replace(sample, text=shown, token_ids=tokens, token_entropies=nats))
        samples.append(made)
    answers = replace(
        run.answers,
        samples=tuple(tuple(row[:-1]) for row in samples),
        greedy=tuple(row[-1] for row in samples),
    )
    hashes = {"model_hash": lab.model_hash, "tokenizer_hash": lab.tokenizer_hash}
    manifest = {"config": {"model": "lab"} | config, "hashes": hashes}
    return replace(run, answers=answers, manifest=manifest)


def test_the_labs_tokens_make_up_its_samples() -> None:
    run = of_the_lab()
    decode = run_decoder(run)
    for sample in (*run.answers.greedy, *(s for row in run.answers.samples for s in row)):
        texts = decode(sample.token_ids)
        assert len(texts) == len(sample.token_ids)
        assert "".join(texts).strip() == sample.text + "<|end|>"
        assert " chairs" in texts
        assert "ö" in "".join(texts)
    page, matrix = question_view(run, "wrong")
    for place, nats in enumerate(run.answers.greedy[6].token_entropies, 1):
        assert re.search(rf'title="token {place}: [^"]+, {nats:.3f} nats"', page)
    assert "&lt;|end|&gt;" in page
    assert matrix.data[0].type == "heatmap"
    assert "Click a point" in question_view(run, None)[0]


def test_another_tokenizer_or_none_gives_bars_and_the_reason(tmp_path: Path) -> None:
    folder = save_language_model("gpt2", tmp_path / "other")
    for model, words in (
        (str(folder), "is another than this run used"),
        ("nobody/was-here", "is not on this machine; where it is a hub model, `hf download"),
        ("/nowhere/<b>/model", "is not on this machine"),
    ):
        run = of_the_lab(model=model)
        with pytest.raises(UserError, match=words):
            run_decoder(run)
        page = question_view(run, "wrong")[0]
        assert html.escape(words) in page
        assert "<b>" not in page
        assert 'title="token 2: 0.300 nats"' in page


def test_many_and_long_answers_keep_the_page_small() -> None:
    run = planted()
    long = tuple(
        replace(
            sample,
            text="word " * 4000,
            token_ids=tuple(range(i * 7, i * 7 + 4000)),
            token_entropies=(0.5,) * 3999 + (2.5,),
        )
        for i, sample in enumerate(run.answers.samples[4] * 10)
    )
    answers = replace(
        run.answers, samples=(*run.answers.samples[:4], long, *run.answers.samples[5:])
    )
    clusters = (*run.meanings.clusters[:4], tuple(range(40)), *run.meanings.clusters[5:])
    meanings = replace(run.meanings, clusters=clusters, grades=(None,) * 9)
    many = replace(run, answers=answers, meanings=meanings)
    page = question_page(many, "other words", lambda ids: ["<"] * len(ids))
    assert len(page) < 4e6
    assert "The first 3,400 tokens are left out" in page
    assert "at token 4000" in page
    assert "30 more are left out" in page
    assert ">AN<" in page  # the fortieth meaning


# --- the judge -----------------------------------------------------------------------------------


def test_the_matrix_is_ordered_by_meaning_and_tells_all_three_probabilities() -> None:
    run = made_up_run(12, 5)
    for i, question in enumerate(run.answers.questions):
        fig = judge_matrix(run, question.id)
        groups = explore.by_meaning(run.meanings.clusters[i])
        order = [*(s for group in groups for s in group), 5]
        heat = fig.data[0]
        expected = run.judgements[i][np.ix_(order, order)]
        np.testing.assert_allclose(np.array(heat.z), expected[..., 2], atol=1e-4)
        texts = [s.text for s in (*run.answers.samples[i], run.answers.greedy[i])]
        for a, b in ((0, 1), (2, 5)):
            premise, hypothesis, *said = heat.customdata[a][b]
            assert premise.endswith(texts[order[a]])
            assert hypothesis.endswith(texts[order[b]])
            assert said == pytest.approx(expected[a, b].tolist(), abs=1e-4)
        frames = [(s.x0 + 0.5, s.x1 + 0.5) for s in fig.layout.shapes]
        assert [int(high - low) for low, high in frames] == [*map(len, groups), 1]
        assert fig.layout.height <= 420
        assert len(fig.layout.yaxis.ticktext) == 6


def test_a_matrix_of_many_answers_keeps_its_size_and_few_labels() -> None:
    run = made_up_run(4, 60)
    fig = judge_matrix(run, "q1")
    assert fig.layout.height <= 420
    assert len(fig.to_json()) < 3e6
    assert len(fig.layout.yaxis.ticktext) <= 21
    assert fig.data[0].texttemplate is None
    assert fig.layout.yaxis.ticktext[-1] == "★"


def test_letters_go_on_after_z() -> None:
    assert [html_views.letter(n) for n in (0, 25, 26, 51, 52, 701, 702)] == [
        "A", "Z", "AA", "AZ", "BA", "ZZ", "AAA",
    ]  # fmt: skip
