"""Uncertainty signals of reasoning models: is this run right, and does the model know?

The same as a script (`uv run` and this file; --help lists flags), in an editor (`uv run marimo
edit`), as an application (`uv run marimo run`), and as a report (`uv run sep report`).
"""

import marimo

__generated_with = "0.25.2"
app = marimo.App(width="medium", app_title="Uncertainty signals of reasoning models")

with app.setup:
    import marimo as mo

    from helpers.app import notebook, plan, report
    from helpers.studies import registry
    from helpers.studies.reasoning import views
    from helpers.studies.semantic_entropy import views as entropy_views
    from helpers.views.showing import problems_explained, show, show_live


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    # Does a reasoning model know when it is wrong?

    A reasoning model thinks before it answers: it writes `<think>`, as much text as it wants,
    `</think>`, and only then an answer. Here it is asked every question many times. Each time is a
    **run**, with thinking and an answer of its own. Three questions follow.

    - **Is this run right?** A reference answer says so, afterwards.
    - **Does the model know?** Where its runs give different answers it is unsure. *Semantic
      entropy* measures that: 0 where all runs agree, at most ln K nats for K runs. It takes many
      runs.
    - **Can one run tell?** At `</think>` the thinking is over and no word of the answer is written.
      A **probe** is a small linear model that reads the model's hidden state at this one token.

    Three probes are trained. The *correctness probe* foretells whether the run is right, the
    *semantic-entropy probe* whether the question's semantic entropy is high. The third one, on the
    *thinking entropy*, is a baseline: it sees one number, how unsure of its next token the model
    was on average while it thought. A *combination* weighs the three. All are tested on new
    questions of the same kind (*in distribution*), and on questions of another kind, which no
    choice has seen (*out of distribution*).
    """)
    return


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    ## What to run

    A preset fills in the settings; every one can be changed. **Run** works in a process of its own:
    this page shows how far it is, it may be closed, and **Stop** keeps what is done.
    """)
    return


@app.cell
def _():
    config = notebook.asked_config(__file__, "lab-think")
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
    ## The runs

    A run that is cut off by the token limit, or that never closes its thinking, has no state at
    `</think>` and no answer to grade: it is left out, by rule and before anything is scored. That
    is not harmless, as such runs are often the hard ones; so they are counted here.
    """)
    return


@app.cell
def _(run):
    show(views.counts_table, run)
    return


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    ## Is this run right?

    Of a correct and an incorrect run, which one gets the higher score? The **AUROC** is how often
    it is the correct one: 0.5 is guessing, 1 is perfect. The last two rows are no competition for a
    probe. They look at the question's other runs, as many times the work, and show what there is
    to be known.
    """)
    return


@app.cell
def _(run):
    scored = notebook.when_scored(run)
    return (scored,)


@app.cell
def _(scored):
    show(views.headline, scored)
    return


@app.cell
def _(scored):
    show(views.scores_page, scored)
    return


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    A probe can score well by telling hard *questions* from easy ones: then all runs of a question
    get much the same score, the right ones and the wrong ones. So here only runs of one question
    are compared with each other. The semantic entropy of the question, which all its runs share,
    must fall to 0.5. Questions whose runs are all correct, or all incorrect, say nothing here, and
    often few are left.
    """)
    return


@app.cell
def _(scored):
    show(views.within_page, scored)
    return


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    Intervals that overlap may still hide a difference, because both scores are of the same runs.
    Here each pair is compared run by run. An interval that holds 0 is no evidence of a difference.
    """)
    return


@app.cell
def _(scored):
    show(views.differences_page, scored)
    return


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    ### What these numbers mean

    - A correctness probe above the *thinking entropy* reads something at `</think>` that the
      model's token probabilities did not show while it thought. At the level of the baseline it is
      an expensive way to take a mean.
    - A *semantic-entropy probe* that tells right from wrong shows that the model is wrong where it
      is unsure. A model that is sure and wrong, in the same way every time, has a semantic entropy
      of 0: no probe of uncertainty finds it.
    - A score that falls *out of distribution* rested on the kind of question. One that stays has
      more to do with the model.
    - A probe that falls to chance within a question knows which *questions* are hard, and nothing
      of this run. That can be useful, and a look at the question may be enough for it.
    - Runs of one question are alike. Intervals and p-values therefore count questions, not runs.
    """)
    return


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    ## Where is it to be read?

    One probe a layer was fitted on *train*, and *validation* chose the layer. The other two lines
    are for looking at only: choosing the layer by them would be a leak. At layer 0 the state is
    little more than the token `</think>` itself, which is the same in every run.
    """)
    return


@app.cell(expand_output=True)
def _(scored):
    show(views.layers_page, scored)
    return


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    ## The trade-off

    How many of the correct runs are recognised (upwards), when how many of the incorrect ones are
    taken for correct (to the right)?
    """)
    return


@app.cell
def _(scored):
    show(views.roc_page, scored)
    return


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    ## Can a probability be taken at its word?

    Of the runs that are given 0.8, eight in ten should be correct: then the dots lie on the
    diagonal. Probabilities were calibrated on *validation*, which is in distribution; elsewhere
    they are a hope. Larger dots are of more runs, bars are 95 % intervals.
    """)
    return


@app.cell
def _():
    of_probe = views.predictor_choice()
    of_probe
    return (of_probe,)


@app.cell
def _(of_probe, scored):
    show(views.calibration_page, scored, of_probe.value)
    return


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    What is given to the runs that turn out right, and what to those that turn out wrong?
    """)
    return


@app.cell
def _(scored):
    show(views.confidence_page, scored)
    return


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    ## Keeping only the surest runs

    A run that looks wrong can be thrown away, or run again. *Coverage* is the share of runs that is
    kept, *risk* the share of incorrect ones among them. A curve that falls to the left says that
    the surest runs are the right ones.
    """)
    return


@app.cell
def _(scored):
    show(views.risk_page, scored)
    return


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    ## High semantic entropy

    What the second probe was trained for: is the semantic entropy of this *question* high? All runs
    of a question share that label, and the probe sees one of them. Where *high* begins is a choice;
    two thresholds show how much hangs on it.
    """)
    return


@app.cell
def _(scored):
    show(views.entropy_page, scored)
    return


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    ## Tripwires

    A good score can come from a fault. Probes that are refitted to shuffled labels must fall to
    chance; a probe must be able to memorise a small set; and a probe on the token `</think>`
    itself, which is the same in every run, must know nothing. If a tripwire is tripped, believe no
    score above.
    """)
    return


@app.cell
def _(scored):
    show(entropy_views.tripwires_table, scored)
    return


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    ## Notes on these scores
    """)
    return


@app.cell
def _(scored):
    show(views.notes_view, scored)
    return


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    ## Look at single runs

    Numbers are made of runs; read some. The dashboard shows every run with its question, thinking
    and answer, and what each probe said of it. It needs neither the model nor a GPU.
    """)
    return


@app.cell
def _(run):
    show(views.explore_view, run)
    return


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    ## The run folder

    Everything above is in the run folder, as Parquet, safetensors and JSON; opening it needs no
    model.
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


if __name__ == "__main__":
    app.run()
