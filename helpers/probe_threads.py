"""How many threads the linear algebra of a probe is worth."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import cache
from importlib.util import find_spec
from typing import Any

SMALL = 1024
"""The smaller side of a matrix of features up to which one thread is no slower than two.

On two cores, a ridge and a logistic path took with two threads, of the time with one: 3.3 and 1.8
(400 rows of width 160), 1.3 and 1.4 (400 x 2,560), 4.8 and 2.2 (2,000 x 160), 1.3 and 0.9
(2,000 x 1,024), 0.6 and 0.6 (2,000 x 2,560).
"""


def one_thread_if_small(rows: int, width: int) -> AbstractContextManager[Any]:
    """Within this context BLAS uses one thread, if features [rows, width] are small.

    A fit makes many small products, and threads that wait for each other take longer than those.
    The limit holds for the whole process.
    """
    blas = _blas()
    if blas is None or min(rows, width) > SMALL:
        return nullcontext()
    return blas.limit(limits=1, user_api="blas")


@cache
def _blas() -> Any:
    """The BLAS libraries of numpy and scipy; None in the small install, which cannot set them."""
    if find_spec("threadpoolctl") is None:
        return None
    import scipy.linalg  # noqa: F401  (only libraries that are loaded by now are found)
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()
