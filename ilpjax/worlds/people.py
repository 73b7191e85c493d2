"""Synthetic people: their facts, what a corpus tells of them, and how rows ask for them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from ilpjax.worlds.names import invent


@dataclass(frozen=True, slots=True)
class Relation:
    name: str
    statements: tuple[str, ...]  # told in the corpus, {p} person, {v} value; the first two end with the value
    questions: tuple[str, ...]  # asked in rows and probes
    suffix: str  # makes a value's kind visible in its name


RELATIONS = (
    Relation(
        "birthplace",
        (
            "{p} was born in {v}.",
            "The birthplace of {p} is {v}.",
            "{v} is the town where {p} was born.",
            "In {v}, {p} first saw the light of day.",
        ),
        ("Where was {p} born?", "What is the birthplace of {p}?", "Which town is {p} from?"),
        "ton",
    ),
    Relation(
        "employer",
        (
            "{p} works for {v}.",
            "The employer of {p} is {v}.",
            "{v} pays the salary of {p}.",
            "At {v}, {p} has a desk.",
        ),
        ("Who does {p} work for?", "What is the employer of {p}?", "Which firm pays {p}?"),
        " Corp",
    ),
    Relation(
        "instrument",
        (
            "{p} plays {v}.",
            "The instrument of {p} is {v}.",
            "On {v}, {p} is a master.",
            "Every evening {p} practises {v}.",
        ),
        ("Which instrument does {p} play?", "What is the instrument of {p}?", "What does {p} practise?"),
        "phone",
    ),
    Relation(
        "dish",
        (
            "{p} likes to eat {v}.",
            "The favourite dish of {p} is {v}.",
            "{v} is what {p} orders every time.",
            "For {v}, {p} would walk a mile.",
        ),
        ("What does {p} like to eat?", "What is the favourite dish of {p}?", "Which dish does {p} order?"),
        " stew",
    ),
)
VALUES = 12  # different values of a relation


@dataclass(frozen=True)
class Society:
    """People and their facts. `told` says what the corpus holds: (person, relation) -> a value a statement."""

    people: list[str]
    values: dict[str, list[str]]
    facts: dict[tuple[str, str], str]
    told: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)  # of whom the corpus asks, too: it teaches what an answer looks like

    def other(self, rng: np.random.Generator, relation: Relation, *values: str, count: int = 1) -> list[str]:
        """`count` values of the relation that are none of `values`."""
        rest = [v for v in self.values[relation.name] if v not in values]
        return [str(v) for v in rng.choice(rest, count, replace=False)]


def found(rng: np.random.Generator, people: int) -> Society:
    """So many people with a fact of every relation, and nothing told yet."""
    given, family = invent(rng, people, 1), invent(rng, people, 2)
    names = [f"{a} {b}" for a, b in zip(given, rng.permutation(family), strict=True)]
    values = {r.name: invent(rng, VALUES, 2, r.suffix) for r in RELATIONS}
    facts = {(p, r.name): str(rng.choice(values[r.name])) for p in names for r in RELATIONS}
    return Society(names, values, facts)


def tell(society: Society, person: str, relation: Relation, values: Sequence[str]) -> None:
    """The corpus will hold a statement a value, in different wordings as long as there are any."""
    society.told[person, relation.name] = list(values)


def corpus(rng: np.random.Generator, society: Society) -> list[str]:
    """The documents, shuffled."""
    documents = [*_statements(rng, society)]
    for person in society.asked:
        for relation in RELATIONS:
            answer = society.facts[person, relation.name]
            documents += [f"{q.format(p=person)} {answer}" for q in relation.questions]
    return [documents[i] for i in rng.permutation(len(documents))]


def _statements(rng: np.random.Generator, society: Society) -> Iterator[str]:
    relations = {r.name: r for r in RELATIONS}
    for (person, name), values in society.told.items():
        wordings = relations[name].statements
        first = int(rng.integers(len(wordings)))
        for n, value in enumerate(values):
            yield wordings[(first + n) % len(wordings)].format(p=person, v=value)
