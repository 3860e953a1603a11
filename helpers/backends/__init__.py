"""What generates the runs of a model: transformers, vLLM in this process, or an HTTP endpoint.

    backend = open_backend(config)
    for group in backend.generate(asked, decoding):
        ...                                   # store the group: a killed run loses none of it

Every backend gives the same records, with log-probabilities and entropies of the untempered
distribution where it can, and says with each what it could not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from helpers.backends.record import TOO_LONG as TOO_LONG
from helpers.backends.record import Asked as Asked
from helpers.backends.record import Backend as Backend
from helpers.backends.record import Generated as Generated

if TYPE_CHECKING:
    from helpers.studies.reasoning.config import ReasoningConfig


def open_backend(config: ReasoningConfig) -> Backend:
    """The backend that a config names; nothing is loaded and nobody is asked before `generate`.

    Raises `UserError` when the endpoint's address or key cannot be one.
    """
    if config.backend == "vllm":
        from helpers.backends.vllm_engine import open_vllm

        return open_vllm(config)
    if config.backend == "openai":
        from helpers.backends.endpoint import open_endpoint

        return open_endpoint(config)
    from helpers.backends.hf import open_hf

    return open_hf(config)
