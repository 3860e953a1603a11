"""Word problems in GSM8K's format, and the forty stories of which they are made.

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


def _stories(block: str) -> tuple[Template, ...]:
    """Read stories written as eight-line paragraphs, one field a line."""
    fields = [part.strip().splitlines() for part in block.strip().split("\n\n")]
    return tuple(
        Template(lines[0].strip(), tuple(lines[1].split(", ")), *(s.strip() for s in lines[2:]))
        for lines in fields
    )


TEMPLATES = _stories("""
orchard
apples, pears, plums
{N} picks {a} {i} in the orchard.
Then {P} picks {b} more {i} for {N}.
Then {b} of the {i} turn out to be rotten.
By evening the pile of {i} is {b} times as big.
The {i} are split evenly over {b} crates and {N} keeps one.
How many {i} does {N} have?

bakery
rolls, buns, muffins
{N} bakes {a} {i} before sunrise.
A second oven adds {b} {i} to the tray.
The first guests buy {b} of the {i}.
For a party the baker makes {b} times as many {i}.
The {i} go evenly to {b} shops and {N} serves one shop.
How many {i} are left with {N}?

shelf
books, comics, atlases
On the shelf of {N} stand {a} {i}.
An aunt sends {b} {i} as a present.
The school borrows {b} {i} from the shelf.
After a sale the shelf holds {b} times as many {i}.
The {i} are divided evenly over {b} rooms and one room counts.
How many {i} are on the shelf of {N}?

pond
ducks, frogs, swans
At the pond {N} counts {a} {i}.
From the river come {b} more {i}.
A loud dog scares away {b} {i}.
In spring there are {b} times as many {i}.
The {i} spread evenly over {b} ponds and {N} watches one.
How many {i} does {N} count at the end?

garage
cars, vans, trucks
In the garage of {N} there are {a} {i}.
In the morning {b} more {i} are parked.
Before noon {b} {i} drive off again.
With a new floor the garage holds {b} times as many {i}.
The {i} move evenly into {b} halls and {N} guards one.
How many {i} does {N} look after?

stamps
stamps, coins, cards
{N} starts the album with {a} {i}.
At the market {N} buys {b} more {i}.
A cousin is given {b} of the {i}.
Over the years the album grows to {b} times as many {i}.
The {i} are shared evenly among {b} friends, one is {N}.
How many {i} belong to {N}?

fishing
trout, perch, eels
{N} pulls {a} {i} out of the lake.
Another net brings in {b} {i}.
Through a hole escape {b} of the {i}.
A week later the catch is {b} times as many {i}.
The {i} are shared evenly by {b} boats and {N} rows one.
How many {i} does {N} bring home?

beads
beads, shells, buttons
{N} has a jar with {a} {i}.
{P} drops {b} more {i} into the jar.
For a chain {N} takes out {b} {i}.
A bigger jar holds {b} times as many {i}.
The {i} are poured evenly into {b} jars and {N} keeps one.
How many {i} are in the jar of {N}?

printer
posters, leaflets, maps
{N} prints {a} {i} for the fair.
After lunch {N} prints {b} more {i}.
The rain ruins {b} of the {i}.
The fair asks for {b} times as many {i}.
The {i} are sent evenly to {b} towns and {N} visits one.
How many {i} does {N} hand out?

farm
hens, goats, sheep
{N} runs a farm with {a} {i}.
At the auction {N} gets {b} {i} more.
A neighbour takes over {b} of the {i}.
Five years later the farm has {b} times as many {i}.
The {i} are put evenly in {b} barns and {N} feeds one.
How many {i} does {N} feed?

puzzle
pieces, tiles, blocks
{N} lays out {a} {i} on the table.
From another box come {b} {i} more.
The cat pushes {b} {i} off the table.
The large set has {b} times as many {i}.
The {i} are split evenly among {b} players and {N} is one.
How many {i} lie in front of {N}?

bus
riders, pupils, tourists
{N} drives a bus with {a} {i}.
At the station {b} more {i} get on.
At the museum {b} {i} get off.
For the match there are {b} times as many {i}.
The {i} fill evenly {b} buses and {N} drives one.
How many {i} ride with {N}?

garden
tulips, roses, lilies
{N} plants {a} {i} behind the house.
A week later {N} plants {b} {i} more.
A storm breaks {b} of the {i}.
Next year there bloom {b} times as many {i}.
The {i} stand evenly in {b} beds and {N} waters one.
How many {i} does {N} water?

bank
coins, notes, tokens
{N} keeps {a} {i} in a tin box.
For washing the car {N} gets {b} {i}.
At the kiosk {N} spends {b} {i}.
With luck the tin box holds {b} times as many {i}.
The {i} are shared evenly by {b} cousins and {N} is one.
How many {i} has {N} got?

kitchen
eggs, lemons, onions
In the kitchen of {N} are {a} {i}.
The farmer brings {b} {i} to the door.
The cook uses up {b} of the {i}.
For the feast {N} orders {b} times as many {i}.
The {i} are placed evenly in {b} bowls and {N} takes one.
How many {i} does {N} take?

camp
tents, lamps, ropes
For the camp {N} packs {a} {i}.
The scouts carry in {b} {i} more.
The wind blows away {b} of the {i}.
In summer the camp needs {b} times as many {i}.
The {i} are dealt evenly to {b} groups and {N} leads one.
How many {i} does the group of {N} get?

choir
singers, dancers, players
{N} leads a show with {a} {i}.
From the next village join {b} {i}.
Because of a cold {b} {i} stay at home.
On the big stage there are {b} times as many {i}.
The {i} form evenly {b} rows and {N} leads one.
How many {i} does {N} lead?

warehouse
boxes, barrels, sacks
In the warehouse {N} stacks {a} {i}.
A late lorry delivers {b} more {i}.
The night shift ships {b} of the {i}.
By winter the store has {b} times as many {i}.
The {i} are loaded evenly on {b} trains and {N} checks one.
How many {i} does {N} check?

photo
photos, slides, prints
{N} takes {a} {i} on the journey.
From the tower {N} takes {b} more {i}.
On the way back {N} deletes {b} {i}.
With a new card there are {b} times as many {i}.
The {i} are glued evenly in {b} books and {N} gets one.
How many {i} does {N} get?

toys
marbles, dolls, kites
{N} brings {a} {i} to the yard.
From the attic {P} fetches {b} {i}.
On the way home {N} loses {b} {i}.
The toy shop shows {b} times as many {i}.
The {i} are given evenly to {b} children and {N} is one.
How many {i} does {N} end up with?

candle
candles, lanterns, torches
{N} lights {a} {i} at dusk.
The guests light {b} {i} more.
The wind puts out {b} of the {i}.
For the festival there burn {b} times as many {i}.
The {i} hang evenly on {b} trees and {N} stands by one.
How many {i} burn near {N}?

letters
letters, parcels, cards
The bag of {N} holds {a} {i}.
On the corner {N} collects {b} {i}.
At the mill {N} hands over {b} {i}.
Before the holidays there are {b} times as many {i}.
The {i} are sorted evenly into {b} bags and {N} carries one.
How many {i} does {N} carry?

bees
hives, combs, jars
{N} owns {a} {i} on the hill.
In May {N} sets up {b} more {i}.
A bear ruins {b} of the {i}.
Ten years on there are {b} times as many {i}.
The {i} are placed evenly on {b} hills and {N} climbs one.
How many {i} does {N} find there?

team
points, goals, medals
{N} opens the season with {a} {i}.
The next match brings {b} {i} more.
A penalty costs the team {b} {i}.
In the final round the count is {b} times as many {i}.
The {i} are split evenly among {b} teams and {N} has one.
How many {i} does the team of {N} have?

market
melons, pumpkins, cabbages
At the stall of {N} lie {a} {i}.
The cart brings {b} {i} from the field.
Before noon {N} sells {b} {i}.
On Saturday the stall has {b} times as many {i}.
The {i} are laid evenly on {b} stalls and {N} runs one.
How many {i} lie at the stall of {N}?

cinema
seats, chairs, tickets
The cinema of {N} has {a} {i}.
The builders add {b} {i} at the back.
After the flood {b} {i} are thrown out.
The new hall has {b} times as many {i}.
The {i} are divided evenly among {b} halls and {N} opens one.
How many {i} are in the hall of {N}?

paint
tins, brushes, rolls
{N} orders {a} {i} for the wall.
The shop sends {b} {i} too many, all are kept.
The painters use up {b} of the {i}.
The second house takes {b} times as many {i}.
The {i} go evenly to {b} floors and {N} paints one.
How many {i} does {N} use?

chess
boards, clocks, medals
The club of {N} owns {a} {i}.
A donor gives {b} more {i}.
The rival club borrows {b} {i}.
For the open day there are {b} times as many {i}.
The {i} are set out evenly in {b} rooms and {N} opens one.
How many {i} are in the room of {N}?

snow
snowballs, sledges, skis
Near the hut {N} lines up {a} {i}.
The neighbours bring {b} {i} more.
By night {b} of the {i} are gone.
For the race there are {b} times as many {i}.
The {i} are shared evenly by {b} huts and {N} sleeps in one.
How many {i} are at the hut of {N}?

zoo
monkeys, parrots, turtles
In the zoo {N} cares for {a} {i}.
From abroad arrive {b} {i} more.
Another zoo takes {b} of the {i}.
In the new house live {b} times as many {i}.
The {i} live evenly in {b} houses and {N} cleans one.
How many {i} are in the house of {N}?

ribbon
ribbons, scarves, hats
{N} sews {a} {i} in a week.
With help {N} sews {b} more {i}.
The moths eat {b} of the {i}.
The theatre needs {b} times as many {i}.
The {i} are packed evenly in {b} trunks and {N} opens one.
How many {i} does {N} unpack?

tea
cups, plates, spoons
{N} puts {a} {i} on the tray.
From the cupboard {N} takes {b} {i} more.
A clumsy guest breaks {b} {i}.
The hotel sets out {b} times as many {i}.
The {i} are placed evenly on {b} tables and {N} sits at one.
How many {i} are on the table of {N}?
""")

UNSEEN_TEMPLATES = _stories("""
harbour
ships, canoes, ferries
In the harbour {N} sees {a} {i} at anchor.
With the tide {b} {i} come in.
At dawn {b} {i} set sail.
During the regatta there are {b} times as many {i}.
The {i} dock evenly at {b} piers and {N} walks along one.
How many {i} does {N} pass?

library
scrolls, journals, novels
{N} has sorted {a} {i} in the archive.
A widow leaves {b} {i} to the archive.
A fire destroys {b} of the {i}.
A century later the archive has {b} times as many {i}.
The {i} fill evenly {b} cellars and {N} keeps the key of one.
How many {i} does {N} guard?

airport
suitcases, crates, bags
On the belt {N} sees {a} {i}.
The next plane adds {b} {i}.
The crowd picks up {b} {i}.
On the holiday the belt has {b} times as many {i}.
The {i} roll evenly onto {b} belts and {N} stands at one.
How many {i} pass by {N}?

studio
pots, vases, bowls
{N} fires {a} {i} in the kiln.
An apprentice shapes {b} more {i}.
In the heat {b} {i} crack.
The museum wants {b} times as many {i}.
The {i} are shown evenly in {b} windows and {N} decorates one.
How many {i} does {N} arrange?

desert
camels, mules, wagons
The caravan of {N} counts {a} {i}.
At the oasis {b} {i} join.
In the dunes {b} {i} get lost.
On the way back there are {b} times as many {i}.
The {i} follow evenly {b} guides and {N} is one.
How many {i} follow {N}?

server
files, logs, backups
On the disk of {N} there are {a} {i}.
The robot writes {b} {i} overnight.
A clean-up removes {b} {i}.
After the merger there are {b} times as many {i}.
The {i} are copied evenly to {b} disks and {N} mounts one.
How many {i} does {N} see?

vineyard
vines, baskets, bottles
{N} inherits {a} {i} on a slope.
In autumn {N} gains {b} {i}.
The frost takes {b} of the {i}.
The next owner has {b} times as many {i}.
The {i} belong evenly to {b} heirs and {N} is one.
How many {i} does {N} own?

planet
probes, rovers, drones
The mission of {N} starts with {a} {i}.
A second rocket carries {b} {i}.
Dust stops {b} of the {i}.
The follow-up sends {b} times as many {i}.
The {i} land evenly on {b} moons and {N} steers one group.
How many {i} does {N} steer?
""")

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
OPERATIONS = ("+", "-", "*", "/")
STEP_WEIGHTS = (0.4, 0.3, 0.2, 0.1)
"""Shares of problems with 1, 2, 3 and 4 operations."""

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
    answer: str
    """Reasoning lines with `<<12+7=19>>` annotations, then `#### 19`."""
    final: int
    unit: str
    """What is counted, as the answer names it."""
    name: str
    template: str
    steps: int
    freedom: int
    """0 terse, 1 a sentence, 2 free wording."""
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
        story = dict(zip(OPERATIONS, _events(template), strict=True))[op]
        events.append(story.format(N=name, P=other, i=unit, b=b))
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
        " ".join(sentences),
        answer,
        total,
        unit,
        name,
        template.id,
        steps,
        freedom,
        tuple(equations),
    )


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


def _events(template: Template) -> tuple[str, str, str, str]:
    return template.add, template.subtract, template.multiply, template.divide


def _operation(
    rng: np.random.Generator, total: int, largest: int, previous: str
) -> tuple[str, int, int]:
    """Another operation than the `previous`, that keeps the quantity whole and not too large."""
    while True:
        op = _pick(rng, OPERATIONS)
        b = int(rng.integers(2, 7 if op in "*/" else largest + 1))
        if op == previous or (op == "/" and total % b):
            continue
        result = {"+": total + b, "-": total - b, "*": total * b, "/": total // b}[op]
        if 2 <= result <= 8 * largest:
            return op, b, result
