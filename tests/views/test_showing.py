"""What `show` makes of a view: in a notebook, in a report, and where nobody looks."""

from __future__ import annotations

import plotly.graph_objects as go
import pytest

from helpers.errors import UserError
from helpers.views import showing
from helpers.views.showing import LIVE, Shown, reporting, show, show_live


def test_show_displays_texts_figures_lists_and_problems(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> str:
        raise UserError("no <judge>")

    assert show(lambda: 1 / 0) is None  # nothing is built where nobody looks, as in a script
    monkeypatch.setattr(showing, "in_notebook", lambda: True)
    figure = go.Figure()
    assert show(lambda: figure) is figure
    assert show(lambda: "<b>x</b>").text == "<b>x</b>"
    assert "no &lt;judge&gt;" in show(missing).text
    assert "<b>x</b>" in show(lambda: ["<b>x</b>", figure, None]).text
    with reporting():
        assert show(lambda: ["<b>x</b>", figure, None]) == Shown(("<b>x</b>", figure))
        assert show_live(lambda: "<b>x</b>") is LIVE
        with pytest.raises(TypeError, match="dict"):
            show(lambda: {"a": 1})
    assert not showing.in_report()
