"""The notebook of a run exported by marimo, with marimo's own files beside it.

The page that `marimo export html` writes loads its scripts from a content delivery network. Here
they are copied out of the installed package, and the page asks for them where it lies, so that any
web server on any network can serve the folder. Over `file:` browsers refuse such scripts.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import unquote

from helpers.errors import UserError
from helpers.files import plain_disk_errors
from helpers.provenance import repeat_command
from helpers.run import Run

ASSETS = "marimo-assets"
NO_MATHJAX = "no-mathjax.js"
_MATHJAX = re.compile(rb"https://cdn\.jsdelivr\.net/npm/mathjax-full@[^`\"']+")
_NETWORK = re.compile(r"https://cdn\.jsdelivr\.net/npm/@marimo-team/frontend@[^/\"']+/dist(?:/|\b)")


def write_notebook_page(run: Run, notebook: Path, *, code: bool = False) -> Path:
    """Export the notebook of a finished run into `notebook/` of its folder; returns `index.html`.

    Raises `UserError` where marimo's export fails or the notebook does not find the run.
    """
    target = run.folder / "notebook"
    with plain_disk_errors(target), tempfile.TemporaryDirectory(dir=run.folder) as temporary:
        made = Path(temporary) / target.name
        made.mkdir()
        page = export(notebook, run, Path(temporary), code=code)
        copy_assets(made / ASSETS)
        (made / "index.html").write_text(with_local_assets(page, made), encoding="utf-8")
        # A folder cannot be replaced in one step; a page that stops here is made again.
        shutil.rmtree(target, ignore_errors=True)
        made.rename(target)
    return target / "index.html"


def export(notebook: Path, run: Run, temporary: Path, *, code: bool) -> str:
    """The page that `marimo export html` makes of the notebook, started with the run's flags."""
    # Marimo leaves a snapshot beside what it exports.
    copy = Path(shutil.copy(notebook, temporary / notebook.name))
    page = temporary / "exported.html"
    shown = "--include-code" if code else "--no-include-code"
    command = [
        *(sys.executable, "-m", "marimo", "-q", "export", "html", shown, "-f"),
        *(str(copy), "-o", str(page), "--", *flags_of(run)),
    ]
    # The notebook's own folder holds the package that its cells import.
    paths = [str(notebook.parent), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode == 0:
        return page.read_text(encoding="utf-8")
    # With a cell that fails, marimo writes the page all the same, and the reason only there.
    written = page.read_text(encoding="utf-8") if page.is_file() else ""
    reason = re.search(r'"ename": "[^"]*", "evalue": ("(?:[^"\\]|\\.)*")', written)
    words = json.loads(reason[1]) if reason else (done.stderr.strip() or "no reason given")
    raise UserError(
        f"marimo cannot export {notebook.name} for {run.folder}: {words.splitlines()[-1]}; open it "
        f"with `marimo edit {notebook.name}` to see which cell fails"
    )


def flags_of(run: Run) -> list[str]:
    """The flags with which the notebook opens this run.

    Raises `UserError` where the folder's name is not the one that its settings give.
    """
    name = run.config.run_name()
    if name != run.folder.name:
        raise UserError(
            f"{run.folder} has another name than its settings give ({name}); rename it, so that "
            "the notebook finds it"
        )
    _, _, settings = repeat_command(run.manifest["config"]).partition(" sep run ")
    return [*shlex.split(settings), f"--out={run.folder.resolve().parent}"]


def copy_assets(folder: Path) -> None:
    """Copy what the installed marimo's pages load; what draws figures asks no host for MathJax."""
    import marimo

    static = Path(marimo.__file__).parent / "_static"
    shutil.copytree(static, folder, ignore=shutil.ignore_patterns("*.md"))
    (folder / NO_MATHJAX).write_text("// No figure here has formulas.\n", encoding="utf-8")
    for script in (folder / "assets").glob("*.js"):
        text = script.read_bytes()
        if _MATHJAX.search(text):
            script.write_bytes(_MATHJAX.sub(f"./{ASSETS}/{NO_MATHJAX}".encode(), text))


def with_local_assets(page: str, folder: Path) -> str:
    """The page with every address of the network replaced by one of a file in this folder.

    Raises `UserError` for an address whose file the installed marimo does not have.
    """
    text = _NETWORK.sub(f"./{ASSETS}/", page)
    asked = set(re.findall(rf"\./{ASSETS}/([^\"'\s)?#<>\\]*)", text))
    missing = sorted(name for name in asked if not (folder / ASSETS / unquote(name)).exists())
    if missing:
        raise UserError(
            f"the installed marimo lacks {len(missing)} of the files that its page loads, such as "
            f"{missing[0]}; install marimo again"
        )
    return text
