"""An endpoint's address and key: checked once, and never shown with what is secret in them."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote, urlsplit, urlunsplit

from helpers.errors import UserError


@dataclass(frozen=True)
class Address:
    """Where requests go."""

    shown: str
    """For messages and manifests: without user, password and query."""
    base: str = field(repr=False)
    """Up to /v1, without user and password."""
    query: str = field(repr=False)
    login: tuple[str, str] | None = field(repr=False)
    """User and password that stood in the address."""
    key: str = field(repr=False)
    """Of the environment variable; "" where it is not set."""
    key_variable: str

    def at(self, path: str) -> str:
        """The address of one of the endpoint's pages."""
        return f"{self.base}/{path}" + (f"?{self.query}" if self.query else "")

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
        host, port = parts.hostname, parts.port
    except ValueError:
        raise _not_an_address("it cannot be read as one") from None
    if parts.scheme not in ("http", "https"):
        raise _not_an_address("it must begin with http:// or https://")
    if not host or any(c.isspace() for c in endpoint.strip()):
        raise _not_an_address("it names no host")
    place = f"[{host}]" if ":" in host else host
    place += f":{port}" if port else ""
    path = parts.path.rstrip("/").removesuffix("/completions")
    base = urlunsplit((parts.scheme, place, path, "", ""))
    login = (unquote(parts.username or ""), unquote(parts.password or ""))
    return Address(
        shown=base,
        base=base,
        query=parts.query,
        login=login if any(login) else None,
        key=_read_key(key_variable),
        key_variable=key_variable,
    )


def _not_an_address(reason: str) -> UserError:
    return UserError(
        f"--endpoint is no address of a server: {reason}; give one such as http://127.0.0.1:8000/v1"
    )


def _read_key(variable: str) -> str:
    key = os.environ.get(variable, "").strip() if variable else ""
    if not (key.isascii() and key.isprintable()):
        raise UserError(
            f"the key in the environment variable {variable} has characters that no key has; set "
            "it again"
        )
    return key
