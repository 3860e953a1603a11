"""How sure a model was of each token of its answers, as HTML: texts on a tint, or bars.

What a colour says stands there in numbers too.
"""

from __future__ import annotations

from collections.abc import Sequence

from helpers.figure_style import VERMILLION
from helpers.html_parts import (
    LINE,
    MUTED,
    WRAP,
    counted,
    folded,
    letter,
    paragraph,
    safe,
    small_print,
)
from helpers.open_run import AnyRun
from helpers.sampling import Sample
from helpers.token_texts import Decode

SURE, UNSURE = 0.1, 2.0
"""Nats: below the first a token's entropy is not written out; from the second on, full colour."""
MOST_TOKENS, MOST_IN_ALL = 600, 6_000
"""Tokens shown of one answer, and of all samples: a page that marimo shows has a largest size."""

_TOKEN = "display:inline-block;text-align:center;margin-right:1px"
_UNDER = f"display:block;font-size:0.68rem;line-height:1;{MUTED}"


def token_legend(decode: Decode | None, no_decode: str) -> str:
    """What the colours, or the bars, mean."""
    meaning = "the entropy of the model’s distribution over all tokens at its place, in nats"
    if decode is None:
        why = f" ({no_decode})" if no_decode else ""
        return small_print(
            f"Each bar is one token, in their order, and {meaning}. The tokens’ texts are not "
            f"shown: that needs the model’s tokenizer{why}."
        )
    scale = "".join(
        f'<span style="padding:0 0.5em;{_tint(nats)}">{nats:g}</span>'
        for nats in (0.0, 0.5, 1.0, 1.5, UNSURE)
    )
    words = f"Below a token stands {meaning}, where it is {SURE:g} or more. Its colour:"
    return f'{small_print(words)}<div style="font-size:0.8rem">{scale} nats and more</div>'


def tokens(title: str, sample: Sample, decode: Decode | None) -> str:
    """The tokens of one answer, or its last ones where there are too many."""
    left_out = max(0, len(sample.token_ids) - MOST_TOKENS)
    entropies, ids = sample.token_entropies[left_out:], sample.token_ids[left_out:]
    if not entropies:
        return paragraph(f"{title}: no token was generated.")
    most = max(range(len(entropies)), key=entropies.__getitem__)
    label = (
        f"{title}: {counted(len(entropies), 'token')}, the highest entropy is "
        f"{entropies[most]:.2f} nats at token {left_out + most + 1}"
    )
    note = f". The first {left_out:,} tokens are left out" if left_out else ""
    if decode is None:
        role, body = "img", _bars(entropies, left_out)
    else:
        role, body = "group", _coloured(decode(ids), entropies, left_out)
    return (
        f'<div style="margin:0.5rem 0">{small_print(label + note)}'
        f'<div role="{role}" aria-label="{safe(label)}">{body}</div></div>'
    )


def _coloured(texts: Sequence[str], entropies: Sequence[float], before: int) -> str:
    """Tokens as text on a tint, with the entropy of unsure ones written below."""
    spans = []
    for place, (text, nats) in enumerate(zip(texts, entropies, strict=True), before + 1):
        blank = "␣" * len(text) if text.strip(" ") == "" else text
        words = blank.replace("\n", "↵") or "·"
        tip = f"token {place}: {words if text else 'a part of a character'}, {nats:.3f} nats"
        number, room = (f"{nats:.1f}", ";min-width:1.3rem") if nats >= SURE else ("&nbsp;", "")
        spans.append(
            f'<span title="{safe(tip)}" style="{_TOKEN}{room}">'
            f'<span style="{WRAP};{_tint(nats)}">{safe(words)}</span>'
            f'<span style="{_UNDER}">{number}</span></span>' + "<br>" * text.count("\n")
        )
    return f'<div style="line-height:1.35">{"".join(spans)}</div>'


def _bars(entropies: Sequence[float], before: int) -> str:
    """Entropies as bars in the order of the tokens, on a scale from 0 to the highest."""
    top = max(*entropies, SURE)
    bars = "".join(
        f'<div title="token {place}: {nats:.3f} nats" style="flex:0 1 12px;min-width:1px;'
        f'height:{max(2.0, 100 * nats / top):.0f}%;background:{VERMILLION}"></div>'
        for place, nats in enumerate(entropies, before + 1)
    )
    ends = f"<span>{top:.2f}</span><span>0</span>"
    return (
        f'<div style="display:flex;gap:0.5rem"><div style="{MUTED};font-size:0.75rem;display:flex;'
        f'flex-direction:column;justify-content:space-between;text-align:right">{ends}</div>'
        f'<div style="display:flex;gap:1px;align-items:flex-end;height:48px;flex:1;'
        f'border-bottom:{LINE}">{bars}</div></div>'
    )


def sample_tokens(
    run: AnyRun, i: int, groups: Sequence[Sequence[int]], decode: Decode | None
) -> str:
    """The tokens of every different sample, folded, in the order of the meanings."""
    left, parts, skipped = MOST_IN_ALL, [], 0
    seen: set[tuple[int, ...]] = set()
    for g, group in enumerate(groups):
        for s in group:
            sample = run.answers.samples[i][s]
            cost = min(len(sample.token_ids), MOST_TOKENS)
            if sample.token_ids in seen:
                continue
            seen.add(sample.token_ids)
            if cost > left:
                skipped += 1
                continue
            left -= cost
            parts.append(tokens(f"{letter(g)}, sample {s + 1}", sample, decode))
    if skipped:
        parts.append(paragraph(f"{skipped} more are left out: the page would be too long."))
    return folded(f"The samples’ tokens ({len(seen)} different ones)", "".join(parts))


def _tint(nats: float) -> str:
    """A background that grows stronger with entropy."""
    return f"background:rgba(213,94,0,{0.7 * min(max(nats, 0.0) / UNSURE, 1.0):.2f})"
