"""The security headers of every answer, and who may show the page in an iframe."""

from __future__ import annotations

import base64
import hashlib
import re

from helpers.errors import UserError
from helpers.serving_layers import YEAR, App, Message, Receive, Scope, Send

FRAME_VARIABLE = "SEP_FRAME_ANCESTORS"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_ORIGIN = re.compile(rf"https?://(?:\*\.)?{_LABEL}(?:\.{_LABEL})*(?::\d{{1,5}})?")
_INLINE = re.compile(r"<script(?![^>]*\ssrc=)[^>]*>(.*?)</script>", re.DOTALL | re.IGNORECASE)


def frame_ancestors(value: str) -> str:
    """The sources of a `frame-ancestors` directive from the origins a person wrote.

    Empty: `'self'`, so that no other site frames the page. `*` allows every site and `none` not
    even this one; otherwise origins such as `https://example.org` or `https://*.example.org`,
    separated by spaces. Raises UserError for anything else: the value becomes part of a header.
    """
    words = value.split(" ")
    words = [word for word in words if word]
    if words in (["*"], ["none"]):
        return "*" if words == ["*"] else "'none'"
    for word in words:
        if word != "self" and not _ORIGIN.fullmatch(word):
            raise UserError(
                f"{FRAME_VARIABLE}={value!r}: {word!r} is no origin. Give origins separated by "
                "spaces, such as 'https://example.org https://*.example.com' (no path, no quotes, "
                "no comma), or * alone for every site, or none alone for no site."
            )
    return " ".join(["'self'", *dict.fromkeys(word for word in words if word != "self")])


def with_headers(app: App, ancestors: str) -> App:
    """Set the security headers of every answer; `ancestors` comes from `frame_ancestors`.

    A page runs its own scripts and the inline ones that marimo wrote into it, known by their
    hashes: one that came in with a model's text is not run. Evaluating is allowed because
    Plotly's WebGL compiles what it draws. Every connection stays on this origin.
    """
    ours = {
        b"x-content-type-options": b"nosniff",
        b"referrer-policy": b"strict-origin-when-cross-origin",
        b"permissions-policy": b"camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    }
    # Where it disagrees with frame-ancestors, which every browser follows now, it only confuses.
    replaced = {*ours, b"content-security-policy", b"x-frame-options"}

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await app(scope, receive, send)
        added = list(ours.items())
        if _over_https(scope):
            added.append((b"strict-transport-security", b"max-age=%d" % YEAR))
        start: Message | None = None

        async def send_with(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                start = message
                return
            if start is not None:
                kept = [pair for pair in start["headers"] if pair[0].lower() not in replaced]
                policy = _policy(ancestors, _inline_scripts(start, message))
                policies = [(b"content-security-policy", policy.encode())]
                await send({**start, "headers": kept + added + policies})
                start = None
            await send(message)

        await app(_unconditional(scope), receive, send_with)

    return answer


def _policy(ancestors: str, scripts: list[str]) -> str:
    hashes = "".join(f" 'sha256-{_digest(script)}'" for script in scripts)
    return "; ".join(
        [
            "default-src 'self'",
            f"script-src 'self' 'unsafe-eval'{hashes}",
            "style-src 'self' 'unsafe-inline'",
            "img-src 'self' data: blob:",
            "media-src 'self' data: blob:",
            "font-src 'self' data:",
            "worker-src 'self' blob:",
            "frame-src 'self'",
            "object-src 'none'",
            "base-uri 'self'",
            "form-action 'self'",
            f"frame-ancestors {ancestors}",
        ]
    )


def _inline_scripts(start: Message, body: Message) -> list[str]:
    """The scripts written into a page; none for other answers, nor for one sent in pieces."""
    kind = dict(start["headers"]).get(b"content-type", b"")
    if not kind.startswith(b"text/html") or body.get("more_body"):
        return []
    return _INLINE.findall(body.get("body", b"").decode())


def _digest(script: str) -> str:
    # A browser hashes the text as it parsed it, with every line end as \n.
    text = script.replace("\r\n", "\n").replace("\r", "\n")
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _unconditional(scope: Scope) -> Scope:
    """The request for the page without `if-none-match`: "not modified" would bring no hashes."""
    if scope["path"] != "/":
        return scope
    return {**scope, "headers": [h for h in scope["headers"] if h[0] != b"if-none-match"]}


def _over_https(scope: Scope) -> bool:
    sent = dict(scope["headers"]).get(b"x-forwarded-proto", b"")
    return scope.get("scheme") == "https" or sent.split(b",")[0].strip() == b"https"
