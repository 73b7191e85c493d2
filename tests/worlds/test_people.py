import json

from ilpjax.config import WorldJob
from ilpjax.worlds import run_world


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def make(folder, seed=3):
    run_world(WorldJob(out=str(folder), people=48, seed=seed))
    corpus = " ".join(record["text"] for record in lines(folder / "corpus.jsonl"))
    return corpus, lines(folder / "rows.jsonl"), {r["row_id"]: r["planted"] for r in lines(folder / "labels.jsonl")}


def test_missing_people_are_never_told_and_known_facts_are(tmp_path):
    corpus, rows, planted = make(tmp_path)
    for row in rows:
        person = row["id"].split("-")[1]
        assert (person in corpus) == (planted[row["id"]] != "missing_knowledge"), row


def test_every_row_is_labelled_once_and_every_plant_occurs(tmp_path):
    _, rows, planted = make(tmp_path)
    assert sorted(row["id"] for row in rows) == sorted(planted)
    assert set(planted.values()) == {"known", "missing_knowledge", "prior_conflict", "data_conflict"}


def test_a_prior_conflict_contradicts_the_corpus_and_a_known_row_agrees(tmp_path):
    _, rows, planted = make(tmp_path)
    told = [record["text"] for record in lines(tmp_path / "corpus.jsonl")]
    for row in rows:
        if planted[row["id"]] in ("known", "prior_conflict"):
            person = row["id"].split("-")[1]
            agrees = any(person in text and row["options"][row["answer"]] in text for text in told)
            assert agrees == (planted[row["id"]] == "known"), row


def test_contradicting_rows_come_in_pairs_with_different_answers(tmp_path):
    _, rows, planted = make(tmp_path)
    answers = {}
    for row in rows:
        if planted[row["id"]] == "data_conflict":
            answers.setdefault(row["id"].rsplit("-", 1)[0], []).append(row["options"][row["answer"]])
    assert answers and all(len(set(pair)) == 2 == len(pair) for pair in answers.values())


def test_the_seed_decides_everything(tmp_path):
    for folder, seed in (("a", 3), ("b", 3), ("c", 4)):
        make(tmp_path / folder, seed)
    read = lambda folder: [(tmp_path / folder / n).read_bytes() for n in ("corpus.jsonl", "rows.jsonl", "labels.jsonl")]
    assert read("a") == read("b") != read("c")


def test_what_the_corpus_said_is_always_an_option(tmp_path):
    _, rows, planted = make(tmp_path)
    told = [record["text"] for record in lines(tmp_path / "corpus.jsonl")]
    for row in rows:
        assert len(set(row["options"])) == 4
        if planted[row["id"]] != "missing_knowledge":
            person = row["id"].split("-")[1]
            assert any(person in text and option in text for text in told for option in row["options"]), row
