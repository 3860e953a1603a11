"""Requests to an endpoint: asked again while that may help, explained when it does not."""

from __future__ import annotations

import json
import random
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

from helpers.backends.endpoint_address import Address
from helpers.backends.endpoint_replies import BadReply, error_message
from helpers.errors import UserError
from helpers.hub_client import LATER, first_line

T = TypeVar("T")
KEPT = "; the same command asks only for what is missing"


@dataclass(frozen=True)
class Patience:
    """How long an endpoint is waited for; seconds."""

    connect: float = 10.0
    read: float = 1800.0
    """Without a byte: an answer is sent when it is finished, and may have waited in a queue."""
    tries: int = 8
    slow_tries: int = 2
    """Where each try takes `read` seconds, or nobody has ever answered."""
    first_wait: float = 1.0
    """Before the second try; doubled before each further one, give or take half of it."""
    longest_wait: float = 60.0
    longest_asked: float = 600.0
    """A server that asks to come back later than this is not waited for."""


@dataclass(frozen=True)
class Refused:
    """A status that asking again does not change."""

    status: int
    message: str
    """The server's own words, cleaned."""


@dataclass(frozen=True)
class _Trouble:
    """Why a try gave nothing, and whether another one may."""

    what: str
    remedy: str
    tries: int
    wait: float | None = None
    """Seconds that the server asks for."""
    status: int = 0
    """HTTP status, where that is the trouble."""


class Stopped(Exception):
    """The caller wants no more answers."""


@dataclass(eq=False)
class Line:
    """An open client of one endpoint, shared by threads."""

    client: Any
    address: Address
    patience: Patience
    stopped: threading.Event = field(default_factory=threading.Event)
    reached: bool = False
    """Whether the endpoint has answered anything yet."""
    warned: set[str] = field(default_factory=set)
    lock: Any = field(default_factory=threading.RLock)
    """Around what threads share: the session, and tokenizers, which bear one use at a time."""

    def warn_once(self, kind: str, text: str) -> None:
        """Warn, unless there was a warning of this kind."""
        with self.lock:
            if kind in self.warned:
                return
            self.warned.add(kind)
        warnings.warn(f"{self.address.shown}: {text}", stacklevel=2)


def open_line(address: Address, patience: Patience, requests_at_once: int) -> Line:
    """A client for so many requests at a time; close `line.client` when done."""
    import httpx

    headers = {"Authorization": f"Bearer {address.key}"} if address.key else {}
    client = httpx.Client(
        headers=headers,
        auth=address.login,
        timeout=httpx.Timeout(patience.read, connect=patience.connect),
        limits=httpx.Limits(max_connections=requests_at_once + 1),
        trust_env=not address.is_local,
        follow_redirects=False,  # a key goes to the host it was given for
    )
    return Line(client, address, patience)


def send(
    line: Line, path: str, body: dict | None, read: Callable[[Any], T], *, needed: bool = True
) -> T | Refused:
    """POST a body (or GET) and read the answer's JSON; retried while that may help.

    `read` may raise `BadReply`. A status that means "later" is a refusal where the answer is not
    `needed`. Raises `UserError` when trouble persists, `Stopped` when the
    caller has gone.
    """
    tried = 0
    while True:
        if line.stopped.is_set():
            raise Stopped
        answer = _try(line, path, body, read)
        if isinstance(answer, _Trouble) and answer.status and not needed:
            return Refused(answer.status, answer.what)
        if not isinstance(answer, _Trouble):
            return answer
        tried += 1
        if tried >= answer.tries or (answer.wait or 0) > line.patience.longest_asked:
            raise UserError(_persistent(line, answer, tried))
        if not line.stopped.is_set():  # what breaks off then is our own doing
            line.warn_once(answer.what, f"{answer.what}; trying again")
        if line.stopped.wait(_wait(line.patience, tried, answer.wait)):
            raise Stopped


def _try(
    line: Line, path: str, body: dict | None, read: Callable[[Any], T]
) -> T | Refused | _Trouble:
    import httpx

    address, patience = line.address, line.patience
    try:
        response = line.client.request("POST" if body else "GET", address.at(path), json=body)
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        tries = patience.tries if line.reached else patience.slow_tries
        what = f"no connection ({address.clean(first_line(error))})"
        return _Trouble(what, "start the server, or correct --endpoint", tries)
    except httpx.TimeoutException:
        what = f"no answer within {patience.read:g} s"
        remedy = "lower --requests-at-once or --max-new-tokens, or look at the server's messages"
        return _Trouble(what, remedy, patience.slow_tries)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        what = f"the connection broke off ({address.clean(first_line(error))})"
        return _Trouble(what, "look at the server's messages and the network", patience.tries)
    line.reached = True
    return _judge(line, response, read)


def _judge(line: Line, response: Any, read: Callable[[Any], T]) -> T | Refused | _Trouble:
    """What a response comes to, by its status."""
    address, status = line.address, response.status_code
    try:
        payload = response.json()
    except (json.JSONDecodeError, UnicodeDecodeError):
        payload = None
    said = address.clean(error_message(payload, response.text))
    if response.is_success:
        try:
            return read(payload)
        except BadReply as error:
            what = f"the reply is not one of a completions endpoint: {address.clean(str(error))}"
            remedy = "check that --endpoint is OpenAI-compatible and ends in /v1"
            return _Trouble(what, remedy, line.patience.tries)
    if response.is_redirect:
        raise UserError(
            f"{address.shown} sends requests on to another address "
            f"({address.clean(response.headers.get('location', ''))}), which keys are not sent "
            "to; give that address as --endpoint"
        )
    if status in (401, 403):
        raise UserError(_no_entry(address, status, said))
    if status in LATER or status >= 500 or status == 425:
        kind = "too many requests" if status == 429 else "out of order"
        remedy = (
            "lower --requests-at-once, or check the account's limits"
            if status == 429
            else "look at the server's messages, or try later"
        )
        what = f"{kind} (HTTP {status}{': ' + said if said else ''})"
        return _Trouble(what, remedy, line.patience.tries, _asked_wait(response.headers), status)
    return Refused(status, said)


def _no_entry(address: Address, status: int, said: str) -> str:
    words = f"{address.shown} lets nobody in (HTTP {status}{': ' + said if said else ''}): "
    if address.key:
        return words + f"it does not take the key in {address.key_variable}; set the right one"
    variable = address.key_variable or "OPENAI_API_KEY (and --api-key-variable)"
    return words + f"it wants a key; set the environment variable {variable}"


def _persistent(line: Line, trouble: _Trouble, tried: int) -> str:
    after = f", after {tried} tries" if tried > 1 else ""
    if trouble.wait and trouble.wait > line.patience.longest_asked:
        after = f"; it asks to come back in {trouble.wait:,.0f} s"
    return f"{line.address.shown}: {trouble.what}{after}; {trouble.remedy}{KEPT}"


def _asked_wait(headers: Any) -> float | None:
    """Seconds of a Retry-After header, which holds seconds or a date (RFC 9110, 10.2.3)."""
    value = headers.get("retry-after", "").strip()
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        when = parsedate_to_datetime(value)
    except ValueError:
        return None
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    return max(0.0, (when - datetime.now(UTC)).total_seconds())


def _wait(patience: Patience, tried: int, asked: float | None) -> float:
    """Seconds before the next try; never less than asked for, and not the same in all threads."""
    doubled = min(patience.first_wait * 2 ** (tried - 1), patience.longest_wait)
    spread = doubled * (0.5 + random.random())
    return spread if asked is None else asked + 0.1 * spread
