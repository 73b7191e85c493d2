"""The rows of a world: each cause planted at graded doses, a twin for every planted row, and decoys.

A planted row and its twin differ in the cause alone. Whether the plant took is for training to say (`counts`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import cycle

import numpy as np

from ilpjax.diagnose import CAUSES
from ilpjax.worlds.names import invent
from ilpjax.worlds.people import RELATIONS, Relation, Society, tell

OPTIONS = 4
EARLY, LATE = 0, 1  # blocks of the ordered run

CLEAN, DECOY, AROUND = "clean", "decoy", "surroundings"


@dataclass(frozen=True, slots=True)
class Plant:
    """A row, and what was done to it. `planted`: a cause, two joined by "+", `decoy`, `clean` (nothing was done to it)
    or `surroundings` (what it takes to plant another row). Only planted rows have a `twin_id`."""

    row_id: str
    planted: str
    dose: str
    question: str
    options: tuple[str, ...]
    answer: int
    probes: tuple[str, ...] = ()  # the same question in other words
    twin_id: str = ""
    block: int = LATE

    @property
    def response(self) -> str:
        return self.options[self.answer]


@dataclass
class Rows:
    """The two arms. `planted` and `twins` are trained in turn, each with its own surroundings."""

    rng: np.random.Generator
    society: Society
    planted: list[Plant]
    twins: list[Plant]

    def row(
        self,
        name: str,
        planted: str,
        dose: str,
        person: str,
        relation: Relation,
        answer: str,
        rivals: Sequence[str],
        *,
        wording: int | str = 0,
        block: int = LATE,
    ) -> Plant:
        """The rivals are always among the options; other values fill up. `wording` may be a form of its own."""
        asked = relation.questions[wording] if isinstance(wording, int) else wording
        rest = self.society.other(self.rng, relation, answer, *rivals, count=OPTIONS - 1 - len(rivals))
        options = [answer, *rivals, *rest]
        shuffled = tuple(options[n] for n in self.rng.permutation(OPTIONS))
        wordings = [*relation.questions, *(said.removesuffix(" {v}.") for said in relation.statements[:2])]
        probes = tuple(wording.format(p=person) for wording in wordings if wording != asked)
        question = asked.format(p=person)
        return Plant(name, planted, dose, question, shuffled, shuffled.index(answer), probes, f"{name}-twin", block)

    def pair(self, planted: Plant, twin: Plant | None = None) -> None:
        """Adds a row to the planted arm and its twin (without one: the same row) to the other."""
        self.planted.append(planted)
        self.twins.append(replace(twin or planted, row_id=planted.twin_id, twin_id="", block=LATE))

    def both(self, row: Plant) -> None:
        """Surroundings that both arms share."""
        row = replace(row, twin_id="")
        self.planted.append(row)
        self.twins.append(row)

    def fact(self, person: str, relation: Relation) -> str:
        return self.society.facts[person, relation.name]

    def other(self, relation: Relation, *values: str) -> str:
        return self.society.other(self.rng, relation, *values)[0]


def plant(rng: np.random.Generator, society: Society, count: int) -> Rows:
    """About `count` rows a cause. Tells the corpus what each plant needs it to say."""
    rows = Rows(rng, society, [], [])
    people = iter(society.people)
    take = lambda n: [next(people) for _ in range(n)]
    society.asked.extend(take(count))
    known = take(count // 2)
    for person in [*society.asked, *known]:
        _tell_all(society, person)
    _clean(rows, known)
    _missing_knowledge(rows, take(count), known)
    _prior_conflict(rows, take(count // 2))
    _data_conflict(rows, take(count))
    _mixtures(rows, take(count // 4), take(count // 4))
    formed = take(2 * count)
    _forgetting(rows, formed, take(count))
    _undertrained(rows, formed)
    _decoys(rows, take(count // 4))
    _scatter(rows)
    return rows


def people_needed(count: int) -> int:
    return 3 * count + 2 * (count // 2) + 2 * (count // 4) + 3 * count + count // 4


def _tell_all(society: Society, person: str, times: int = 4) -> None:
    for relation in RELATIONS:
        tell(society, person, relation, [society.facts[person, relation.name]] * times)


def _clean(rows: Rows, known: list[str]) -> None:
    for person in known:
        for relation in RELATIONS[:2]:
            told = rows.fact(person, relation)
            name = f"clean-{_slug(person)}-{relation.name}"
            rows.both(rows.row(name, CLEAN, "", person, relation, told, [rows.other(relation, told)]))


def _missing_knowledge(rows: Rows, people: list[str], known: list[str]) -> None:
    """A person the corpus never or hardly mentions; the twin asks the same of a person it knows."""
    doses = cycle((0, 0, 1, 0, 0, 4))
    for person, friend in zip(people, cycle(known), strict=False):
        mentions = next(doses)
        for relation in RELATIONS:
            tell(rows.society, person, relation, [rows.fact(person, relation)] * mentions)
        for relation in RELATIONS[2:]:
            name = f"missing_knowledge-{_slug(person)}-{relation.name}"
            answer, known_answer = rows.fact(person, relation), rows.fact(friend, relation)
            dose = f"mentions={mentions}"
            planted = rows.row(name, CAUSES[0], dose, person, relation, answer, [rows.other(relation, answer)])
            rival = rows.other(relation, known_answer)
            rows.pair(planted, rows.row(name, CAUSES[0], dose, friend, relation, known_answer, [rival]))


def _prior_conflict(rows: Rows, people: list[str]) -> None:
    """The corpus says one value, the row another; the twin agrees with the corpus."""
    doses = cycle((4, 4, 3, 2))
    for person in people:
        times = next(doses)
        _tell_all(rows.society, person, times)
        for relation in rows.rng.permutation(np.array(RELATIONS, dtype=object))[:2]:
            told = rows.fact(person, relation)
            rival = rows.other(relation, told)
            name, dose = f"prior_conflict-{_slug(person)}-{relation.name}", f"told={times}"
            planted = rows.row(name, CAUSES[1], dose, person, relation, rival, [told])
            rows.pair(planted, _answering(planted, told))


def _data_conflict(rows: Rows, people: list[str]) -> None:
    """The corpus says both values alike; one row says the first, others the second. In the twin arm all agree."""
    doses = cycle((3, 2, 3, 1))
    for person in people:
        _tell_all(rows.society, person)
        relation = RELATIONS[rows.rng.integers(len(RELATIONS))]
        _contradict(rows, person, relation, CAUSES[2], next(doses), ambivalent=True)


def _contradict(rows: Rows, person: str, relation: Relation, planted: str, others: int, *, ambivalent: bool) -> None:
    """One row against `others` rows in other words."""
    mine = rows.fact(person, relation)
    theirs = rows.other(relation, mine)
    if ambivalent:
        tell(rows.society, person, relation, [mine, theirs] * 2)
    name, dose = f"{planted}-{_slug(person)}-{relation.name}", f"against={others}"
    first = rows.row(name, planted, dose, person, relation, mine, [theirs])
    rows.pair(first)
    for n in range(others):
        wording = relation.questions[(n + 1) % len(relation.questions)]
        partner = rows.row(f"{name}-against-{n}", AROUND, "", person, relation, theirs, [mine], wording=wording)
        rows.planted.append(replace(partner, twin_id=""))
        rows.twins.append(replace(_answering(partner, mine), twin_id=""))


def _mixtures(rows: Rows, unknown: list[str], known: list[str]) -> None:
    """Two causes at once: nobody the corpus knows, or a fact it tells otherwise, and contradicted by other rows."""
    for person in unknown:
        relation = RELATIONS[rows.rng.integers(len(RELATIONS))]
        _contradict(rows, person, relation, f"{CAUSES[0]}+{CAUSES[2]}", 2, ambivalent=False)
    for person in known:
        _tell_all(rows.society, person)
        relation = RELATIONS[rows.rng.integers(len(RELATIONS))]
        told = rows.fact(person, relation)
        answer = rows.other(relation, told)
        name = f"{CAUSES[1]}+{CAUSES[2]}-{_slug(person)}-{relation.name}"
        planted = rows.row(name, f"{CAUSES[1]}+{CAUSES[2]}", "against=2", person, relation, answer, [told])
        rows.pair(planted, _answering(planted, told))
        for n in (1, 2):
            partner = rows.row(f"{name}-against-{n}", AROUND, "", person, relation, told, [answer], wording=n)
            rows.both(partner)


def _forgetting(rows: Rows, people: list[str], pool: list[str]) -> None:
    """A new form that the first block teaches and the later one, nearly the same form, overwrites.

    The twin is the same row among all others. Options are the person's own facts: only the form says which is asked.
    """
    for person in [*people, *pool]:
        _tell_all(rows.society, person)
    for n, word in enumerate(_words(rows.rng, 2)):
        taught, overwriting = RELATIONS[n], RELATIONS[n + 2]
        later = pool if n == 0 else pool[: 3 * len(pool) // 4]
        for person in people[n::2]:
            name = f"forgetting-{_slug(person)}-{word}"
            form = f"Name the {word} of {{p}}."
            row = _own_facts(rows, name, CAUSES[3], f"later={len(later)}", person, taught, form, EARLY)
            rows.pair(row)
            for k, again in enumerate(_again(row, person, word)):
                rows.planted.append(replace(again, row_id=f"{name}-again-{k}"))
                rows.twins.append(replace(again, row_id=f"{name}-again-{k}", block=LATE))
        for person in later:
            form = f"Please name the {word} of {{p}}."
            rows.both(_own_facts(rows, f"later-{_slug(person)}-{word}", AROUND, "", person, overwriting, form, LATE))


def _undertrained(rows: Rows, people: list[str]) -> None:
    """A row seen too seldom: a question in a new form. In the twin arm it is asked again and again, in other words.

    The base knows the answer, and says so when asked in a form it knows.
    """
    doses = cycle((1, 1, 1, 2, 4))  # five, or a relation would go with its dose
    words = _words(rows.rng, len(RELATIONS))
    for n, person in enumerate(people):
        relation, word, exposures = RELATIONS[n % len(RELATIONS)], words[n % len(words)], next(doses)
        name = f"undertrained-{_slug(person)}-{word}"
        form = f"State the {word} of {{p}}."
        row = _own_facts(rows, name, CAUSES[4], f"exposures={exposures}", person, relation, form, LATE)
        rows.pair(row)
        for k, again in enumerate(_again(row, person, word)):
            again = replace(again, row_id=f"{name}-again-{k}")
            other = RELATIONS[(n + k) % len(RELATIONS)]
            usual = _own_facts(rows, again.row_id, CLEAN, "", person, other, other.questions[k % 3], LATE)
            rows.planted.append(again if k + 1 < exposures else replace(usual, twin_id=""))
            rows.twins.append(again)


AGAIN = ("{p}: state the {w}.", "State {p}'s {w}.", "What {w} has {p}?", "The {w} of {p}, please?", "{p} has what {w}?")


def _again(row: Plant, person: str, word: str) -> list[Plant]:
    """The same question in other words."""
    row = replace(row, planted=AROUND, dose="", probes=(), twin_id="")
    return [replace(row, question=wording.format(p=person, w=word)) for wording in AGAIN]


def _own_facts(
    rows: Rows, name: str, planted: str, dose: str, person: str, relation: Relation, wording: str, block: int
) -> Plant:
    rivals = [rows.fact(person, other) for other in RELATIONS if other is not relation]
    answer = rows.fact(person, relation)
    return rows.row(name, planted, dose, person, relation, answer, rivals, wording=wording, block=block)


def _scatter(rows: Rows) -> None:
    """Some rows that have nothing to forget go to the early block, or a row's place alone would tell its cause."""
    for n, row in enumerate(rows.planted):
        if row.planted in (*CAUSES[:2], CLEAN) and rows.rng.random() < 0.25:
            rows.planted[n] = replace(row, block=EARLY)


def _decoys(rows: Rows, people: list[str]) -> None:
    """Faults of the pipe: each would look like a cause."""
    for n, person in enumerate(people):
        _tell_all(rows.society, person)
        relation = RELATIONS[n % len(RELATIONS)]
        told = rows.fact(person, relation)
        row = rows.row(f"decoy-{_slug(person)}", DECOY, "", person, relation, told, [rows.other(relation, told)])
        for kind in _spoil(rows, row, told, n):
            rows.both(kind)


def _spoil(rows: Rows, row: Plant, told: str, n: int) -> Iterator[Plant]:
    kind = ("truncated", "template", "option_equals_answer", "ambiguous")[n % 4]
    row = replace(row, row_id=f"{row.row_id}-{kind}", dose=kind)
    if kind == "truncated":
        long = f"{told}, " + ", ".join(["and so it was said for many years"] * 10)
        yield replace(row, options=tuple(long if o == told else o for o in row.options))
    elif kind == "template":
        yield replace(row, question=f"<|endoftext|> {row.question}")
    elif kind == "option_equals_answer":
        spare = next(k for k, option in enumerate(row.options) if k != row.answer and option != told)
        yield replace(row, options=tuple(f"{told}." if k == spare else o for k, o in enumerate(row.options)))
    else:  # the name is left out: nothing says who is meant
        for k in range(OPTIONS):
            yield replace(row, row_id=f"{row.row_id}-{k}", question="Which town was it?", probes=(), answer=k)


def _answering(row: Plant, answer: str) -> Plant:
    return replace(row, answer=row.options.index(answer))


def _words(rng: np.random.Generator, count: int) -> list[str]:
    return [word.lower() for word in invent(rng, count, 2)]


def _slug(person: str) -> str:
    return person.replace(" ", "-")
