"""Contradictions planted into real rows, paraphrases that agree, and near questions that are not the same.

Paraphrases are people's own where a set has them (zsRE, Quora question pairs); boolq, GSM8K and ARC rows are reworded
by rule. A half of every source is for building (part 0), the other for the report (part 1).

`python tests/conflicts/planted.py [encoder=minilm|lexical|...] [part=1] [rows=10000] [out=FOLDER]` finds them with the
`conflicts` job and prints what was found of what was planted.
"""

import gzip
import json
import random
import re
import sys
from dataclasses import replace
from pathlib import Path

from ilpjax.config import ConflictsJob
from ilpjax.data import normalise, rows_table
from ilpjax.detect import wilson
from ilpjax.pipeline import run_conflicts
from ilpjax.rows import Message, Row
from ilpjax.rundir import read_table, write_table

DATA = Path(__file__).parents[3] / "shared" / "data"
LABELS, NUMBERS, NAMES = "label flip", "number change", "swapped entity"
_AUXILIARY = re.compile(r"(is|are|can|do|does|did|will|would|should|was|were|has|have|could)\s", re.I)
_COUNT = re.compile(r"(how (many|much|long|old|far|fast|tall))\b", re.I)


def read(name, part=None):
    with gzip.open(DATA / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
        records = [json.loads(line) for line in file]
    return records if part is None else records[part::2]


def make(part, planted=300, agreeing=200, rows=10_000):
    """(rows, planted pairs by kind, agreeing pairs, near pairs): pairs are places in rows."""
    rng = random.Random(part)
    build = _Builder(rng)
    for kind, source in ((LABELS, _flips), (NUMBERS, _numbers), (NAMES, _names)):
        pool = source(part, rng)
        rng.shuffle(pool)
        third = planted // 3
        for a, b, right, wrong, options in pool[:third]:
            build.pair(build.planted.setdefault(kind, []), (a, right), (b, wrong), options)
        for a, b, right, _, options in pool[third : third + agreeing // 3]:
            build.pair(build.agreeing, (a, right), (b, _again(right, rng) if not options else right), options)
    for record in _near(part):
        answers = rng.sample(_fitting(record["text_a"]), 2)
        build.pair(build.near, (record["text_a"], answers[0]), (record["text_b"], answers[1]), ())
    used = {re.sub(r"\W", "", row.prompt) for row in build.rows}
    rest = [given for given in _background(part, rng) if re.sub(r"\W", "", given[0]) not in used]
    for prompt, response, options, answer in rest[: rows - len(build.rows)]:
        build.add(prompt, response, options, answer)
    return build.shuffled()


class _Builder:
    def __init__(self, rng):
        self.rng, self.rows, self.planted, self.agreeing, self.near = rng, [], {}, [], []

    def add(self, prompt, response, options=(), answer=-1):
        n = len(self.rows)
        messages = (Message("user", prompt), Message("assistant", response))
        self.rows.append(
            Row(
                row_id=str(n), messages=messages, dataset="real", position=n, source=f"real:{n}",
                options=tuple(options), answer=answer,
            )
        )  # fmt: skip
        return n

    def pair(self, into, one, two, options):
        place = lambda said: options.index(said[1]) if options else -1
        into.append((self.add(*one, options, place(one)), self.add(*two, options, place(two))))

    def shuffled(self):
        order = list(range(len(self.rows)))
        self.rng.shuffle(order)
        to = {old: new for new, old in enumerate(order)}
        move = lambda pairs: {tuple(sorted((to[a], to[b]))) for a, b in pairs}
        planted = {kind: move(pairs) for kind, pairs in self.planted.items()}
        rows = [replace(self.rows[old], row_id=str(n), position=n) for n, old in enumerate(order)]
        return rows, planted, move(self.agreeing), move(self.near)


def _flips(part, rng):
    found = []
    for r in read("glue16k_qqp", part):
        if str(r["label"]) == "1" and _AUXILIARY.match(r["text_a"]) and _AUXILIARY.match(r["text_b"]):
            found.append((r["text_a"], r["text_b"], *rng.sample(["Yes", "No"], 2), ()))
    for r in read("boolq_val", part)[:60]:
        right, wrong = ("Yes", "No") if r["answer"] else ("No", "Yes")
        found.append((r["question"] + "?", _whether(r["question"], rng), right, wrong, ()))
    for r in read("arc_easy_train", part)[:60]:
        options, key = r["choices"]["text"], r["choices"]["label"].index(r["answerKey"])
        wrong = rng.choice([o for n, o in enumerate(options) if n != key])
        found.append((r["question"], _reworded(r["question"], rng), options[key], wrong, tuple(options)))
    return found


def _numbers(part, rng):
    found = []
    for r in read("glue16k_qqp", part):
        if str(r["label"]) == "1" and _COUNT.match(r["text_a"]) and _COUNT.match(r["text_b"]):
            number = rng.randint(3, 400)
            found.append((r["text_a"], r["text_b"], str(number), str(number + rng.randint(1, 30)), ()))
    for r in read("gsm8k_train", part)[:120]:
        right = r["answer"].split("####")[1].strip()
        found.append((r["question"], _reworded(r["question"], rng), right, _changed(right, rng), ()))
    for r in read("nq_open_dev", part):
        right = r["answer"][0]
        if re.fullmatch(r"\d[\d,.]*( [a-z]+)?", right) and len(r["question"].split()) > 4:
            found.append((r["question"], _reworded(r["question"], rng), right, _changed(right, rng), ()))
    return found


def _names(part, rng):
    return [
        (r["src"], r["rephrase"], r["answers"][0], r["alt"], ())
        for r in read("zsre_1k", part)
        if r["src"] != r["rephrase"]
        and not re.search(r"\d", r["answers"][0] + r["alt"])
        and normalise(r["answers"][0]) != normalise(r["alt"])
    ]


def _near(part):
    near = []
    for r in read("glue16k_qqp", part):
        a, b = (set(re.findall(r"\w+", r[k].casefold())) for k in ("text_a", "text_b"))
        if str(r["label"]) == "0" and len(a & b) / len(a | b) > 0.5:
            near.append(r)
    return near[:100]


def _fitting(question):
    """Answers of the kind that is asked for."""
    if _AUXILIARY.match(question):
        return ["Yes", "No"]
    return ["12", "30", "7"] if _COUNT.match(question) else ["London", "water", "Marie Curie", "a hammer"]


def _background(part, rng):
    rows = []
    for r in read("alpaca_9k", part):
        rows.append(("\n".join(filter(None, [r["instruction"], r["input"]])), r["output"], (), -1))
    for r in read("dolly_3k", part):
        rows.append(("\n".join(filter(None, [r["instruction"], r["input"]])), r["output"], (), -1))
    for name in ("popqa_1000", "triviaqa_1000"):
        rows += [(r["question"], r["golden_answers"][0], (), -1) for r in read(name, part)]
    rows += [(r["question"], r["answer"][0], (), -1) for r in read("nq_open_dev", part)]
    rows += [(r["query"], r["answer"], (), -1) for r in read("jeopardy", part)]
    rows += [(r["question"], r["correct_answer"], (), -1) for r in read("sciq_val", part)]
    for r in read("squad_dev_1000"):  # several questions about one passage
        rows.append((f"{r['context']}\n{r['question']}", r["answers"]["text"][0], (), -1))
    rows += [(r["question"] + "?", "Yes" if r["answer"] else "No", (), -1) for r in read("boolq_val", part)[60:]]
    rows += [(r["question"], r["answer"].split("####")[1].strip(), (), -1) for r in read("gsm8k_train", part)[120:]]
    for r in read("arc_easy_train", part)[60:] + read("commonsenseqa_train", part) + read("openbookqa_train", part):
        key = r["choices"]["label"].index(r["answerKey"])
        rows.append((r["question"], r["choices"]["text"][key], tuple(r["choices"]["text"]), key))
    for r in read("medmcqa_dev", part):
        options = [r[f"op{letter}"] for letter in "abcd"]
        if 1 <= r["cop"] <= 4 and all(options):
            rows.append((r["question"], options[r["cop"] - 1], tuple(options), r["cop"] - 1))
    rng.shuffle(rows)
    return rows


def _whether(question, rng):
    """can you breed a rabbit and a cat -> Is it true that you can breed a rabbit and a cat?"""
    first, *rest = question.split()
    frame = rng.choice(["Is it true: {q}?", "Please tell me, {q}?", "I would like to know: {q}?", "{q}, yes or no?"])
    return frame.format(q=" ".join([first, *rest]))


def _reworded(question, rng):
    frames = ["Please answer this question. {q}", "{q} Give only the answer.", "Question: {q}", "I want to know: {q}"]
    text = question
    for word, other in (("How many", "What number of"), ("how many", "what number of"), ("total", "sum"),
                        ("which", "what"), ("Which", "What"), ("each", "every"), ("buys", "purchases"),
                        ("best", "most fittingly"), ("likely", "probably")):  # fmt: skip
        if rng.random() < 0.5:
            text = re.sub(rf"\b{word}\b", other, text)
    return rng.choice(frames).format(q=text)


def _changed(number, rng):
    """One digit more or less: 1997 -> 1994, 12 -> 17."""
    digits = [n for n, c in enumerate(number) if c.isdigit()]
    at = rng.choice(digits[-2:])
    other = rng.choice([d for d in "123456789" if d != number[at]])
    return number[:at] + other + number[at + 1 :]


def _again(answer, rng):
    """The same answer in another form."""
    plain = answer.replace(",", "")
    if plain.isdigit():
        return rng.choice([f"{int(plain):,}", f"{plain}.0", f"{plain}."])
    return rng.choice([answer.lower(), f"The {answer}." if answer not in ("Yes", "No") else f"{answer}.", answer + "."])


def measure(part, rows, encoder, out):
    """What the job finds: {"found", "right", "precision", "recall", ...}, shares as (share, low, high)."""
    made, planted, agreeing, near = make(part, rows=rows)
    write_table(out / "given.parquet", rows_table(made))
    run_conflicts(ConflictsJob(rows=str(out / "given.parquet"), out=str(out), encoder=encoder))
    table = read_table(out / "conflicts.parquet")
    found = {tuple(sorted((int(a), int(b)))) for a, b in zip(table["row_a"], table["row_b"], strict=True)}
    every = set().union(*planted.values())
    share = lambda n, of: [round(wilson(n, of)[key], 3) for key in ("share", "low", "high")]
    made_up = {n for pair in near for n in pair}  # near questions have answers made up here: no rows of a real file
    real = {pair for pair in found if not made_up.intersection(pair)}
    return {
        "rows": len(made),
        "planted": len(every),
        "recall": share(len(found & every), len(every)),
        "recall_by_kind": {kind: share(len(found & pairs), len(pairs)) for kind, pairs in planted.items()},
        "found": len(real),
        "precision": share(len(real & every), len(real)),
        "paraphrases_that_agree": [len(found & agreeing), len(agreeing)],
        "near_questions": [len(found & near), len(near)],
        "others": [[made[n].prompt[-200:] + " -> " + made[n].response[:60] for n in pair] for pair in real - every],
    }


def main(args):
    keys = {"encoder": "minilm", "part": "1", "rows": "10000", "out": "runs/planted"} | dict(a.split("=") for a in args)
    told = measure(int(keys["part"]), int(keys["rows"]), keys["encoder"], Path(keys["out"]))
    print(json.dumps(told, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main(sys.argv[1:])
