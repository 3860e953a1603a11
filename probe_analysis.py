"""Look at stored runs of any study: what probes said of each row, and how well they tell.

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
    from helpers.dashboard.data import selection_scores
    from helpers.dashboard.filters import View, apply_filters


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
    page.introduction(run)
    return


@app.cell
def _(run):
    page.glossary(run)
    return


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
    ## Which ones?

    At first those that no choice has seen. Under each filter stands what it and those before it
    leave.
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
    ## Does a probe tell them apart?

    Upwards, what a probe says, as its *margin*: above the dashed line it holds for the likelier
    what it foretells. To the right, a number that is known without a probe. A good probe has the
    colours part at the line; where they part from left to right, that number alone would do.
    """)
    return


@app.cell
def _(asked, run):
    label = page.label_choice(run.table.about, asked.view)
    probe = page.probe_choice(run.table.about, asked.view)
    mo.hstack([label, probe], justify="start", wrap=True)
    return label, probe


@app.cell
def _(get_chosen, kept, label, probe, run, set_chosen):
    _drawn = figures.margin_view(run.table, kept, probe.value, label.value, get_chosen())
    margin_plot = page.linked(_drawn, set_chosen)
    page.with_words(_drawn, margin_plot, page.selected_words(run, get_chosen()))
    return (margin_plot,)


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    ## Can a measured number be foretold?

    To the right, the number that was measured; upwards, the probability that a probe gave of its
    being above the dashed line. A good probe has low points left of the line and high ones right
    of it.
    """)
    return


@app.cell
def _(get_chosen, kept, label, run, set_chosen):
    _drawn = figures.threshold_view(run.table, kept, label.value, get_chosen())
    threshold_plot = page.linked(_drawn, set_chosen)
    page.with_words(_drawn, threshold_plot, page.selected_words(run, get_chosen()))
    return (threshold_plot,)


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    ## Where do they lie?

    The hidden states, laid out once on a plane: near points were near before. No filter moves a
    point.
    """)
    return


@app.cell
def _(asked, run):
    colour = page.colour_choice(run.table.about, asked.view)
    colour
    return (colour,)


@app.cell
def _(colour, get_chosen, kept, run, set_chosen):
    _drawn = figures.map_view(run.table, kept, colour.value, get_chosen())
    map_plot = page.linked(_drawn, set_chosen)
    page.with_words(_drawn, map_plot, page.selected_words(run, get_chosen()))
    return (map_plot,)


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    ## The selected ones
    """)
    return


@app.cell
def _(get_chosen, kept, run):
    page.chosen_details(run, kept, get_chosen())
    return


@app.cell
def _(colour, get_chosen, kept, label, probe, run, set_chosen):
    clear = page.clear_button(set_chosen)
    _view = View(kept.filters, label.value, probe.value, colour.value, get_chosen())
    page.view_link(run, _view, clear)
    return (clear,)


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    ## How well do they tell?

    All that the filters leave and that are graded, drawn or not. An AUROC of 0.5 is guessing, 1 is
    perfect. A probe that was trained for another label counts the other way where that label
    speaks against this one.
    """)
    return


@app.cell
def _(kept, label, run):
    page.caution_box(run, kept, label.value)
    return


@app.cell
def _(kept, label, run):
    scores = selection_scores(run, kept.rows, label.value)
    return (scores,)


@app.cell
def _(scores):
    page.with_words(figures.roc_view(scores))
    return


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    Who may stay silent when in doubt makes fewer mistakes. From right to left the least certain
    are left out; the lower the curve falls, the better the doubts were placed.
    """)
    return


@app.cell
def _(scores):
    page.with_words(figures.risk_view(scores))
    return


@app.cell
def _(label, run):
    page.stored_scores(run, label.value)
    return


if __name__ == "__main__":
    app.run()
