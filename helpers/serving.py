"""The dashboard `probe_analysis.py` for visitors: read-only, and embeddable where that is allowed.

python -m helpers.serving --port 8080                     this machine only
python -m helpers.serving --host 0.0.0.0 --port $PORT     as a web service
uvicorn --factory helpers.serving:create_app              by another server

SEP_FRAME_ANCESTORS   origins that may show the page in an iframe, separated by spaces;
                      * for every site; where it is not set, no other site may
SEP_OUTPUTS           folder of the runs that are shown
SEP_VISITORS          visitors at a time (default 40); each takes memory
"""

from __future__ import annotations

import argparse
import ctypes
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from helpers.errors import UserError
from helpers.serving_headers import FRAME_VARIABLE, frame_ancestors, with_headers
from helpers.serving_layers import App, at_most, reading_only, with_assets
from helpers.serving_page import with_waiting_words
from helpers.serving_parsing import parse_one_at_a_time
from helpers.serving_warm import visited_first

DASHBOARD = Path(__file__).resolve().parent.parent / "probe_analysis.py"
OUTPUTS_VARIABLE = "SEP_OUTPUTS"
VISITORS_VARIABLE = "SEP_VISITORS"
VISITORS = 40
SESSION_TTL = 120
"""Seconds for which the session of a visitor who left can be taken up again."""
COMPRESSION = 5
M_ARENA_MAX, POOLS = -8, 2
"""The option's number in glibc's malloc.h, and its value."""


def create_app(notebook: Path = DASHBOARD) -> App:
    """The ASGI application of a notebook, with its settings from the environment.

    It runs the notebook once before it listens. Raises UserError for a setting that cannot be used.
    """
    ancestors = frame_ancestors(os.environ.get(FRAME_VARIABLE, ""))
    visitors = _number(VISITORS_VARIABLE, VISITORS, 1, 10_000)
    notebook = Path(notebook)
    if not notebook.is_file():
        raise UserError(f"{notebook}: there is no such notebook to serve.")

    import marimo
    from starlette.middleware.gzip import GZipMiddleware

    share_memory()
    parse_one_at_a_time()
    assets = Path(marimo.__file__).parent / "_static" / "assets"
    builder = marimo.create_asgi_app(quiet=True, include_code=False, session_ttl=SESSION_TTL)
    app: Any = builder.with_app(path="", root=str(notebook)).build()
    page = with_waiting_words(with_assets(app, assets))
    guarded = reading_only(at_most(page, visitors, SESSION_TTL))
    outer = GZipMiddleware(
        with_headers(guarded, ancestors), minimum_size=1024, compresslevel=COMPRESSION
    )
    (mounted,) = app.routes
    return visited_first(outer, app, mounted.app.state.session_manager)


def share_memory() -> bool:
    """Let all threads allocate from two pools; whether the C library can (glibc).

    By itself it gives a pool to each of many threads, and a visitor is a thread: twenty visitors
    then took three times the memory that they use.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    return mallopt is not None and mallopt(M_ARENA_MAX, POOLS) == 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until stopped; returns the exit status (2: a problem that the message explains)."""
    options = _parser().parse_args(arguments)
    try:
        port = options.port if options.port is not None else _number("PORT", 8080, 1, 65535)
        if options.outputs is not None:
            if not options.outputs.is_dir():
                raise UserError(f"--outputs {options.outputs}: there is no such folder of runs.")
            os.environ[OUTPUTS_VARIABLE] = str(options.outputs.resolve())
        app = create_app(options.notebook)
    except UserError as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 2
    serve(app, options.host, port)
    return 0


def serve(app: App, host: str, port: int) -> None:
    """Serve one process, which holds the sessions of all visitors; ends the process."""
    import uvicorn

    status: Any = 0
    try:
        uvicorn.run(
            app,
            host=host,
            port=port,
            log_level="info",
            access_log=False,  # 300 lines a visitor, with their addresses
            server_header=False,
            lifespan="on",
            timeout_keep_alive=75,  # longer than a proxy keeps a connection, or it answers 502
            timeout_graceful_shutdown=3,
            ws_max_size=64 * 1024,  # visitors only listen
        )
    except SystemExit as ended:
        status = ended.code
    except KeyboardInterrupt:
        status = 130
    sys.stdout.flush()
    sys.stderr.flush()
    # Python would wait for the threads of open sessions, which wait for their visitors.
    os._exit(status if isinstance(status, int) else 1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m helpers.serving",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--host", default="127.0.0.1", help="address (0.0.0.0: every network)")
    parser.add_argument("--port", type=int, help="port (default: $PORT, else 8080)")
    parser.add_argument("--outputs", type=Path, help=f"folder of runs (sets {OUTPUTS_VARIABLE})")
    parser.add_argument("--notebook", type=Path, default=DASHBOARD, help="another notebook")
    return parser


def _number(variable: str, default: int, lowest: int, highest: int) -> int:
    given = os.environ.get(variable, "").strip()
    if not given:
        return default
    if not given.isdecimal() or not lowest <= int(given) <= highest:
        raise UserError(
            f"{variable}={given!r}: give a whole number from {lowest} to {highest}, or unset it."
        )
    return int(given)


if __name__ == "__main__":
    sys.exit(main())
