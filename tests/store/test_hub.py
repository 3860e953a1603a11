"""Models and data sets by their real names, from a stand-in for the hub, whatever goes wrong."""

from __future__ import annotations

import fnmatch
import re
import resource
import shutil
import subprocess
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.errors import UserError
from helpers.models.loading import KNOWN_AS, identify
from helpers.store import hub as hub_module
from helpers.store.hub import wanted_files
from support.run_folders import assert_same_run
from support.sep_process import Finished, SepWorker, hub_environment, run_sep, start_sep
from support.stand_in_hub import StandInHub
from support.tiny_hub import (
    DECOYS,
    GPT2,
    GSM8K,
    MINILM,
    NLI,
    PICKLED,
    QWEN,
    SHARDED,
    save_gsm8k,
    save_models,
    word_problem,
)

WEIGHTS = "/storage/model.safetensors"
SMALL = (
    "--limit=12", "--k=2", "--max-new-tokens=4", "--n-bootstrap=100", "--n-permutations=1000",
    "--threads=1", "--device=cpu", "--analyses=none", "--estimators=semantic_entropy",
)  # fmt: skip


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """All tiny repositories: name to folder."""
    root = tmp_path_factory.mktemp("repositories")
    return save_models(root / "models") | save_gsm8k(root / "datasets")


@pytest.fixture(scope="module")
def open_hub(repositories: dict[str, Path]) -> Iterator[StandInHub]:
    models = {name: folder for name, folder in repositories.items() if name != GSM8K}
    models["openai-community/gpt2-medium"] = repositories[GPT2]
    models["Qwen/Qwen3-4B-Instruct-2507"] = repositories[SHARDED]
    with StandInHub(models, {GSM8K: repositories[GSM8K]}) as hub:
        yield hub


@pytest.fixture
def hub(open_hub: StandInHub) -> Iterator[StandInHub]:
    """The stand-in, with nothing wrong and nothing asked."""
    open_hub.mend()
    yield open_hub
    open_hub.mend()


@pytest.fixture(scope="module")
def sep(open_hub: StandInHub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SepWorker]:
    """Runs `sep` commands in one process that waits for one second at most."""
    timeouts = {"HF_HUB_DOWNLOAD_TIMEOUT": "1", "HF_HUB_ETAG_TIMEOUT": "1"}
    worker = SepWorker(hub_environment(open_hub.url, tmp_path_factory.mktemp("home"), **timeouts))
    yield worker
    worker.close()


@pytest.fixture
def gpt2_size(repositories: dict[str, Path]) -> int:
    """Bytes of the largest file of all."""
    return (repositories[GPT2] / "model.safetensors").stat().st_size


def folder_of(done: Finished) -> Path:
    """The folder of a model that was identified."""
    assert done.status == 0, done.err
    return Path(done.out.split()[0])


def places(folder: Path, name: str) -> tuple[str, str]:
    return f"--cache-dir={folder / name / 'cache'}", f"--out={folder / name / 'out'}"


def run_folder(folder: Path, name: str) -> Path:
    (found,) = (folder / name / "out").iterdir()
    return found


def explained(done: Finished, *parts: str) -> None:
    """One plain sentence that names the thing, the place and the remedy, and nothing else."""
    assert (done.status, done.out) == (2, ""), done.err
    *before, line = done.err.splitlines()
    assert all(text.startswith(("warning: ", "Fetching ")) for text in before), done.err
    assert line.startswith("error: ")
    for part in parts:
        assert part in line
    assert "  " not in line
    assert "Traceback" not in done.err


# --- by their real names -------------------------------------------------------------------------


@pytest.mark.slow
def test_gpt2_on_gsm8k_runs_and_then_runs_again_without_the_hub(
    sep: SepWorker, hub: StandInHub, tmp_path: Path
) -> None:
    command = ("run", "--preset=gpt2-gsm8k", *SMALL)
    cold = sep(*command, *places(tmp_path, "cold"))
    assert cold.status == 0, cold.err
    assert re.search(rf"Fetching {GPT2}: ([\d,]+)/\1 kB", cold.err)
    assert f"Fetching {NLI}: " in cold.err
    asked = {a.path.rpartition("/")[2] for a in hub.asked if "resolve" in a.path}
    assert {"model.safetensors", "tokenizer.json", "README.md"} <= asked
    assert not asked & {Path(name).name for name in DECOYS}

    import pyarrow.parquet as pq

    questions = pq.read_table(run_folder(tmp_path, "cold") / "questions.parquet").to_pylist()
    problems = {row["question"]: row["answer"] for row in map(word_problem, range(60))}
    assert len(questions) == 12
    assert all(problems[row["question"]] == row["answer"] for row in questions)

    hub.mend()
    warm = sep(*command, *places(tmp_path, "warm"))
    assert warm.status == 0, warm.err
    assert hub.asked == []
    assert_same_run(run_folder(tmp_path, "cold"), run_folder(tmp_path, "warm"))


def test_qwen3_thinks_and_minilm_compares(sep: SepWorker, hub: StandInHub, tmp_path: Path) -> None:
    done = sep(
        "run", f"--model={QWEN}", "--questions=gsm8k", "--chat", "--thinking", "--positions",
        "tbg", "think_end", "--judge=cosine", "--cosine-threshold=0.9", *SMALL,
        *places(tmp_path, "run"),
    )  # fmt: skip
    assert done.status == 0, done.err
    assert f"Fetching {QWEN}: " in done.err
    assert f"Fetching {MINILM}: " in done.err
    folder = run_folder(tmp_path, "run")
    assert (folder / "hidden" / "think_end.safetensors").is_file()
    asked = [a.path for a in hub.asked if MINILM in a.path]
    assert any(path.endswith("1_Pooling/config.json") for path in asked)
    for decoy in DECOYS:
        assert not fnmatch.filter(asked, f"*/{decoy}")


@pytest.mark.parametrize("name", [*KNOWN_AS, SHARDED])
def test_names_that_people_type_load(
    name: str, sep: SepWorker, hub: StandInHub, repositories: dict[str, Path]
) -> None:
    done, known = sep("identify", name, "model"), KNOWN_AS.get(name, name)
    folder = folder_of(done)
    assert known.replace("/", "--") in str(folder)
    assert not list(folder.rglob("*.bin"))
    sharded = known in (SHARDED, "Qwen/Qwen3-4B-Instruct-2507")
    assert (len(list(folder.glob("*.safetensors"))) > 1) == sharded
    if known in repositories:
        local = identify(str(repositories[known]))
        assert done.out.split()[1:] == [local.model_hash, local.tokenizer_hash]
    hub.mend()
    assert sep("identify", name, "model").out == done.out
    assert hub.asked == []  # what is stored whole is used without asking


# --- what can go wrong, and what is said of it ---------------------------------------------------

LOCAL = ("--preset lab", "local folder with config.json")


@pytest.mark.parametrize(
    ("case", "pattern", "fault", "parts"),
    [
        ("down", "*", {"status": 503}, ["not be reached", "HTTP 503", "try again later", *LOCAL]),
        ("busy", "*", {"status": 429}, ["requests (HTTP 429)", "wait some minutes", *LOCAL]),
        ("token", "*", {"status": 401, "headers": {"X-Error-Message": "Invalid credentials in "
         "Authorization header"}}, ["refuses your token", "`hf auth login`", "HF_TOKEN"]),
        ("silent", "*", {"wait": 600}, ["silent for 1 s", "HF_HUB_DOWNLOAD_TIMEOUT=60", *LOCAL]),
        ("stalled", WEIGHTS, {"stall_after": 0}, ["silent for 1 s", "TIMEOUT=60", *LOCAL]),
        ("captive", "/api/*", {"body": b"<html>Log in here"}, ["not answer as a hub does"]),
        ("short", WEIGHTS, {"body": b"short"}, ["model.safetensors", "{size:,} bytes", "network"]),
        ("damaged", WEIGHTS, {}, ["safetensors", "twice", "SHA-256"]),
    ],
)  # fmt: skip
def test_what_goes_wrong_with_a_model_is_said_in_one_line(
    case: str,
    pattern: str,
    fault: dict,
    parts: list[str],
    sep: SepWorker,
    hub: StandInHub,
    repositories: dict[str, Path],
    gpt2_size: int,
) -> None:
    name = hub.add(f"example/{case}", repositories[GPT2])
    if case == "damaged":
        fault = {"body": bytes(gpt2_size)}
    hub.fail(pattern, **fault)
    done = sep("identify", name)
    explained(done, f"language model '{name}'", *(part.format(size=gpt2_size) for part in parts))
    # Once it is mended, the same command succeeds.
    hub.mend()
    assert sep("identify", name).status == 0


def test_a_model_that_is_not_there_or_has_only_pickles_is_said_to(
    sep: SepWorker, hub: StandInHub, tmp_path: Path
) -> None:
    for name, parts in (
        ("no/such", ["is not on the hub", f"{hub.url}/no/such", "`hf auth login`"]),
        (PICKLED, ["has no model.safetensors", "pickled weights are never loaded"]),
        ("no name", ["neither something on this machine nor a name on the hub", *LOCAL]),
    ):
        done = sep("run", f"--model={name}", *SMALL, *places(tmp_path, "run"))
        explained(done, f"language model '{name}'", *parts)
    assert hub.bytes_sent("*.bin") == 0


def test_a_gated_model_asks_for_its_terms_and_a_token_opens_it(
    hub: StandInHub, repositories: dict[str, Path], tmp_path: Path
) -> None:
    name = hub.add("example/gated", repositories[QWEN], gated=True)
    terms = [f"accept its terms at {hub.url}/{name}", "`hf auth login` (or set HF_TOKEN)"]
    for token, who in (("", "who are logged in"), ("hf_other", "logged in with has no access")):
        environment = hub_environment(hub.url, tmp_path, HF_TOKEN=token)
        explained(run_sep(environment, "identify", name), f"'{name}' is gated", who, *terms)
    # The token goes to the hub and not to the storage, which refuses one.
    environment = hub_environment(hub.url, tmp_path, HF_TOKEN="granted")
    folder_of(run_sep(environment, "identify", name))


# --- downloads that break off --------------------------------------------------------------------


def test_an_outage_in_the_middle_costs_only_what_had_not_arrived(
    sep: SepWorker,
    hub: StandInHub,
    repositories: dict[str, Path],
    gpt2_size: int,
    tmp_path: Path,
) -> None:
    name = hub.add("example/outage", repositories[GPT2])
    hub.fail(WEIGHTS, drop_after=1_000_000, times=1)
    hub.fail("/storage/*", status=503)
    explained(sep("identify", name), f"'{name}' could not be reached", "HTTP 503")
    assert hub.bytes_sent(WEIGHTS) == 1_000_000
    hub.mend()
    done = sep("doctor", *places(tmp_path, "none"))
    assert f"{name} (incomplete)" in done.out
    assert f"{hub.url} answers" in done.out
    assert sep("identify", name).status == 0
    assert hub.bytes_sent(WEIGHTS) == gpt2_size - 1_000_000
    hub.mend()
    assert f"{name} (incomplete)" not in sep("doctor", *places(tmp_path, "none")).out


def test_short_breaks_are_bridged(
    sep: SepWorker, hub: StandInHub, repositories: dict[str, Path], gpt2_size: int
) -> None:
    name = hub.add("example/breaks", repositories[GPT2])
    hub.fail(WEIGHTS, drop_after=2_000_000, times=1)
    hub.fail(WEIGHTS, status=500, times=1)
    done = sep("identify", name)
    assert done.status == 0, done.err
    assert hub.bytes_sent(WEIGHTS) == gpt2_size
    assert f"warning: model.safetensors of {name}: the connection" in done.err


def test_a_file_that_arrives_damaged_is_fetched_once_more(
    sep: SepWorker, hub: StandInHub, repositories: dict[str, Path], gpt2_size: int
) -> None:
    name = hub.add("example/damaged-once", repositories[GPT2])
    hub.fail(WEIGHTS, body=bytes(gpt2_size), times=1)
    done = sep("identify", name)
    assert f"model.safetensors of {name} arrived damaged; fetching it once more" in done.err
    local = identify(str(repositories[GPT2]))
    assert identify(str(folder_of(done))).model_hash == local.model_hash


@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
def test_a_stored_file_that_was_cut_off_is_noticed_and_fetched_anew(
    file: str, sep: SepWorker, hub: StandInHub, repositories: dict[str, Path]
) -> None:
    name = hub.add(f"example/cut-off-{file}", repositories[QWEN])
    folder = folder_of(sep("identify", name))
    whole = (folder / file).read_bytes()
    (folder / file).resolve().write_bytes(whole[:100])
    hub.mend()
    assert folder_of(sep("identify", name)) == folder
    assert (folder / file).read_bytes() == whole
    assert hub.bytes_sent() == len(whole)


def test_what_another_program_fetched_is_used_where_the_hub_is_out_of_reach(
    hub: StandInHub, tmp_path: Path
) -> None:
    environment = hub_environment(hub.url, tmp_path)
    first = run_sep(environment, "identify", QWEN)
    storage = folder_of(first).parent.parent
    shutil.rmtree(storage / "trees")  # the note of what belongs to it
    done = run_sep(environment | {"HF_HUB_OFFLINE": "1"}, "identify", QWEN)
    assert (done.status, done.out) == (0, first.out)
    hub.mend()
    assert run_sep(environment, "identify", QWEN).out == first.out
    assert hub.bytes_sent() == 0  # it only asks what belongs to it
    (storage / "snapshots").rename(storage / "gone")
    done = run_sep(environment | {"HF_HUB_OFFLINE": "1"}, "identify", QWEN)
    explained(done, "HF_HUB_OFFLINE is set", "unset HF_HUB_OFFLINE", *LOCAL)


def test_two_processes_fetch_a_model_once(hub: StandInHub, tmp_path: Path, gpt2_size: int) -> None:
    hub.fail(WEIGHTS, pause=0.3)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    environment = hub_environment(hub.url, tmp_path)
    both = [start_sep(environment, "identify", GPT2, **pipes) for _ in range(2)]
    outputs = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert outputs[0][0] == outputs[1][0]
    assert hub.bytes_sent(WEIGHTS) == gpt2_size


def test_a_cache_that_cannot_be_written_is_named(hub: StandInHub, tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file")
    done = run_sep(hub_environment(hub.url, tmp_path / "home"), "identify", QWEN)
    explained(done, f"'{QWEN}'", f"{tmp_path / 'home'}", "cannot be written; set HF_HOME", *LOCAL)


def test_a_full_disk_is_named_with_what_is_needed(
    hub: StandInHub, tmp_path: Path, gpt2_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = hub_environment(hub.url, tmp_path)
    limit = (2_000_000, 2_000_000)
    limited = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit)}
    done = run_sep(environment, "identify", GPT2, **limited)
    explained(done, "the disk is full", str(tmp_path), "set HF_HOME", "what has arrived is kept")
    hub.mend()
    assert run_sep(environment, "identify", GPT2).status == 0
    assert hub.bytes_sent(WEIGHTS) <= gpt2_size - 1_900_000

    usage = namedtuple("usage", "free")(free=10**8)
    monkeypatch.setattr(hub_module.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UserError, match=r"needs 1,500 MB, and .* has 100 MB free.*HF_HOME"):
        hub_module._check_space(1_500_000_000, "language model 'x'")


# --- data sets -----------------------------------------------------------------------------------


def test_a_data_set_is_fetched_once_and_then_read_without_the_hub(
    sep: SepWorker, hub: StandInHub, repositories: dict[str, Path], tmp_path: Path
) -> None:
    name = hub.add("example/sums", repositories[GSM8K], "datasets")
    command = ("generate", f"--questions={name}:socratic@test", *SMALL)
    cold = sep(*command, *places(tmp_path, "cold"))
    assert cold.status == 0, cold.err
    assert hub.bytes_sent("/storage/socratic/*") > 0
    assert hub.bytes_sent("/storage/main/*") == 0
    hub.mend()
    assert sep(*command, *places(tmp_path, "warm")).status == 0
    assert hub.asked == []
    assert_same_run(run_folder(tmp_path, "cold"), run_folder(tmp_path, "warm"))


@pytest.mark.parametrize(
    ("kind", "fault", "parts"),
    [
        ("missing", None, ["is not on the hub", "/datasets/example/missing"]),
        ("gated", None, ["is gated", "accept its terms at", "/datasets/example/gated"]),
        ("other:maim", None, ["'maim' not found", "'main'", "name:config@split"]),
        ("other:main@dev", None, ["dev", "name:config@split", "gsm8k:main@train"]),
        ("silent", {"wait": 600}, ["silent for 1 s", "HF_HUB_DOWNLOAD_TIMEOUT=60", "local file"]),
        ("busy", {"status": 503}, ["HTTP 503", "try again later", "local file"]),
        ("two", None, ["Config name is missing", "['main', 'socratic']", "name:config@split"]),
        ("damaged:main", {"body": b"no parquet"}, ["data set example/damaged", "local file"]),
    ],
)
def test_what_goes_wrong_with_a_data_set_is_said_in_one_line(
    kind: str,
    fault: dict | None,
    parts: list[str],
    sep: SepWorker,
    hub: StandInHub,
    repositories: dict[str, Path],
    tmp_path: Path,
) -> None:
    name = f"example/{kind.partition(':')[0]}"
    if kind != "missing":
        hub.add(name, repositories[GSM8K], "datasets", gated=kind == "gated")
    if fault:
        hub.fail("*.parquet" if "damaged" in kind else "*", **fault)
    command = ("run", f"--questions=example/{kind}", *SMALL, *places(tmp_path, "run"))
    done = sep(*command)
    explained(done, f"data set {name}", *parts)


def test_a_data_set_that_arrives_damaged_is_fetched_once_more(
    sep: SepWorker, hub: StandInHub, repositories: dict[str, Path], tmp_path: Path
) -> None:
    name = hub.add("example/damaged-sums", repositories[GSM8K], "datasets")
    whole = (repositories[GSM8K] / "main" / "train-00000-of-00001.parquet").read_bytes()
    hub.fail("/storage/main/train*", body=bytes(len(whole)), times=1)
    command = ("generate", f"--questions={name}:main", *SMALL, *places(tmp_path, "run"))
    done = sep(*command)
    assert done.status == 0, done.err
    assert hub.bytes_sent("/storage/main/train*") == 2 * len(whole)


# --- which files ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "left_out"),
    [
        (["config.json", "model.safetensors", "tokenizer.json"], ["pytorch_model.bin", "tf.h5"]),
        (["model.safetensors"], ["model-00001-of-00002.safetensors", "consolidated.safetensors"]),
        (
            ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
            ["model.fp16.safetensors", "adapter_model.safetensors", "onnx/model.safetensors"],
        ),
        (
            ["modules.json", "1_Pooling/config.json", "2_Dense/model.safetensors"],
            ["onnx/config.json", "openvino/model.xml", "2_Dense/pytorch_model.bin"],
        ),
        (["chat_template.jinja", "spm.model", "vocab.txt"], ["weights/model.safetensors", "a.py"]),
    ],
)
def test_only_files_that_are_loaded_are_wanted(files: list[str], left_out: list[str]) -> None:
    assert wanted_files([*files, *left_out]) == sorted(files)
