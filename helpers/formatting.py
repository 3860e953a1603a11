"""Numbers as people read them, in tables, figures, sentences and on the terminal."""

from __future__ import annotations

from datetime import UTC, datetime


def p_value_text(p: float | None, name: str = "") -> str:
    """A p-value with three decimals, with `name` and a sign before it if given; "" for None.

    >>> p_value_text(0.0312), p_value_text(0.0004), p_value_text(0.0312, "p")
    ('0.031', '< 0.001', 'p = 0.031')
    """
    if p is None:
        return ""
    if p < 0.001:
        return f"{name} < 0.001".strip()
    return f"{name} = {p:.3f}" if name else f"{p:.3f}"


def duration_text(seconds: float) -> str:
    """For example `1.4 s`, `14 s`, `3 min 20 s`, `2 h 05 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60:02d} min"


def size_text(n_bytes: int) -> str:
    """Bytes in round numbers; a kB is 1,000 of them.

    >>> size_text(1_460_000_000), size_text(41_700_000), size_text(4_300_000), size_text(900)
    ('1.5 GB', '42 MB', '4.3 MB', '0.9 kB')
    """
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= size or unit == "kB":
            break
    value = n_bytes / size
    return f"{value:,.1f} {unit}" if value < 10 else f"{value:,.0f} {unit}"


def when(seconds: float) -> str:
    """A time as people read it.

    >>> when(0)
    '1970-01-01 00:00 UTC'
    """
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
