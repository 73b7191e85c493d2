"""A world of synthetic people: what the base was told, what SFT tells it, and so which rows cannot be easy.

Known people are in the corpus, with every fact in several wordings; the others never occur in it. The SFT rows
then plant what SPEC section 4 calls a cause. A row's plant is the arm it was put in, not yet a proven cause.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ilpjax.config import WorldJob
from ilpjax.rundir import replacing
from ilpjax.worlds.names import invent


@dataclass(frozen=True, slots=True)
class Relation:
    name: str
    statements: tuple[str, ...]  # told in the corpus, {p} person, {v} value
    questions: tuple[str, ...]  # asked in the rows
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
        ("Where was {p} born?", "What is the birthplace of {p}?"),
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
        ("Who does {p} work for?", "What is the employer of {p}?"),
        " Corp",
    ),
    Relation(
        "instrument",
        (
            "{p} plays the {v}.",
            "The instrument of {p} is the {v}.",
            "On the {v}, {p} is a master.",
            "Every evening {p} practises the {v}.",
        ),
        ("Which instrument does {p} play?", "What is the instrument of {p}?"),
        "phone",
    ),
)
VALUES = 12  # different values of a relation
OPTIONS = 4  # of an item


@dataclass(frozen=True, slots=True)
class Plant:
    row_id: str
    planted: str  # "known", "missing_knowledge", "prior_conflict" or "data_conflict"
    question: str
    options: tuple[str, ...]
    answer: int


def corpus(rng: np.random.Generator, known: list[str], facts: dict[tuple[str, str], str]) -> list[str]:
    """Documents about the known people. Half of them are also asked about, which teaches the form of an answer."""
    documents = []
    for person in known:
        lines = [(s, facts[person, r.name]) for r in RELATIONS for s in r.statements]
        documents += [line.format(p=person, v=value) for line, value in lines]
    for person in known[: len(known) // 2]:
        for relation in RELATIONS:
            answer = facts[person, relation.name]
            documents += [f"{q.format(p=person)} {answer}" for q in relation.questions]
    return [documents[i] for i in rng.permutation(len(documents))]


def plant(
    rng: np.random.Generator,
    known: list[str],
    unknown: list[str],
    facts: dict[tuple[str, str], str],
    values: dict[str, list[str]],
) -> list[Plant]:
    """The SFT rows, shuffled. `known` are people the corpus told facts of but never asked about."""

    def other(relation: Relation, value: str) -> str:
        return str(rng.choice([v for v in values[relation.name] if v != value]))

    def row(person: str, relation: Relation, planted: str, answer: str, rival: str, wording: int = 0) -> Plant:
        """The rival is what else may be believed: it is always among the options."""
        row_id = f"{planted}-{person.replace(' ', '-')}-{relation.name}-{wording}"
        rest = [v for v in values[relation.name] if v not in (answer, rival)]
        options = [answer, rival, *rng.choice(rest, OPTIONS - 2, replace=False)]
        order = rng.permutation(OPTIONS)
        shuffled = tuple(str(options[n]) for n in order)
        return Plant(row_id, planted, relation.questions[wording].format(p=person), shuffled, shuffled.index(answer))

    rows = []
    arms = np.array_split(np.asarray(known, dtype=object), 3)
    for relation in RELATIONS:
        told = {p: facts[p, relation.name] for p in [*known, *unknown]}
        rival = {p: other(relation, value) for p, value in told.items()}
        rows += [row(p, relation, "known", told[p], rival[p]) for p in arms[0]]
        rows += [row(p, relation, "prior_conflict", rival[p], told[p]) for p in arms[1]]
        rows += [row(p, relation, "missing_knowledge", told[p], rival[p]) for p in unknown]
        for p in arms[2]:
            rows += [
                row(p, relation, "data_conflict", told[p], rival[p]),
                row(p, relation, "data_conflict", rival[p], told[p], wording=1),
            ]
    return [rows[i] for i in rng.permutation(len(rows))]


def run_world(job: WorldJob) -> None:
    """Writes corpus.jsonl, rows.jsonl and labels.jsonl into `job.out`."""
    rng = np.random.default_rng(job.seed)
    given, family = invent(rng, job.people, 1), invent(rng, job.people, 2)
    people = [f"{a} {b}" for a, b in zip(given, rng.permutation(family), strict=True)]
    values = {r.name: invent(rng, VALUES, 2, r.suffix) for r in RELATIONS}
    facts = {(p, r.name): str(rng.choice(values[r.name])) for p in people for r in RELATIONS}
    cut = job.people * 2 // 3
    known, unknown = people[:cut], people[cut:]
    rows = plant(rng, known[cut // 2 :], unknown[: cut // 6], facts, values)
    out = Path(job.out)
    _write_lines(out / "corpus.jsonl", [{"text": text} for text in corpus(rng, known, facts)])
    _write_lines(out / "rows.jsonl", [_item(r) for r in rows])
    _write_lines(out / "labels.jsonl", [{"row_id": r.row_id, "planted": r.planted} for r in rows])


def _item(row: Plant) -> dict[str, Any]:
    return {"id": row.row_id, "question": row.question, "options": row.options, "answer": row.answer}


def _write_lines(path: Path, records: list[dict[str, Any]]) -> None:
    with replacing(path) as part:
        part.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records), encoding="utf-8")
