"""Holm's correction of many p-values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.evaluation.resampling import holm


def test_holm_equals_the_textbook_procedure() -> None:
    assert holm([]).tolist() == []
    assert holm([0.2]).tolist() == [0.2]
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.9, 0.5]), [1.0, 1.0])
    with pytest.raises(ValueError, match="row 1 is nan"):
        holm([0.1, np.nan])
    with pytest.raises(ValueError, match=r"row 0 is 1\.5"):
        holm([1.5])


@settings(max_examples=60)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.sampled_from([0.01, 0.05, 0.3]))
def test_holm_rejects_what_the_step_down_procedure_rejects(
    values: list[float], alpha: float
) -> None:
    rejected, ordered = set(), sorted(range(len(values)), key=lambda i: values[i])
    for step, i in enumerate(ordered):
        if values[i] * (len(values) - step) > alpha:
            break
        rejected.add(i)
    corrected = holm(values)
    assert {i for i, p in enumerate(corrected) if p <= alpha} == rejected
    assert (corrected >= np.array(values) - 1e-15).all()
