"""Train uncertainty probes: from questions to an honest evaluation, cell by cell.

uv run probe_training_auto.py                 as a script, on the embedded lab; --help lists flags
uv run marimo edit probe_training_auto.py     as a notebook
uv run marimo run probe_training_auto.py      as an application
uv run marimo export html probe_training_auto.py -o report.html -- --run     as a report
"""

import marimo

__generated_with = "0.25.2"
app = marimo.App(width="medium", app_title="Uncertainty probes")

with app.setup:
    import marimo as mo

    from helpers.app import notebook, plan, report
    from helpers.studies import registry
    from helpers.studies.semantic_entropy import explore, page, views
    from helpers.studies.semantic_entropy.analyses import figures as analysis_figures
    from helpers.studies.semantic_entropy.analyses import tables as analysis_tables
    from helpers.studies.semantic_entropy.analyses.tables import analysis_view
    from helpers.views.showing import problems_explained, show, show_live


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    # What is this model unsure of?

    Ask a language model the same question ten times, with some randomness. If it knows the answer,
    the ten replies say the same thing, perhaps in different words. If it does not, they say
    different things. **Semantic entropy** puts a number on this: group the replies by what they
    *mean*, and take the entropy of how they divide among the groups. It is 0 when all replies mean
    the same, and ln 10 = 2.30 nats when ten replies mean ten different things. Wording does not
    count: "12 apples" and "She has twelve" are one meaning.

    Ten replies cost ten times as much as one. A **probe** is a small linear model that reads the
    same number from the model's hidden states, in the one forward pass that is made anyway. This
    page samples replies, measures semantic entropy, trains probes, and says honestly, on questions
    that no choice has seen and against simple baselines, whether the probes work.
    """)
    return


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    ## What to run

    A preset fills in the settings; every one can be changed. **Run** works in a process of its own:
    this page shows how far it is, it may be closed, and **Stop** keeps what is done. Changing a
    setting starts nothing and takes no result away. Studies of other things, such as the runs of a
    reasoning model, stand under [Further studies](#further-studies) at the end of this page.
    """)
    return


@app.cell
def _():
    config = notebook.asked_config(__file__)
    return (config,)


@app.cell
def _(config):
    get_page, set_page = notebook.initial_page_state(config)
    return get_page, set_page


@app.cell
def _(config):
    preset = notebook.preset_choice(config)
    preset
    return (preset,)


@app.cell
def _(config, preset):
    shown = registry.with_preset(config, preset.value)
    fields = notebook.config_fields(shown)
    fields
    return fields, shown


@app.cell
def _(fields, shown):
    with problems_explained():
        drafted = notebook.draft(fields.value, shown)
    return (drafted,)


@app.cell
def _(drafted, get_page):
    get_page()  # what is stored changes with the run's stages
    show_live(plan.plan_view, drafted)
    return


@app.cell
def _(drafted, get_page, set_page):
    work_button = notebook.work_button(drafted, get_page(), set_page)
    work_button
    return (work_button,)


@app.cell
def _(get_page):
    tick = notebook.ticker(get_page())
    return (tick,)


@app.cell
def _(get_page, set_page, tick):
    notebook.work_progress(get_page(), tick, set_page)
    return


@app.cell
def _(get_page, set_page):
    stored = notebook.run_choice(get_page(), set_page)
    stored
    return (stored,)


@app.cell
def _(config, get_page):
    run = notebook.shown_run(config, get_page())
    return (run,)


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    ## In short

    One number to remember: how well the probe tells questions of high semantic entropy from the
    others, on questions that no choice has seen. An AUROC of 0.5 is guessing, 1 is perfect.
    """)
    return


@app.cell
def _(run):
    show(views.headline, run)
    return


@app.cell
def _(run):
    show(views.high_entropy_figure, run)
    return


@app.cell
def _(run):
    get_question, set_question = page.question_state(run)
    return get_question, set_question


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    ## Questions

    Every question has a reference answer and belongs to one split. Probes are fitted on *train*;
    layer, position and every other choice are made on *validation*; scores are reported on *test*.
    """)
    return


@app.cell
def _(run):
    show(views.questions_table, run.answers.questions)
    return


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    ## Answers

    To each question the model gives K sampled answers, and its most likely one. The random number
    behind a token depends only on the seed, the question, the sample's number and the step, so
    that neither the batch size nor an interruption changes an answer.
    """)
    return


@app.cell
def _(run):
    show(views.answers_table, run.answers)
    return


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    ## Meanings

    A judge says whether two answers mean the same: an entailment model (each must entail the
    other), the similarity of sentence embeddings, or the final answer alone. Each answer is
    compared with the first answer of every meaning found so far.
    """)
    return


@app.cell
def _(run):
    show(views.meanings_table, run.answers, run.meanings)
    return


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    ## Uncertainty

    From the meanings follow the entropies below. The first is what the probes learn to predict;
    the others are what it is compared with.
    """)
    return


@app.cell
def _(run):
    show(views.formula_cards, run)
    return


@app.cell
def _(run):
    show(views.entropy_figure, run)
    return


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    The dashed line, γ, splits high from low semantic entropy; it is the split of the training
    questions that leaves the least variance on either side. Below, a question above the diagonal
    has answers that differ in wording more than in meaning.
    """)
    return


@app.cell
def _(run, set_question):
    lexical = page.clickable(views.lexical_figure, run, set_question)
    lexical
    return (lexical,)


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    ## What if the meanings were found otherwise?

    Entropies rest on choices: which verdicts of the judge count as *the same*, how links between
    answers become groups, how many answers are looked at, and where *high* begins. Change them;
    what follows is computed from the stored verdicts, and nothing stored is changed. *Strict* wants
    each answer to entail the other; a founder is the first answer of a group, with which later ones
    are compared.
    """)
    return


@app.cell
def _(run):
    grouping = page.what_if_choices(run)
    grouping
    return (grouping,)


@app.cell
def _(grouping, run):
    show(page.what_if_page, run, page.what_if(grouping), grouping.value["bins"])
    return


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    Temperature changes the answers themselves, so that it cannot be tried on stored ones: it takes
    a run of its own. Stored runs that differ from this one in temperature alone stand beside it.
    """)
    return


@app.cell
def _(run):
    show(page.temperature_page, run)
    return


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    ## Hidden states

    One forward pass over the exact tokens of the prompt and its most likely answer; only the
    positions below are kept, at every layer.
    """)
    return


@app.cell
def _(run):
    show(views.states_table, run.states)
    return


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    ## Probes

    A ridge regression of semantic entropy, a logistic probe for *high* semantic entropy and one
    for a wrong answer, fitted at every layer and position. The maps show validation scores; the
    framed cell is the one that goes on to the test. A bright map that is bright from the input on
    says that the question's surface is enough, not that the model knows what it does not know.
    """)
    return


@app.cell
def _(run):
    show(views.missing_probes, run.trained)
    return


@app.cell
def _(run):
    show(views.probe_maps, run.trained)
    return


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    Look at any place: the probe is refitted there on *train*, its regularisation chosen on
    *validation*. Choosing the place by its test score would be a leak; the run has chosen by
    validation.
    """)
    return


@app.cell
def _(run):
    place = page.place_choice(run)
    place
    return (place,)


@app.cell
def _(place, run):
    show(page.place_page, run, **place.value)
    return


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    ## Do they work?

    First the number itself: how close the predicted semantic entropy comes to the sampled one.
    *Prompt only* probes read the last token of the prompt, before anything is generated.
    """)
    return


@app.cell
def _(run):
    show(views.regression_table, run)
    return


@app.cell
def _(run, set_question):
    predicted = page.clickable(views.predicted_figure, run, set_question)
    predicted
    return (predicted,)


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    Then the question that matters in use: is this answer one of the uncertain ones? Baselines that
    look at the samples, such as lexical entropy, cost K answers. The probe costs one, the most
    likely one, or none where it reads the prompt alone.
    """)
    return


@app.cell
def _(run):
    show(views.high_entropy_table, run)
    return


@app.cell
def _(run):
    show(views.differences_figure, run)
    return


@app.cell
def _(run):
    show(views.roc_figure, run)
    return


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    Is a probability of 0.8 right eight times in ten? A calibrated probe follows the diagonal.
    """)
    return


@app.cell
def _(run):
    show(views.reliability_figure, run)
    return


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    And does any of it foresee a *wrong* answer? A model can be sure and wrong, so that this is
    another question. The correctness probe was trained for it; the others were not.
    """)
    return


@app.cell
def _(run):
    show(views.wrong_answer_figure, run)
    return


@app.cell
def _(run):
    show(views.wrong_answer_table, run)
    return


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    Every choice has been made by now, so the same maps may be looked at on *test* questions.
    Where the framed cell is not the brightest, validation chose what it could not know better.
    """)
    return


@app.cell
def _(run):
    show(views.test_maps, run)
    return


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    ## What is it worth?

    Semantic entropy costs N answers and a judge; a probe costs one answer, or only a look at the
    prompt. So how many samples is a probe worth? Below is the AUROC for a *wrong answer* (0.5 is
    guessing, 1 is perfect) from N of the K samples, the mean over subsets of them, beside scores
    that take no sample. One answer has one meaning, so semantic entropy begins at 0.5. Where its
    curve crosses a dotted line, sampling has caught up with that probe. Bands and bars say how
    much the number of test questions leaves open.
    """)
    return


@app.cell
def _():
    budget_axis = mo.ui.dropdown(
        {words: axis for axis, words in analysis_figures.AXES.items()},
        value=analysis_figures.AXES["samples"],
        allow_select_none=False,
        label="horizontal axis",
    )
    budget_axis
    return (budget_axis,)


@app.cell
def _(budget_axis, run):
    show(analysis_view, run, "curves", analysis_figures.sample_budget, budget_axis.value)
    return


@app.cell
def _(run):
    show(
        analysis_view, run, "curves", analysis_tables.cost_table,
        folded="What each of these costs",
    )  # fmt: skip
    return


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    Labels cost too: K samples for every training question, or a grade. The band shows how much it
    matters *which* training questions there are; the bar at the end, how much the number of test
    questions leaves open. A curve that still rises at its end asks for more questions. The probe's
    layer and position were chosen with all of them, which flatters the small sizes a little.
    """)
    return


@app.cell
def _(run):
    show(analysis_view, run, "curves", analysis_figures.label_efficiency)
    return


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    Which entropies are called *high* is a choice. Here the probe is trained and tested anew for
    other thresholds γ. Every γ asks another question, so this is no contest for the best one: the
    point is whether the conclusion hangs on it.
    """)
    return


@app.cell
def _(run):
    show(analysis_view, run, "curves", analysis_figures.threshold_sensitivity)
    return


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    A model that may decline need not know everything. Let it answer the least uncertain questions
    first: *coverage* is the share that it answers, *risk* the share of these answers that are
    wrong. The area under the curve (AURC) is the mean risk over all coverages, so lower is better;
    E-AURC takes away the area of a perfect order, which no measure can avoid.
    """)
    return


@app.cell
def _(run):
    show(analysis_view, run, "curves", analysis_figures.risk_coverage)
    return


@app.cell
def _(run):
    show(
        analysis_view, run, "curves", analysis_tables.selective_table,
        folded="Areas, and accuracy where most questions are answered",
    )  # fmt: skip
    return


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    In use it takes a threshold, and the one that looks best on the validation questions is the
    luckiest of many. A *promise* says more: with 95 % confidence over the choice of the validation
    questions, at most so many of the answers given are wrong. Few questions bear no strict
    promise; at most 5 % wrong takes 59 answers without an error. The figure shows what the test
    questions made of each promise, or why there is none.
    """)
    return


@app.cell
def _(run):
    show(analysis_view, run, "curves", analysis_figures.abstention)
    return


@app.cell
def _(run):
    show(
        analysis_view, run, "curves", analysis_tables.policies_table,
        folded="Every measure, and the weaker promise on average",
    )  # fmt: skip
    return


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    ## How firm are the meanings?

    Everything above rests on which answers are taken to mean the same. Here the judge's same
    verdicts are grouped by other rules. Where few questions change and the AUROC stays where it
    was, the rule does not matter; where it moves, a result must name its rule. *Exact text* is the
    rule that needs no judge.
    """)
    return


@app.cell
def _(run):
    show(analysis_view, run, "audit", analysis_figures.cluster_audit)
    return


@app.cell
def _(run):
    show(analysis_view, run, "audit", analysis_tables.audit_words)
    return


@app.cell
def _(run):
    show(
        analysis_view, run, "audit", analysis_tables.audit_table,
        folded="Every rule in numbers",
    )  # fmt: skip
    return


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    ## Tripwires

    A good score can come from a fault. Probes that are refitted to shuffled labels must fall to
    chance; a probe must be able to memorise a small set; and where every prompt ends in the same
    token, a probe on that token's embedding must know nothing. If a tripwire is tripped, believe
    no score above.
    """)
    return


@app.cell
def _(run):
    show(views.tripwires_table, run)
    return


@app.cell
def _(run):
    show(views.shuffled_figure, run)
    return


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    ## Look at the questions

    Numbers are made of answers; read some. Click a point in one of the two scatters above, choose a
    case below, or a question in the table of all test questions.
    """)
    return


@app.cell
def _(run, set_question):
    cases = page.case_choice(run, set_question)
    cases
    return (cases,)


@app.cell
def _(run, set_question):
    browser = page.question_table(run, set_question)
    browser
    return (browser,)


@app.cell
def _(get_question, run):
    show(explore.question_view, run, get_question())
    return


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    ## Ask it something

    One forward pass over the prompt, and the probes say what they expect before a word is answered.
    The interval comes from how far the probe was off on validation questions. *Check by sampling*
    then draws the answers and lets you see whether it was right. A question unlike those it was
    trained on gets a number too; how unlike it is stands beside it.
    """)
    return


@app.cell
def _(run):
    question = page.ask_form(run)
    question
    return (question,)


@app.cell
def _(config, question, run):
    reading = page.reading_of(run, question, config)
    show_live(page.reading_page, run, reading)
    return (reading,)


@app.cell
def _(run):
    check = page.check_button(run)
    check
    return (check,)


@app.cell
def _(check, config, reading, run):
    page.answers_streamed(check.value, run, reading, config)
    return


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    Below, the same probes read every token of the prompt and of the most likely answer. They were
    trained at one place; elsewhere this is an extrapolation, to look at and not to count on.
    """)
    return


@app.cell
def _(config, reading, run):
    show_live(page.answered_page, run, reading, config)
    return


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    ## Two runs side by side

    The same metrics of this run and another. Where both were asked the same test questions, the
    difference is paired: its interval and its p-value are of those questions alone.
    """)
    return


@app.cell
def _(run):
    other = page.other_run(run)
    other
    return (other,)


@app.cell
def _(other, run):
    show_live(page.comparison_page, run, other.value)
    return


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    ## Limits, and larger runs

    - Semantic entropy sees *disagreement*. A model that is wrong in the same way every time has
      an entropy of 0.
    - It is as good as its judge. Read some questions above before you believe the histogram; the
      final-answer judge needs answers that state one.
    - K answers give at most ln K nats, and a small K makes the label itself noisy: no probe can
      predict it better than that noise allows. Raising K samples only the answers that are missing.
    - A probe is bound to its model, prompt and kind of question. Scores on other questions must be
      measured, not assumed; the interval says how much the number of test questions leaves open.
    - With a few hundred questions, intervals are wide. Raise *limit* first, then K.
    - On a GPU raise the batch size until memory is full; when it is too full, the batch is halved
      and the run goes on with the same answers. Hidden states take questions × layers × width ×
      positions × 4 bytes, in memory and on disk.
    - The embedded lab is a small world that was made to be measured quickly. It shows that the
      instrument works, and nothing about large models.
    """)
    return


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    ## The run folder

    Everything above is in the run folder, as Parquet, safetensors and JSON; opening it needs no
    model. `uv run sep score "a question"` asks the saved probes in one forward pass.
    """)
    return


@app.cell
def _(run):
    show(report.provenance_card, run)
    return


@app.cell
def _(run):
    notebook.conclude(run)
    return


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    ## Further studies

    Everything above is one sentence: *sample, label, capture, probe, evaluate*. These studies say
    it of other things than whole answers. Each has runs, settings and results of its own.
    """)
    return


@app.cell
def _():
    load_study = notebook.study_loader()
    return (load_study,)


@app.cell
def _():
    studies = notebook.study_tabs()
    studies
    return (studies,)


@app.cell
def _(load_study, studies):
    study_app = load_study(notebook.opened_study(studies))
    return (study_app,)


@app.cell(expand_output=True)
async def _(config, studies, study_app):
    study = registry.study_config(config, notebook.opened_study(studies))
    await notebook.embedded(study_app, study)
    return


if __name__ == "__main__":
    app.run()
