"""What a visitor reads while marimo's scripts, some megabytes at first, are on their way."""

from __future__ import annotations

import re

from helpers.serving_layers import App, Message, Receive, Scope, Send

ROOT = b'<div id="root"></div>'
"""Where marimo's page is drawn; what stood there before is then gone."""
_TITLE = re.compile(rb"<title>([^<]*)</title>")


def with_waiting_words(app: App) -> App:
    """Put the page's title and "loading" where the page will be drawn."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != "/":
            return await app(scope, receive, send)
        start: Message = {}

        async def send_with(message: Message) -> None:
            if message["type"] == "http.response.start":
                start.update(message)
                return
            if start and not message.get("more_body"):
                body = _with_words(message.get("body", b""))
                message = {**message, "body": body}
                length = (b"content-length", b"%d" % len(body))
                kept = [pair for pair in start["headers"] if pair[0].lower() != length[0]]
                start["headers"] = [*kept, length]
            if start:
                await send(dict(start))
                start.clear()
            await send(message)

        await app(scope, receive, send_with)

    return answer


def _with_words(page: bytes) -> bytes:
    title = _TITLE.search(page)
    if title is None:
        return page
    # The title is HTML already: it is taken from the page as it stands there.
    words = (
        '<div style="font-family:sans-serif;box-sizing:border-box;width:100%%;max-width:45rem;'
        'margin:4rem auto;padding:0 1rem"><h1 style="font-size:1.8rem">%s</h1><p>Loading…</p>'
        "<noscript>This page needs JavaScript.</noscript></div>"
    ).encode()
    return page.replace(ROOT, ROOT.replace(b"></", b">" + words % title[1] + b"</"), 1)
