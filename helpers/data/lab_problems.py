"""Word problems in GSM8K's format, made of the forty stories of `lab_stories.txt`.

A problem tells of a quantity that one to four events change, among sentences that do not matter.
The number of sentences is drawn independently of the number of events, so that the length of a
question does not tell how hard it is; and a closing request ("Reply briefly.", "Reply in your own
words.") sets how freely the answer may be phrased, independently of both.

>>> problem = make_problem(np.random.default_rng(0))
>>> problem.answer.splitlines()[-1] == f"#### {problem.final}"
True
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

# --- stories -------------------------------------------------------------------------------------
#
# Every story tells of one quantity `{i}` that belongs to `{N}`; its four events change the quantity
# by one operation each, and `{b}` is the event's number. The sentences of a story are of similar
# length on purpose: the number of words must not tell how many operations a problem needs.


@dataclass(frozen=True)
class Template:
    """One story: an opening that states a quantity, an event per operation, and a question."""

    id: str
    items: tuple[str, ...]
    opening: str
    add: str
    subtract: str
    multiply: str
    divide: str
    question: str


def _stories() -> Iterator[Template]:
    """The stories of the file, a paragraph each and a line a field."""
    text = Path(__file__).with_name("lab_stories.txt").read_text(encoding="utf-8")
    for story in text.strip().split("\n\n"):
        name, items, *sentences = story.splitlines()
        yield Template(name, tuple(items.split(", ")), *sentences)


STORIES = tuple(_stories())
TEMPLATES, UNSEEN_TEMPLATES = STORIES[:32], STORIES[32:]
"""Those of which training and questions are made, and those that no training has seen."""

DISTRACTORS = (
    "The bus ride of {P} to work takes {d} minutes.",
    "{P} owns {d} {j} but leaves them all at home.",
    "It is still {d} days until the birthday of {P}.",
    "In the next street live {d} rather loud people.",
    "{P} is {d} years old by now and fond of {j}.",
    "The old radio plays {d} slow songs in a row.",
    "A big sign says that it is {d} miles to town.",
    "{P} walks {d} steps and sits down on a bench.",
    "Last year {P} used to read {d} pages a week.",
    "The tall clock shows {d} minutes past the hour.",
    "On the long wall hang {d} pictures of {j}.",
    "{P} tells a rather long story about {d} {j}.",
    "The yellow house next door has {d} windows.",
    "It rained for {d} hours in a row that week.",
    "{P} sometimes dreams of {d} {j} at night.",
    "The bus ticket of {P} has the number {d}.",
)

NAMES = (
    "Ada", "Ben", "Cleo", "Dan", "Ella", "Finn", "Gina", "Hugo",
    "Iris", "Jack", "Kira", "Leo", "Mia", "Noah", "Olga", "Paul",
    "Rita", "Sam", "Tara", "Udo", "Vera", "Will", "Yara", "Zeno",
    "Anna", "Bram", "Cora", "Dora", "Emil", "Fred", "Gwen", "Hans",
)  # fmt: skip


# --- loose phrases -------------------------------------------------------------------------------
#
# A problem of loose phrases strings together an opening, events and a question that were not
# written for each other, about things of many kinds. Training on them beside the stories teaches
# the model to read a sentence by its words, whatever the story, which is what the unseen stories
# ask for. No question of the lab is made of them.


THINGS = (
    "lemons", "ladders", "tickets", "bricks", "feathers", "violins", "buckets", "hammers",
    "ponies", "carrots", "mirrors", "needles", "pillows", "saddles", "turnips", "scooters",
    "anchors", "barrels", "carpets", "dresses", "engines", "flags", "gloves", "helmets",
    "islands", "jackets", "kettles", "lockers", "masks", "nests", "oars", "pencils",
    "quilts", "rabbits", "shovels", "trumpets", "umbrellas", "vests", "wheels", "zebras",
    "planks", "stones", "lizards", "bicycles", "diaries", "whistles", "cookies", "sausages",
    "drums", "bells", "pigeons", "crabs", "sponges", "tables", "stools", "cables", "screws",
    "lenses", "robots", "engravings", "sculptures", "drawings", "reports", "folders", "tapes",
)  # fmt: skip

WHO = (
    "{P}", "A friend", "The mayor", "A visitor", "A widow", "An uncle", "The boss", "A stranger",
    "The robot", "A guide", "The crew", "A pilot", "The owner", "A helper",
    "The captain", "An old lady", "The public", "A merchant", "The next train", "A second lorry",
)  # fmt: skip
WHEN = (
    "At dawn", "At noon", "In autumn", "In winter", "Overnight", "After lunch", "On Monday",
    "A week later", "With the wind", "At the gate", "In the hall", "Behind the hill", "By luck",
    "On the way", "At the fair", "Near the river", "During the storm", "In the cold", "Later on",
)  # fmt: skip
COUNT = ("{b} {i}", "{b} of the {i}", "{b} {i}")

BRINGS = (
    "brings", "adds", "leaves", "sends", "finds", "gives", "carries in", "delivers", "makes",
    "builds", "writes", "shapes", "gains", "buys", "unloads", "gathers", "puts down", "wins",
)  # fmt: skip
COME = (
    "come in", "join", "arrive", "turn up", "are added", "are found", "are born", "appear",
    "come along", "are brought in", "roll in", "are delivered", "are put on top",
)  # fmt: skip
TAKES = (
    "takes", "removes", "steals", "loses", "breaks", "sells", "destroys", "stops", "picks up",
    "throws away", "hides", "borrows", "eats", "hands out", "uses up", "carries off", "drops",
)  # fmt: skip
GO = (
    "get lost", "crack", "vanish", "fall apart", "set out", "sail away", "leave", "are gone",
    "run away", "are stolen", "go missing", "are thrown out", "break", "set off", "sink", "burn",
)  # fmt: skip
GROUPS = (
    "piers", "cellars", "belts", "windows", "leaders", "machines", "sons", "stars", "shelves",
    "carts", "teams", "rooms", "towns", "boxes", "friends", "tables", "islands", "schools",
)  # fmt: skip
SPREAD = (
    "are shared evenly among", "fill evenly", "go evenly to", "are split evenly over",
    "are shown evenly in", "follow evenly", "belong evenly to", "land evenly on", "stand evenly at",
    "are copied evenly to", "roll evenly onto", "are dealt evenly to", "are stored evenly in",
)  # fmt: skip
HOLDS = (
    "wants", "has", "holds", "needs", "sends", "shows", "counts", "sees", "gets", "asks for",
)  # fmt: skip
PLACES = (
    "port", "archive", "oven", "trail", "machine", "slope", "rocket", "belt", "museum",
    "castle", "mine", "tower", "tent", "cave", "ship", "yard", "office", "stable", "attic",
)  # fmt: skip


def loose_template(rng: np.random.Generator, stories: tuple[Template, ...]) -> Template:
    """A story put together from loose phrases and from sentences of several `stories`."""

    def pick(options: tuple[str, ...]) -> str:
        return options[int(rng.integers(len(options)))]

    def mixed(field: str, *loose: str) -> str:
        if rng.random() < 0.35:
            return getattr(stories[int(rng.integers(len(stories)))], field)
        return pick(loose)

    place, group, other = pick(PLACES), pick(GROUPS), pick(PLACES)
    keeps = pick(("keeps", "takes", "guards", "watches", "opens", "steers", "sees", "carries"))
    return Template(
        id="loose",
        items=THINGS if rng.random() < 0.6 else stories[int(rng.integers(len(stories)))].items,
        opening=mixed(
            "opening",
            f"In the {place} {{N}} {pick(('sees', 'counts', 'keeps', 'has'))} {{a}} {{i}}.",
            f"The {place} of {{N}} {pick(('holds', 'counts', 'has', 'starts with'))} {{a}} {{i}}.",
            f"{{N}} {pick(('owns', 'inherits', 'sorts', 'brings', 'finds', 'makes'))} {{a}} {{i}}.",
            f"On the {place} of {{N}} there are {{a}} {{i}}.",
        ),
        add=mixed(
            "add",
            f"{pick(WHO)} {pick(BRINGS)} {{b}} {{i}}.",
            f"{pick(WHO)} {pick(BRINGS)} {{b}} more {{i}}.",
            f"{pick(WHEN)} {{b}} {{i}} {pick(COME)}.",
            f"{pick(WHEN)} {{N}} {pick(BRINGS)} {{b}} {{i}} more.",
        ),
        subtract=mixed(
            "subtract",
            f"{pick(WHO)} {pick(TAKES)} {pick(COUNT)}.",
            f"{pick(WHEN)} {pick(COUNT)} {pick(GO)}.",
            f"{pick(WHEN)} {{N}} {pick(TAKES)} {pick(COUNT)}.",
        ),
        multiply=mixed(
            "multiply",
            f"{pick(WHEN)} there are {{b}} times as many {{i}}.",
            f"{pick(WHEN)} the {other} has {{b}} times as many {{i}}.",
            f"{pick(WHO)} {pick(HOLDS)} {{b}} times as many {{i}}.",
        ),
        divide=mixed(
            "divide",
            f"The {{i}} {pick(SPREAD)} {{b}} {group} and {{N}} {keeps} one.",
            f"The {{i}} {pick(SPREAD)} {{b}} {group} and {{N}} is at one.",
        ),
        question=mixed(
            "question",
            f"How many {{i}} does {{N}} {pick(('have', 'hold', 'count', 'find', 'feed', 'keep'))}?",
            f"How many {{i}} are {pick(('there', 'left', 'with {N}', 'in the ' + place))}?",
        ),
    )


T = TypeVar("T")

POOLS = ("training", "questions", "unseen", "loose")
OPERATIONS = {"+": "add", "-": "subtract", "*": "multiply", "/": "divide"}
"""To the field of a story that tells of it."""
STEP_WEIGHTS = (0.4, 0.3, 0.2, 0.1)  # shares of problems with 1, 2, 3 and 4 operations

REQUESTS = (
    ("Reply in as few words as you can.", "Reply with no more than the count."),
    ("Reply in one plain short sentence.", "Reply with one sentence and no more."),
    ("Reply freely and in your own words.", "Reply in any words that you may like."),
)
"""What the question asks of the phrasing: terse, a sentence, free."""

SENTENCES = ("{N} has {n} {i}.", "There are {n} {i}.", "It is {n} {i}.", "That makes {n} {i}.")
OPENERS = ("", "So ", "In the end ", "All in all ", "After all that ", "By my count ", "I think ")
CORES = (
    "{N} has {n} {i}", "there are {n} {i}", "it comes to {n} {i}", "we get {n} {i}",
    "{n} {i} are there", "the count is {n} {i}", "{N} ends up with {n} {i}",
)  # fmt: skip
CLOSERS = (".", " now.", " altogether.", " for {N}.", ", I am sure.", ", as far as I see.")


@dataclass(frozen=True)
class Problem:
    """A question, its worked answer, and what it was made from."""

    question: str
    answer: str  # reasoning lines with `<<12+7=19>>` annotations, then `#### 19`
    final: int
    unit: str  # what is counted, as the answer names it
    name: str
    template: str
    steps: int
    freedom: int  # 0 terse, 1 a sentence, 2 free wording
    equations: tuple[str, ...]

    @property
    def id(self) -> str:
        """Twelve hexadecimal digits of the question's SHA-256."""
        return hashlib.sha256(self.question.encode()).hexdigest()[:12]


def phrase(rng: np.random.Generator, freedom: int, number: int, unit: str, name: str) -> str:
    """An answer that states `number unit`, worded with the given freedom (0, 1 or 2)."""
    if freedom == 0:
        form = "{n} {i}."
    elif freedom == 1:
        form = _pick(rng, SENTENCES)
    else:
        form = _pick(rng, OPENERS) + _pick(rng, CORES) + _pick(rng, CLOSERS)
    text = form.format(n=number, i=unit, N=name)
    return text[0].upper() + text[1:]


def make_problem(rng: np.random.Generator, *, pool: str = "questions") -> Problem:
    """One random problem; "unseen" takes the held-out stories and larger numbers, "loose" the
    loose phrases, every other pool the stories.
    """
    unseen = pool == "unseen"
    if pool == "loose":
        template = loose_template(rng, TEMPLATES)
    else:
        template = _pick(rng, UNSEEN_TEMPLATES if unseen else TEMPLATES)
    unit, other_unit = _pick(rng, template.items), _pick(rng, _pick(rng, TEMPLATES).items)
    name, other = (NAMES[k] for k in rng.choice(len(NAMES), 2, replace=False))
    steps = 1 + int(rng.choice(4, p=STEP_WEIGHTS))
    freedom = int(rng.integers(3))
    largest = 40 if unseen else int(_pick(rng, (12, 20, 40)))
    start = int(rng.integers(2, largest + 1))

    total, op, events, lines, equations = start, "", [], [], []
    for _ in range(steps):
        op, b, result = _operation(rng, total, largest, previous=op)
        event = getattr(template, OPERATIONS[op])
        events.append(event.format(N=name, P=other, i=unit, b=b))
        equations.append(f"{total}{op}{b}={result}")
        lines.append(f"The {unit} now number {total}{op}{b}=<<{equations[-1]}>>{result}.")
        total = result

    n_sentences = int(rng.integers(4, 6))
    for _ in range(n_sentences - steps):
        idle = _pick(rng, DISTRACTORS).format(
            P=other, j=other_unit, d=int(rng.integers(2, largest))
        )
        events.insert(int(rng.integers(len(events) + 1)), idle)
    sentences = [
        template.opening.format(N=name, a=start, i=unit),
        *events,
        template.question.format(N=name, i=unit),
        _pick(rng, REQUESTS[freedom]),
    ]
    answer = "\n".join([*lines, f"#### {total}"])
    return Problem(
        " ".join(sentences), answer, total, unit, name, template.id, steps, freedom,
        tuple(equations),
    )  # fmt: skip


def problems(seed: int, *, pool: str) -> Iterator[Problem]:
    """Endless problems of one pool, without repeats: one of `POOLS`.

    A hash of the question decides between the first two, so the language model never trains on
    a question that is asked of it later, whatever the seeds.
    """
    if pool not in POOLS:
        raise ValueError(f"pool is {pool!r}; it must be one of {', '.join(POOLS)}")
    rng = np.random.default_rng([seed, len(pool)])
    seen: set[str] = set()
    while True:
        problem = make_problem(rng, pool=pool)
        held_out = int(problem.id[:4], 16) % 5 == 0
        stories = pool in ("training", "questions")
        if problem.id not in seen and (not stories or held_out == (pool == "questions")):
            seen.add(problem.id)
            yield problem


SPLIT_PATTERN = ("train", "test", "train", "validation", "test") * 2
"""The splits of ten questions in a row: a longer list keeps the splits of a shorter one."""


def _pick(rng: np.random.Generator, options: Sequence[T]) -> T:
    return options[int(rng.integers(len(options)))]


def _operation(
    rng: np.random.Generator, total: int, largest: int, previous: str
) -> tuple[str, int, int]:
    """Another operation than the `previous`, that keeps the quantity whole and not too large."""
    while True:
        op = _pick(rng, tuple(OPERATIONS))
        b = int(rng.integers(2, 7 if op in "*/" else largest + 1))
        if op == previous or (op == "/" and total % b):
            continue
        result = {"+": total + b, "-": total - b, "*": total * b, "/": total // b}[op]
        if 2 <= result <= 8 * largest:
            return op, b, result
