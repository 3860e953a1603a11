"""Generation by an OpenAI-compatible `/v1/completions` endpoint: vLLM, SGLang, llama.cpp, …

One request a sample, each with a seed of its own, several at a time. What the server understands
is found out with one token of the first prompt, and kept to.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing import TimeoutError as NothingYet
from multiprocessing.pool import ThreadPool
from typing import TYPE_CHECKING, Any

from helpers.backends.endpoint_address import read_address
from helpers.backends.endpoint_client import Line, Patience, Refused, open_line, send
from helpers.backends.endpoint_forms import body, is_about_context, named_context, plainer
from helpers.backends.endpoint_replies import Reply, read_reply
from helpers.backends.endpoint_samples import read_sample
from helpers.backends.endpoint_session import (
    Session,
    check_model,
    described,
    refused,
    tell_of_made_ids,
    tell_what_lacks,
)
from helpers.backends.model_tokens import ModelTokens, model_tokens
from helpers.backends.record import Asked, Backend, Generated, too_long
from helpers.errors import UserError
from helpers.models import KNOWN_AS
from helpers.sampling import Decoding

if TYPE_CHECKING:
    from helpers.studies.reasoning.config import ReasoningConfig

PROMISE = (
    "an endpoint's samples may depend on what else is in its batch, and on settings of its own"
)


@dataclass(frozen=True)
class _Answer:
    asked: Asked
    sample_id: int
    reply: Reply | None
    """None: the prompt does not fit."""


def open_endpoint(config: ReasoningConfig, patience: Patience | None = None) -> Backend:
    """An endpoint as a backend.

    Raises `UserError` when the address or the key cannot be one.
    """
    session = Session(
        config=config,
        address=read_address(config.endpoint, config.api_key_variable),
        name=config.served_model or KNOWN_AS.get(config.model, config.model),
        patience=patience or Patience(),
    )

    def run(asked: Sequence[Asked], decoding: Decoding) -> Iterator[list[Generated]]:
        line = open_line(session.address, session.patience, config.requests_at_once)
        try:
            yield from _generate(session, line, asked, decoding)
        finally:
            line.stopped.set()
            line.client.close()

    return Backend("openai", run, PROMISE, lambda: described(session))


def _generate(
    session: Session, line: Line, asked: Sequence[Asked], decoding: Decoding
) -> Iterator[list[Generated]]:
    jobs = [(a, sample_id) for a in asked for sample_id in a.sample_ids]
    if not jobs:
        return
    model = model_tokens(session.config.model)
    session.context = min(session.context, model.context)
    _look_at_models(session, line)
    _settle(session, line, model, asked, decoding)

    def ask(job: tuple[Asked, int]) -> _Answer:
        return _Answer(*job, _post(session, line, model, *job, decoding))

    # Its threads are daemons: one that waits for an answer keeps nobody from leaving.
    with ThreadPool(min(session.config.requests_at_once, len(jobs))) as pool:
        for group in _groups(pool.imap_unordered(ask, jobs), len(jobs)):
            samples: list[Generated] = []
            try:
                for answer in group:
                    samples.append(_read(session, line, model, answer, decoding))
            except UserError:
                if samples:
                    yield samples
                raise
            yield samples


def _groups(answers: Any, left: int) -> Iterator[list[_Answer]]:
    """What has come since the last time, at least one; before an error, what came before it."""
    while left:
        group = [answers.next()]
        try:
            while len(group) < left:
                group.append(answers.next(timeout=0))
        except NothingYet:
            pass
        except Exception:
            yield group
            raise
        left -= len(group)
        yield group


def _look_at_models(session: Session, line: Line) -> None:
    """Read the endpoint's list of models; one without a list is asked all the same."""
    answer = send(line, "models", None, _read_models, needed=False)
    if isinstance(answer, Refused):
        return
    session.listed = tuple(str(entry["id"]) for entry in answer)
    for entry in answer:
        if len(answer) == 1 or entry["id"] == session.name:
            session.owner = str(entry.get("owned_by", ""))
            length = entry.get("max_model_len")
            if isinstance(length, int) and length > 0:
                session.context = min(session.context, length)


def _read_models(payload: Any) -> list[dict[str, Any]]:
    data = payload.get("data") if isinstance(payload, dict) else None
    entries = data if isinstance(data, list) else []
    return [entry for entry in entries if isinstance(entry, dict) and "id" in entry]


def _settle(
    session: Session, line: Line, model: ModelTokens, asked: Sequence[Asked], decoding: Decoding
) -> None:
    """Find the form of a request that the endpoint takes, with one token of the first prompt."""
    for question in asked:
        if session.settled or not question.sample_ids:
            continue
        answer = _post(session, line, model, question, question.sample_ids[0], decoding, probe=True)
        if isinstance(answer, Reply):
            session.settled = True
            tell_what_lacks(session, line, answer, decoding)


def _read(
    session: Session, line: Line, model: ModelTokens, answer: _Answer, decoding: Decoding
) -> Generated:
    """One sample, or that its prompt is too long."""
    asked, sample_id, reply = answer.asked, answer.sample_id, answer.reply
    if reply is None:
        return too_long(replace(asked, sample_ids=(sample_id,)))[0]
    check_model(session, reply)
    untempered = session.untempered(decoding)
    with line.lock:
        sample = read_sample(
            reply, model, asked, sample_id, decoding, k=session.form.logprobs, untempered=untempered
        )
        if sample.retokenised:
            tell_of_made_ids(session, line, model, sample)
    return sample


def _post(
    session: Session,
    line: Line,
    model: ModelTokens,
    asked: Asked,
    sample_id: int,
    decoding: Decoding,
    *,
    probe: bool = False,
) -> Reply | None:
    """The endpoint's reply; None when the prompt does not fit. A probe is of one token."""
    while True:
        form, limit = session.form, session.context
        room = limit - len(asked.prompt_ids)
        if room < 1:
            return None
        most = 1 if probe else int(min(decoding.max_new_tokens, room))
        with line.lock:
            request = body(form, model, session.name, asked, sample_id, decoding, most)
        answer = send(line, "completions", request, lambda p: read_reply(p, may_be_empty=probe))
        if isinstance(answer, Reply):
            return answer
        if answer.status in (400, 413, 422) and is_about_context(answer.message):
            context = named_context(answer.message)
            if context is None or context >= limit:
                return None
            session.context = min(
                session.context, context
            )  # so that an answer is asked for that fits behind the prompt
            continue
        simpler = plainer(form, answer.message) if answer.status in (400, 422) else None
        if session.settled or simpler is None:
            raise UserError(refused(session, asked, answer))
        session.form = simpler
