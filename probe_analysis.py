"""Look at stored runs of a reasoning model: what probes say at the end of the thinking.

uv run marimo run probe_analysis.py      as a page for visitors; it can only be looked at
uv run marimo edit probe_analysis.py     as a notebook
uv run probe_analysis.py                 prints a summary of the newest run

SEP_OUTPUTS names the folder of the run folders; it is `outputs` where it is not set.
"""

import marimo

__generated_with = "0.25.2"
app = marimo.App(width="medium", app_title="Does the model know?")

with app.setup:
    import marimo as mo

    from helpers.dashboard import data, figures, page
    from helpers.dashboard.address import View
    from helpers.dashboard.filters import apply_filters
    from helpers.dashboard.scores import selection_scores


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    # Does the model know when it is wrong?

    Ask a reasoning model the same question several times. If its answers *mean* different things,
    the question's **semantic entropy** is high: the model is guessing. That takes many runs. A
    **probe** looks at one run only, at the moment its thinking ends, and foretells from the
    model's hidden state whether the answer will be *correct*, or whether the semantic entropy of
    the question is *high*.

    This page shows stored runs, one point a run, and what the probes said of each. Point, box or
    lasso in one figure: the same runs light up in the others, and their texts stand below.
    """)
    return


@app.cell
def _():
    page.glossary()
    return


@app.cell
def _():
    params = page.params()
    listed = data.listed_runs(data.outputs_folder())
    return listed, params


@app.cell
def _(listed, params):
    run_choice = page.run_choice(listed, params)
    run_choice
    return (run_choice,)


@app.cell
def _(listed):
    page.damaged_runs(listed)
    return


@app.cell
def _(listed, run_choice):
    run = page.opened(listed, run_choice.value)
    return (run,)


@app.cell
def _(run):
    page.print_summary(run)
    page.provenance(run)
    return


@app.cell
def _(listed, params, run):
    asked = page.asked_view(params, listed, run)
    page.ignored(params, listed, asked)
    return (asked,)


@app.cell
def _(asked):
    get_chosen, set_chosen = page.selection(asked)
    return get_chosen, set_chosen


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    ## Which runs?

    At first the runs that no choice has seen: *test*, and *ood*, other questions than the probes
    were trained on. Under each filter stands what it and those before it leave.
    """)
    return


@app.cell
def _(asked, run):
    elements = page.filter_elements(run.table, asked.view)
    return (elements,)


@app.cell
def _(elements, run):
    kept = apply_filters(run.table, page.chosen_filters(elements, run.table))
    return (kept,)


@app.cell
def _(elements, kept, run):
    page.filter_panel(elements, kept, run.table)
    return


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    ## Is a doubtful run a wrong one?

    Upwards, what a probe says, as its *margin*: above the dashed line it holds *correct* for the
    likelier. To the right, how uncertain the model was of its next token while it thought. A good
    probe has the colours part at the line; where they part from left to right, token entropy
    alone would do.
    """)
    return


@app.cell
def _(asked):
    probe = page.probe_choice(asked.view)
    probe
    return (probe,)


@app.cell
def _(get_chosen, kept, probe, run, set_chosen):
    _drawn = figures.margin_view(run.table, kept, probe.value, get_chosen())
    margin_plot = page.linked(_drawn, set_chosen)
    page.with_words(_drawn, margin_plot, len(get_chosen()))
    return (margin_plot,)


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    ## Can semantic entropy be read from one run?

    To the right, the semantic entropy that many runs of the question have; upwards, what the probe
    foretold from this run alone. A good probe has low points left of the dashed line and high ones
    right of it. Runs of one question share their place from left to right.
    """)
    return


@app.cell
def _(get_chosen, kept, run, set_chosen):
    _drawn = figures.entropy_view(run.table, kept, get_chosen())
    entropy_plot = page.linked(_drawn, set_chosen)
    page.with_words(_drawn, entropy_plot, len(get_chosen()))
    return (entropy_plot,)


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    ## Where do these runs lie?

    The hidden states at the end of the thinking, laid out once on a plane: near points were near
    before. No filter moves a point.
    """)
    return


@app.cell
def _(asked):
    colour = page.colour_choice(asked.view)
    colour
    return (colour,)


@app.cell
def _(colour, get_chosen, kept, run, set_chosen):
    _drawn = figures.map_view(run.table, kept, colour.value, get_chosen())
    map_plot = page.linked(_drawn, set_chosen)
    page.with_words(_drawn, map_plot, len(get_chosen()))
    return (map_plot,)


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    ## The selected runs
    """)
    return


@app.cell
def _(get_chosen, kept, run):
    page.chosen_details(run, kept, get_chosen())
    return


@app.cell
def _(colour, get_chosen, kept, probe, run, set_chosen):
    clear = page.clear_button(set_chosen)
    _view = View(kept.filters, probe.value, colour.value, get_chosen())
    page.view_link(run, _view, clear)
    return (clear,)


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    ## How well do they tell?

    All runs that the filters leave and that are graded, drawn or not. An AUROC of 0.5 is guessing,
    1 is perfect; the intervals come from resampling whole questions. The semantic-entropy probe was
    not trained for this: here, high semantic entropy stands for *wrong*.
    """)
    return


@app.cell
def _(kept, run):
    page.caution_box(run, kept)
    return


@app.cell
def _(kept, run):
    scores = selection_scores(run, kept.rows)
    return (scores,)


@app.cell
def _(scores):
    page.with_words(figures.roc_view(scores))
    return


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    Who may stay silent when in doubt makes fewer mistakes. From right to left the least certain
    runs are left out; the lower the curve falls, the better the doubts were placed.
    """)
    return


@app.cell
def _(scores):
    page.with_words(figures.risk_view(scores))
    return


@app.cell
def _(run):
    page.stored_scores(run)
    return


if __name__ == "__main__":
    app.run()
