"""What has been found out about an endpoint while it was asked, and how that is told."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from helpers.backends.endpoint_address import Address
from helpers.backends.endpoint_client import Line, Patience, Refused
from helpers.backends.endpoint_forms import Form
from helpers.backends.endpoint_replies import Reply
from helpers.backends.model_tokens import END_THINK, ModelTokens, loses_end_of_thinking
from helpers.backends.record import Asked, Generated
from helpers.errors import UserError
from helpers.sampling import Decoding

if TYPE_CHECKING:
    from helpers.studies.reasoning.config import ReasoningConfig

RAW_LOGPROBS = ("vllm", "llamacpp")
"""Servers, as their list of models says, whose log-probabilities are those before temperature."""


@dataclass
class Session:
    """What has been found out about an endpoint."""

    config: ReasoningConfig
    address: Address
    name: str
    """The model's name in requests."""
    patience: Patience
    form: Form = field(default_factory=Form)
    settled: bool = False
    """Whether the form has been accepted."""
    listed: tuple[str, ...] = ()
    """The models that the endpoint lists."""
    owner: str = ""
    """Which server it says it is."""
    context: float = float("inf")
    """Longest prompt and answer together that it takes, in tokens."""
    served_model: str = ""
    """The model's name in replies."""

    def untempered(self, decoding: Decoding) -> bool:
        """Whether the endpoint's log-probabilities are those of the untempered distribution."""
        return decoding.temperature == 1 or self.owner in RAW_LOGPROBS


def described(session: Session) -> dict[str, Any]:
    """For the manifest; nothing secret."""
    form = session.form
    fields = "all" if form.extras else "transformers" if form.settings else "OpenAI's"
    return {
        "backend": "openai",
        "versions": {"httpx": version("httpx")},
        "endpoint": session.address.shown,
        "asked_model": session.name,
        "served_model": session.served_model,
        "server": session.owner,
        "prompt_as": "token ids" if form.ids else "text",
        "fields": fields if session.settled else "",
        "logprobs": form.logprobs,
        "requests_at_once": session.config.requests_at_once,
    }


def tell_what_lacks(session: Session, line: Line, reply: Reply, decoding: Decoding) -> None:
    """Warn of what this endpoint does not give."""
    if reply.logprobs is None:
        line.warn_once(
            "logprobs",
            "it gives no log-probabilities; token entropies are computed when hidden states are "
            "read, from the model itself",
        )
    elif not session.untempered(decoding):
        line.warn_once(
            "tempered",
            "its log-probabilities may be those after temperature, and are not used; token "
            "entropies are computed when hidden states are read, from the model itself",
        )
    if not session.form.extras and not session.form.settings:
        line.warn_once(
            "fields", "it takes OpenAI's fields only: its own top-k or penalties may be in effect"
        )


def tell_of_made_ids(session: Session, line: Line, model: ModelTokens, sample: Generated) -> None:
    """Warn that ids were made from a text, and that the text may lack what thinking ends with."""
    line.warn_once("ids", "it gives no token ids; they are made from the texts")
    lost = session.config.thinking and sample.finish_reason == "stop"
    if lost and END_THINK not in sample.text and loses_end_of_thinking(model):
        line.warn_once(
            "special",
            f"it seems to drop special tokens from its texts, and {END_THINK} is one for "
            f"{model.name!r}: no thinking will be found; use a server that returns token ids "
            "(vLLM does), or --backend hf",
        )


def check_model(session: Session, reply: Reply) -> None:
    """Raise `UserError` when a reply is from another model than those before it."""
    first = session.served_model = session.served_model or reply.model
    if reply.model and reply.model != first:
        clean = session.address.clean
        raise UserError(
            f"{session.address.shown} answers with mixed models: first {clean(first)!r}, now "
            f"{clean(reply.model)!r}; a run is of one model: name one of them as --served-model, "
            "at an endpoint that serves it alone"
        )


def refused(session: Session, asked: Asked, answer: Refused) -> str:
    """Why an endpoint gives nothing, in words."""
    shown, said = session.address.shown, answer.message
    status = f"HTTP {answer.status}{': ' + said if said else ''}"
    serves = ", ".join(session.address.clean(name) for name in session.listed[:8])
    serves = f"it serves: {serves}" if serves else "it does not list its models"
    if answer.status == 404 and (session.listed or "model" in said.lower()):
        return (
            f"{shown} does not serve {session.name!r} ({status}); {serves}; name one as "
            "--served-model"
        )
    if answer.status in (404, 405):
        return (
            f"{shown} has no /completions ({status}); --endpoint must end where the server's "
            "address for completions goes on, usually in /v1"
        )
    return (
        f"{shown} refuses the request for question {asked.question_id} ({status}); {serves}; "
        "check --served-model and --endpoint, and the server's messages"
    )
