"""Generation by an OpenAI-compatible `/v1/completions` endpoint: vLLM, SGLang, llama.cpp, …

One HTTP request a sample, each with a seed of its own, several at a time, through the `openai`
client, which waits and tries again. What the server understands is found out with one token of
the first prompt, and kept to.
"""

from __future__ import annotations

import ipaddress
import os
import re
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.metadata import version
from multiprocessing import TimeoutError as NothingYet
from multiprocessing.pool import ThreadPool
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit, urlunsplit

from pydantic import ValidationError

from helpers.errors import UserError
from helpers.generation.completions import (
    CompletionResponse,
    MalformedResponse,
    RequestFormat,
    ServedModels,
    make_sample,
    parse_response,
    request_fields,
    simpler_format,
)
from helpers.generation.records import Backend, Decoding, Request, Sample, too_long
from helpers.models.loading import KNOWN_AS
from helpers.models.tokens import END_THINK, ModelTokens, loses_end_of_thinking, model_tokens
from helpers.store.hub import first_line

if TYPE_CHECKING:
    from openai import APIError, APIStatusError, OpenAI

    from helpers.config import RunConfig

PROMISE = (
    "an endpoint's samples may depend on what else is in its batch, and on settings of its own"
)
MAX_RETRIES = 7
"""Of each HTTP request; the client waits half a second first, later up to eight, or as asked to."""
CONNECT_TIMEOUT = 10.0
READ_TIMEOUT = 1800.0
"""Seconds without a byte: a response is sent when it is finished, and may have been queued."""
MALFORMED_TRIES = 3
"""How often a request is sent that gets no completion: a proxy may have answered meanwhile."""
MALFORMED_WAIT = 1.0  # seconds between two of these
RAW_LOGPROBS = ("vllm", "llamacpp")
"""Servers, as their list of models says, whose log-probabilities are those before temperature."""
_ABOUT_CONTEXT = re.compile(
    r"context[ _](length|size|window)|maximum model length|model'?s (maximum )?context"
    r"|too long to fit|prompt is too long|maximum sequence length",
    re.IGNORECASE,
)
_CONTEXT_LENGTH = re.compile(r"(?:context|model)[ _](?:length|size|window)\D{0,12}(\d[\d,]*)", re.I)


# --- address and client --------------------------------------------------------------------------


@dataclass(frozen=True)
class Address:
    """Where requests go; what is secret in it is never shown."""

    base: str  # up to /v1, without user, password and query
    query: str = field(repr=False)
    login: tuple[str, str] | None = field(repr=False)  # user and password that stood in the address
    key: str = field(repr=False)  # of the environment variable; "" where it is not set
    key_variable: str

    def clean(self, text: str) -> str:
        """A text of the endpoint's in one printable line, without what is secret."""
        values = [value for _, value in parse_qsl(self.query)]
        secrets = [self.key, self.query, *values, *(self.login or ())]
        for secret in sorted((s for s in secrets if len(s) > 3), key=len, reverse=True):
            text = text.replace(secret, "***")
        line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
        return line if len(line) <= 300 else line[:297] + "…"

    @property
    def is_local(self) -> bool:
        """Whether the endpoint is on this machine, where no proxy is to stand in between."""
        host = urlsplit(self.base).hostname or ""
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"


def read_address(endpoint: str, key_variable: str) -> Address:
    """Check an address such as http://127.0.0.1:8000/v1, and read the key.

    Raises `UserError`, which never holds the address's user, password or query.
    """
    try:
        parts = urlsplit(endpoint.strip())
        host, port = parts.hostname or "", parts.port
        host.encode("idna")
        if parts.scheme not in ("http", "https") or not host or len(endpoint.split()) > 1:
            raise ValueError
    except ValueError:
        raise UserError(
            "--endpoint is no address of a server: it must begin with http:// or https:// and name "
            "a host; give one such as http://127.0.0.1:8000/v1"
        ) from None
    key = os.environ.get(key_variable, "").strip() if key_variable else ""
    if not (key.isascii() and key.isprintable()):
        raise UserError(
            f"the key in the environment variable {key_variable} has characters that no key has; "
            "set it again"
        )
    place = (f"[{host}]" if ":" in host else host) + (f":{port}" if port else "")
    path = parts.path.rstrip("/").removesuffix("/completions")
    login = (unquote(parts.username or ""), unquote(parts.password or ""))
    base = urlunsplit((parts.scheme, place, path, "", ""))
    return Address(base, parts.query, login if any(login) else None, key, key_variable)


def _open_client(address: Address) -> OpenAI:
    import openai

    def without_key(request: Any) -> Any:
        del request.headers["Authorization"]
        return request

    # What the environment says of the user's account at OpenAI is not for other servers.
    headers: Any = dict.fromkeys(("OpenAI-Organization", "OpenAI-Project"), openai.Omit())
    return openai.OpenAI(
        base_url=address.base,
        api_key=address.key or "none",  # it insists on one
        default_headers=headers,
        default_query=dict(parse_qsl(address.query)),
        max_retries=MAX_RETRIES,
        timeout=openai.Timeout(READ_TIMEOUT, connect=CONNECT_TIMEOUT),
        http_client=openai.DefaultHttpxClient(
            auth=address.login or (None if address.key else without_key),
            trust_env=not address.is_local,
            follow_redirects=False,  # a key goes to the host it was given for
        ),
    )


# --- what is known of the endpoint ---------------------------------------------------------------


@dataclass
class Session:
    """One endpoint, and what has been found out about it; shared by threads."""

    config: RunConfig
    address: Address
    name: str
    """The model's name in requests."""
    format: RequestFormat = field(default_factory=RequestFormat)
    format_accepted: bool = False
    listed: tuple[str, ...] = ()
    """The models that the endpoint lists."""
    owner: str = ""
    """Which server it says it is."""
    context: float = float("inf")
    """Longest prompt and answer together that it takes, in tokens."""
    served_model: str = ""
    """The model's name in responses."""
    warned: set[str] = field(default_factory=set)
    lock: Any = field(default_factory=threading.RLock)
    """Around tokenizers, which bear one use at a time, and what is found out."""

    @cached_property
    def model(self) -> ModelTokens:
        """The model that is meant to be served, without its weights."""
        return model_tokens(self.config.model)

    def untempered(self, decoding: Decoding) -> bool:
        """Whether the endpoint's log-probabilities are those of the untempered distribution."""
        return decoding.temperature == 1 or self.owner in RAW_LOGPROBS

    def warn_once(self, text: str) -> None:
        """Warn, unless the same was said already."""
        with self.lock:
            if text in self.warned:
                return
            self.warned.add(text)
        warnings.warn(f"{self.address.base}: {text}", stacklevel=2)


def open_endpoint(config: RunConfig) -> Backend:
    """An endpoint as a backend.

    Raises `UserError` when the address or the key cannot be one.
    """
    session = Session(
        config=config,
        address=read_address(config.endpoint, config.api_key_variable),
        name=config.served_model or KNOWN_AS.get(config.model, config.model),
    )

    def run(requests: Sequence[Request], decoding: Decoding) -> Iterator[list[Sample]]:
        wanted = [r for r in requests if r.sample_ids]
        if not wanted:
            return
        client = _open_client(session.address)
        try:
            yield from _generate(session, client, wanted, decoding)
        finally:
            client.close()  # which ends what is still under way

    return Backend("openai", run, PROMISE, lambda: _described(session))


def _described(session: Session) -> dict[str, Any]:
    """For the manifest; nothing secret."""
    form = session.format
    fields = "all" if form.extras else "transformers" if form.generation_config else "OpenAI's"
    return {
        "backend": "openai",
        "versions": {"openai": version("openai")},
        "endpoint": session.address.base,
        "asked_model": session.name,
        "served_model": session.served_model,
        "server": session.owner,
        "prompt_as": "token ids" if form.token_ids else "text",
        "fields": fields if session.format_accepted else "",
        "logprobs": form.logprobs,
        "requests_at_once": session.config.requests_at_once,
    }


def _list_models(session: Session, client: OpenAI) -> None:
    """Read the endpoint's list of models; one without a list is asked all the same."""
    import openai

    try:
        # Nobody has ever answered here: a wrong address is to be said soon.
        raw = client.with_options(max_retries=1).models.with_raw_response.list()
        served = ServedModels.model_validate_json(raw.text).data
    except ValidationError:
        return
    except openai.APIError as error:
        status = getattr(error, "status_code", 0)
        if status >= 400 and status not in (401, 403):
            return
        raise _failure(session, error) from None
    session.listed = tuple(entry.id for entry in served)
    for entry in served:
        if len(served) == 1 or entry.id == session.name:
            session.owner = entry.owned_by or ""
            session.context = min(session.context, entry.max_model_len or session.context)


# --- generation ----------------------------------------------------------------------------------


def _generate(
    session: Session, client: OpenAI, requests: Sequence[Request], decoding: Decoding
) -> Iterator[list[Sample]]:
    session.context = min(session.context, session.model.context)
    _list_models(session, client)
    for request in requests:
        if not session.format_accepted:
            _find_format(session, client, request, decoding)
    jobs = [(request, sample_id) for request in requests for sample_id in request.sample_ids]

    def sample(job: tuple[Request, int]) -> Sample:
        return _read(session, *job, _complete(session, client, *job, decoding), decoding)

    # Its threads are daemons: one that waits for a response keeps nobody from leaving.
    with ThreadPool(min(session.config.requests_at_once, len(jobs))) as pool:
        yield from _finished(pool.imap_unordered(sample, jobs), len(jobs))


def _finished(samples: Any, left: int) -> Iterator[list[Sample]]:
    """What has come since the last time, at least one; before an error, what came before it."""
    while left:
        group = [samples.next()]
        try:
            while len(group) < left:
                group.append(samples.next(timeout=0))
        except NothingYet:
            pass
        except Exception:
            yield group
            raise
        left -= len(group)
        yield group


def _find_format(session: Session, client: OpenAI, request: Request, decoding: Decoding) -> None:
    """Find the format of a request that the endpoint takes, with one token; say what it lacks."""
    response = _complete(session, client, request, request.sample_ids[0], decoding, trial=True)
    if response is None:  # too long: the next prompt may tell
        return
    session.format_accepted = True
    later = "token entropies are computed when hidden states are read, from the model itself"
    if response.choices[0].logprobs is None:
        session.warn_once(f"it gives no log-probabilities; {later}")
    elif not session.untempered(decoding):
        session.warn_once(
            f"its log-probabilities may be those after temperature, and are not used; {later}"
        )
    if not session.format.extras and not session.format.generation_config:
        session.warn_once(
            "it takes OpenAI's fields only: its own top-k or penalties may be in effect"
        )


def _complete(
    session: Session,
    client: OpenAI,
    request: Request,
    sample_id: int,
    decoding: Decoding,
    *,
    trial: bool = False,
) -> CompletionResponse | None:
    """The endpoint's response; None when the prompt does not fit. A trial asks for one token."""
    import openai

    malformed = 0
    while True:
        form, context = session.format, session.context
        room = context - len(request.prompt_ids)
        if room < 1:
            return None
        most = 1 if trial else int(min(decoding.max_new_tokens, room))
        with session.lock:
            fields = request_fields(form, session.model, request, sample_id, decoding, most)
        try:
            raw = client.completions.with_raw_response.create(model=session.name, **fields)
            if raw.retries_taken:
                session.warn_once("some requests had to be sent again; --requests-at-once may help")
            return parse_response(raw.text, may_be_empty=trial)
        except MalformedResponse as error:
            malformed += 1
            if malformed == MALFORMED_TRIES:
                what = f"no completion ({session.address.clean(str(error))})"
                remedy = "check that --endpoint is OpenAI-compatible and ends in /v1"
                raise _error(session, what, malformed, remedy) from None
            time.sleep(MALFORMED_WAIT)
        except openai.APIError as error:
            status, said = getattr(error, "status_code", 0), _said(session, error)
            if status in (400, 413, 422) and _ABOUT_CONTEXT.search(said):
                named = _CONTEXT_LENGTH.search(said)
                length = int(named.group(1).replace(",", "")) if named else context
                if length >= context:
                    return None
                session.context = length  # an answer is asked for that fits behind the prompt
                continue
            simpler = simpler_format(form, said) if status in (400, 422) else None
            if session.format_accepted or simpler is None:
                raise _failure(session, error) from None
            session.format = simpler


def _read(
    session: Session,
    request: Request,
    sample_id: int,
    response: CompletionResponse | None,
    decoding: Decoding,
) -> Sample:
    """One sample, or that its prompt is too long; `UserError` where another model answers."""
    if response is None:
        return too_long(replace(request, sample_ids=(sample_id,)))[0]
    k, untempered = session.format.logprobs, session.untempered(decoding)
    model, clean = session.model, session.address.clean
    with session.lock:
        session.served_model = first = session.served_model or response.model or ""
        if response.model and response.model != first:
            raise UserError(
                f"{session.address.base} answers with mixed models: first {clean(first)!r}, now "
                f"{clean(response.model)!r}; a run is of one model: name one of them as "
                "--served-model, at an endpoint that serves it alone"
            )
        sample = make_sample(
            response, model, request, sample_id, decoding, k=k, untempered=untempered
        )
        if not sample.retokenised:
            return sample
        session.warn_once("it gives no token ids; they are made from the texts")
        closes = END_THINK in sample.text or sample.finish_reason != "stop"
        if session.config.thinking and not closes and loses_end_of_thinking(model):
            session.warn_once(
                f"it seems to drop special tokens from its texts, and {END_THINK} is one for "
                f"{model.name!r}: no thinking will be found; use a server that returns token ids "
                "(vLLM does), or --backend hf"
            )
    return sample


# --- errors --------------------------------------------------------------------------------------
# Raised `from None`: the client's own may quote the key, which no traceback is to show.


def _error(session: Session, what: str, tries: int, remedy: str) -> UserError:
    after = f", after {tries} tries" if tries > 1 else ""
    return UserError(
        f"{session.address.base}: {what}{after}; {remedy}; the same command asks only for what is "
        "missing"
    )


def _failure(session: Session, error: APIError) -> UserError:
    """Why the client gave up, in words."""
    import openai

    if isinstance(error, openai.APIStatusError):
        what, remedy = _refusal(session, error)
    elif isinstance(error, openai.APITimeoutError):
        what = f"no answer within {READ_TIMEOUT:g} s"
        remedy = "lower --requests-at-once or --max-new-tokens, or look at the server's messages"
    else:
        cause = session.address.clean(first_line(error.__cause__ or error))
        what = f"no connection, or it broke off ({cause})"
        remedy = "start the server or look at its messages, or correct --endpoint"
    retries = int(error.request.headers.get("x-stainless-retry-count", 0))
    return _error(session, what, retries + 1, remedy)


def _refusal(session: Session, error: APIStatusError) -> tuple[str, str]:
    """What an HTTP status says, and the remedy."""
    address, status, said = session.address, error.status_code, _said(session, error)
    http = f"HTTP {status}{': ' + said if said else ''}"
    variable = address.key_variable or "OPENAI_API_KEY (and --api-key-variable)"
    location, later = (
        address.clean(error.response.headers.get(name, "")) for name in ("location", "retry-after")
    )
    names = ", ".join(address.clean(name) for name in session.listed[:8])
    serves = f"it serves: {names}" if names else "it does not list its models"
    if 300 <= status < 400:
        what = f"it sends requests on to another address ({location}), which keys are not sent to"
        return what, "give that address as --endpoint"
    if status in (401, 403) and address.key:
        return f"it does not take the key in {variable} ({http})", "set the right one"
    if status in (401, 403):
        return f"it wants a key ({http})", f"set the environment variable {variable}"
    if status in (408, 409, 429) or status >= 500:
        what = http + (f"; it asks to come back after {later}" if later else "")
        if status == 429:
            return what, "lower --requests-at-once, or check the account's limits"
        return what, "look at the server's messages, or try later"
    if status == 404 and (names or "model" in said.lower()):
        return f"it does not serve {session.name!r} ({http}); {serves}", "name one: --served-model"
    if status in (404, 405):
        return f"it has no /completions ({http})", "correct --endpoint, which usually ends in /v1"
    remedy = "check --served-model and --endpoint, and the server's messages"
    return f"it refuses the request ({http}); {serves}", remedy


def _said(session: Session, error: APIError) -> str:
    """What an error response says, in whichever of the usual fields; cleaned."""
    body: Any = error.body
    if isinstance(body, dict):
        body = body.get("message") or body.get("detail") or body
    return session.address.clean(str(body or ""))
