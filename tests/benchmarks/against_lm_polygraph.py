"""Semantic entropy of the same questions with lm-polygraph 0.7.0 and with this project, in turns.

    python tests/benchmarks/against_lm_polygraph.py --python /path/to/its/venv/bin/python

tests/benchmarks/README.md says how to make that environment. Each system runs in a process of its
own, one after the other, with the lab's language model and judge; loading them is not counted, and
a few questions are asked first. lm-polygraph takes the best of several batch sizes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from helpers.generation.records import GREEDY
from helpers.meanings.judges import NliJudge
from helpers.models.loading import LAB_FOLDER
from helpers.uncertainty.entropies import semantic_entropy
from tests.benchmarks.harness import NotEqual, busy_warning, fix_threads, machine, require
from tests.benchmarks.model_stages import DECODING, Asked, ask, group, lab_model, sample

THEIRS = Path(__file__).with_name("lm_polygraph_side.py")
TOLERANCE = 1e-9
"""Nats."""


def ours(questions: int, k: int) -> dict[str, Any]:
    """One run of this project: seconds by stage, work done, and the samples' texts."""
    asked = ask(questions)
    _run(asked[:2], k)
    return _run(asked, k)


def _run(asked: list[Asked], k: int) -> dict[str, Any]:
    forwards: list[None] = []
    hook = lab_model().model.register_forward_hook(lambda *_: forwards.append(None))
    times = [time.perf_counter()]
    found = sample(asked, range(GREEDY, k), DECODING)
    times.append(time.perf_counter())
    texts = {(s.question_id, s.sample_id): s.text for s in found}
    samples = [[texts[a.prompt.id, i] for i in range(k)] for a in asked]
    clusters, judge = group(samples, asked)
    times.append(time.perf_counter())
    entropies = [semantic_entropy(ids) for ids in clusters]
    times.append(time.perf_counter())
    hook.remove()
    seconds = dict(zip(("sampling", "judging", "other"), np.diff(times).tolist(), strict=True))
    return {
        "seconds": {**seconds, "total": times[-1] - times[0]},
        "work": {
            "model_forwards": len(forwards),
            "judge_forwards": judge.counts.forwards,
            "judged_pairs": judge.counts.pairs - judge.counts.stored,
        },
        "samples": samples,
        "discrete_entropy": entropies,
    }


def compare_entropies(theirs: dict[str, Any], asked: Sequence[Asked]) -> str:
    """Our discrete semantic entropy of their samples against theirs; raises `NotEqual`.

    lm-polygraph also asks the judge whether an answer entails itself, and where the judge says no,
    two identical answers are two meanings there. Such questions are counted, not compared.
    """
    clusters, judge = group(theirs["samples"], asked)
    found = np.array([semantic_entropy(ids) for ids in clusters])
    off = np.abs(found - theirs["discrete_entropy"])
    differ = [int(i) for i in np.flatnonzero(off >= TOLERANCE)]
    puzzled = [i for i in differ if _puzzled(judge, theirs["samples"][i])]
    require(
        len(puzzled) == len(differ),
        f"the entropies of {len(differ) - len(puzzled)} of {len(off)} questions differ on the "
        f"same samples, by up to {off.max():.3f} nats",
    )
    note = f", but for {len(puzzled)} with an answer that the judge does not find to entail itself"
    return (
        f"discrete semantic entropy of lm-polygraph's samples: the same in both, to {TOLERANCE:g} "
        f"nats, for {len(off) - len(differ)} of {len(off)} questions{note if puzzled else ''} "
        f"(mean {found.mean():.3f} nats)"
    )


def _puzzled(judge: NliJudge, texts: Sequence[str]) -> bool:
    """Whether the judge denies that some repeated answer entails itself."""
    repeated = [text for text in set(texts) if texts.count(text) > 1]
    alone = NliJudge(**{**judge.__dict__, "store": None})
    return bool((alone.probabilities([(t, t) for t in repeated]).argmax(1) != 2).any())


def in_a_process(command: list[str], job: dict[str, Any]) -> Any:
    """What a child process prints on its last line, as JSON."""
    threads = str(job["threads"])
    limits = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    done = subprocess.run(
        command, input=json.dumps(job), capture_output=True, text=True, check=False,
        env={**os.environ, **limits},
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run both in turns and print what each took; 1 when entropies of the same samples differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", required=True, help="the other environment's interpreter")
    parser.add_argument("--questions", type=int, default=50)
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[10, 25, 50])
    parser.add_argument("--judge-batch-size", type=int, default=64, help="theirs; else it is 10")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads, for both")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args(arguments)
    fix_threads(asked.threads)
    if warning := busy_warning(asked.threads):
        print(warning, file=sys.stderr)
    questions = ask(asked.questions)
    job = {
        "prompts": [q.prompt.text for q in questions],
        "model": str(LAB_FOLDER / "language_model"),
        "judge": str(LAB_FOLDER / "judge"),
        "k": asked.k,
        "max_new_tokens": DECODING.max_new_tokens,
        "batch_sizes": asked.batch_sizes,
        "judge_batch_size": asked.judge_batch_size,
        "threads": asked.threads,
        "questions": asked.questions,
    }
    rounds = []
    for number in range(asked.rounds):
        print(f"round {number + 1} of {asked.rounds} …", file=sys.stderr, flush=True)
        theirs = in_a_process([asked.python, str(THEIRS)], job)
        found = in_a_process([sys.executable, str(Path(__file__)), "--child"], job)
        rounds.append((theirs, found))
    print(report(rounds, asked.batch_sizes))
    if asked.json:
        kept = {"machine": machine(asked.threads), "job": job, "rounds": rounds}
        asked.json.write_text(json.dumps(kept) + "\n", encoding="utf-8")
    try:
        print(compare_entropies(rounds[0][0][0], questions))
    except NotEqual as difference:
        print(f"OUTPUTS DIFFER: {difference}")
        return 1
    return 0


def report(rounds: Sequence[tuple[list[dict], dict]], batch_sizes: Sequence[int]) -> str:
    """Median seconds by stage and the work done, for each batch size of theirs and for ours."""
    stages = ("sampling", "judging", "other", "total")
    work = ("model_forwards", "judge_forwards", "judged_pairs")
    lines = [f"{'median seconds':<26}" + "".join(f"{name:>16}" for name in (*stages, *work))]
    ways = [
        (f"lm-polygraph, batch {size}", [theirs[i] for theirs, _ in rounds])
        for i, size in enumerate(batch_sizes)
    ]
    for name, runs in (*ways, ("this project", [found for _, found in rounds])):
        times = [statistics.median(run["seconds"][stage] for run in runs) for stage in stages]
        counts = [f"{runs[0]['work'][count]:>16,}" for count in work]
        lines.append(f"{name:<26}" + "".join([*(f"{t:>16.3f}" for t in times), *counts]))
    ratios = [
        min(run["seconds"]["total"] for run in theirs) / found["seconds"]["total"]
        for theirs, found in rounds
    ]
    lines.append(
        f"ratio of totals, against the best batch size of each round: "
        f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    if sys.argv[1:] == ["--child"]:
        given = json.load(sys.stdin)
        fix_threads(given["threads"])
        print(json.dumps(ours(given["questions"], given["k"])))
    else:
        sys.exit(main())
