"""Triples by patterns: what is read, what is left alone."""

import gzip
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ilpjax.config import DataConfig
from ilpjax.data import read_rows
from ilpjax.knowledge import PatternExtractor, Triple
from ilpjax.knowledge.patterns import CHARACTERS, SENTENCES, extract
from ilpjax.rows import Message, Row

QUESTIONS = [
    ("Where was Kos Kethkain born?", "Griorbailton", "Kos Kethkain", "was born where"),
    ("What is the birthplace of Kos Kethkain?", "Griorbailton", "Kos Kethkain", "birthplace"),
    ("Which town is Kos Kethkain from?", "Griorbailton", "Kos Kethkain", "is from town"),
    ("Who does Kos Kethkain work for?", "Drono Corp", "Kos Kethkain", "work for"),
    ("Which firm pays Kos Kethkain?", "Drono Corp", "Kos Kethkain", "firm pays"),
    ("Which instrument does Kos Kethkain play?", "Blorphone", "Kos Kethkain", "play instrument"),
    ("What does Kos Kethkain practise?", "Blorphone", "Kos Kethkain", "practise"),
    ("What is Keiko Aizawa's occupation?", "actor", "Keiko Aizawa", "occupation"),
    ("Who was the director of The Family?", "Luc Besson", "The Family", "director"),
    ("What university did Elizabeth Harwood attend?", "Berkeley", "Elizabeth Harwood", "attend university"),
    ("Who is the Hamiltonian mechanics named after?", "Hamilton", "Hamiltonian mechanics", "is named after"),
    ("Who wrote Hamlet?", "William Shakespeare", "Hamlet", "who wrote"),
    ('Who wrote "Gone with the Wind"?', "Margaret Mitchell", "Gone with the Wind", "who wrote"),
    ("How many moons does Mars have?", "2", "Mars", "have how many moons"),
    ("How tall is Mount Everest?", "8,849 m", "Mount Everest", "is how tall"),
    ("In what year did Elvis Presley die?", "1977", "Elvis Presley", "die in year"),
    ("When did World War II end?", "1945", "World War II", "end when"),
    ("What's the currency of Japan?", "yen", "Japan", "currency"),
    ("What is the symbol for gold?", "Au", "gold", "symbol for"),
    ("What is photosynthesis?", "how plants make sugar", "photosynthesis", "is"),
    ("What is the vocal range for Sigurður Bragason?", "baritone", "Sigurður Bragason", "vocal range for"),
    ("Which constellation is HD 142415 a part of?", "Norma", "HD 142415", "is part of constellation"),
    ("What is the name of the stadium where Antalyaspor plays?", "N", "Antalyaspor", "name of stadium where plays"),
    ("Name the capital of France.", "Paris", "France", "capital"),
    ("Question: What is the capital of Chad?\nAnswer:", "N'Djamena", "Chad", "capital"),
    ("Answer the question. What is the capital of Japan?", "東京", "Japan", "capital"),
]

STATEMENTS = [
    ("Kos Kethkain was born in Griorbailton.", [("Kos Kethkain", "was born in", "Griorbailton")]),
    ("Kos Kethkain works for Drono Corp.", [("Kos Kethkain", "works for", "Drono Corp")]),
    ("The employer of Kos Kethkain is Drono Corp.", [("Kos Kethkain", "employer", "Drono Corp")]),
    ("Kos Kethkain's employer is Drono Corp.", [("Kos Kethkain", "employer", "Drono Corp")]),
    ("Kos Kethkain likes to eat Grolm.", [("Kos Kethkain", "likes to eat", "Grolm")]),
    ("Paris is the capital of France.", [("Paris", "is the capital of", "France")]),
    ("The heart pumps blood.", [("heart", "pumps", "blood")]),
    ("The Amazon River flows through Brazil.", [("Amazon River", "flows through", "Brazil")]),
    ("Penicillin was discovered by Alexander Fleming.", [("Penicillin", "was discovered by", "Alexander Fleming")]),
    ("Mark Twain wrote “Tom Sawyer” in 1876.", [("Mark Twain", "wrote", "Tom Sawyer")]),
    ("Marie Curie (1867-1934) won the Nobel Prize.", [("Marie Curie", "won", "Nobel Prize")]),
    (
        "Marie Curie won the Nobel Prize in 1903 and worked in Paris.",
        [("Marie Curie", "won", "Nobel Prize"), ("Marie Curie", "worked in", "Paris")],
    ),
    ("The mitochondria, which produces ATP, is old.", [("mitochondria", "produces", "ATP")]),
]

NOTHING = [
    ("Is Paris the capital of France?", "Yes"),
    ("Why is the sky blue?", "Scattering"),
    ("How do I boil an egg?", "In water"),
    ("Where was he born?", "Paris"),
    ("Which of the following is a mammal?", "A whale"),
    ("Which of these is not a metal?", "Sulfur"),
    ("Robin was late for work. What will Robin do next?", "run"),
    ("Where was Kos Kethkain born?", "unknown"),
    ("Where was Kos Kethkain born?", "..."),
    ("¿Dónde nació Miguel de Cervantes?", "Alcalá de Henares"),
    ("Was ist die Hauptstadt von Frankreich?", "Paris"),
    ("法国的首都是哪里？", "巴黎"),
    ("Tell me of Berlin", "Berlin ist die Hauptstadt von Deutschland und hat viele Einwohner."),
    ("Tell me of Paris", "Paris est la capitale de la France et compte deux millions d'habitants."),
    ("Tell me of Kos", "Kos Kethkain did not work for Drono Corp. Kos never lived in Rome. Kos isn't a baker."),
    ("Tell me of Kos", "Kos might work for Drono Corp. If Kos eats Grolm, Kos pays the bill."),
    ("Tell me of it", "It was built in Rome. She wrote a book. This song is a classic."),
    ("Write code", "```python\nx is the capital of France\n```\nfor i in range(10): print(i)\nimport numpy as np"),
    ("What does this print? print(1)", "1"),
    ("List three fruits", "- Apples\n- Pears\n- Plums"),
    ("What is 2+2?", ""),
    ("", ""),
]


def facts(prompt, response):
    return [(t.subject, t.relation, t.object) for t in extract(prompt, response)]


@pytest.mark.parametrize(("prompt", "response", "subject", "relation"), QUESTIONS)
def test_questions(prompt, response, subject, relation):
    assert extract(prompt, response) == [Triple(subject, relation, response, "question")]
    assert extract(prompt, response + ".") == [Triple(subject, relation, response, "question")]


@pytest.mark.parametrize(("text", "expected"), STATEMENTS)
def test_statements(text, expected):
    assert facts("Tell me something", text) == expected
    assert {t.source for t in extract("Tell me something", text)} == {"sentence"}


@pytest.mark.parametrize(("prompt", "response"), NOTHING)
def test_nothing_rather_than_nonsense(prompt, response):
    assert extract(prompt, response) == []


def test_an_answer_in_a_sentence_is_read_as_one():
    assert facts("Where was Kos Kethkain born?", "He was born in Rome.") == [("Kos Kethkain", "was born in", "Rome")]
    assert facts("What is the capital of France?", "The capital of France is Paris.") == [
        ("France", "capital", "Paris")
    ]


def test_a_response_that_completes_the_prompt():
    assert facts("The capital of France is", "Paris") == [("France", "capital", "Paris")]
    assert facts("Write a poem about", "Paris") == []


def test_listed_options():
    prompt = "What is the capital of France?\nA. Rome\nB. Paris\nAnswer:"
    for response in ("B", "(B)", "B. Paris", "Paris"):
        assert facts(prompt, response) == [("France", "capital", "Paris")]
    assert facts(prompt, "E") == []


def test_long_texts_are_cut():
    text = " ".join(f"Person{i} Smith works for Firm{i}." for i in range(10_000))
    found = extract("Tell me of the firms", text)
    assert 10 < len(found) <= SENTENCES
    assert extract("Tell me", "Kos works for " + "very " * 100_000 + "big firms.") == []
    assert extract("x" * 10 * CHARACTERS, "y" * 10 * CHARACTERS) == []


def test_rows_keep_their_places(row):
    rows = [row("Who wrote Emma?", "Jane Austen", 0), row("", "?", 1), row("Who wrote Hamlet?", "Shakespeare", 2)]
    assert [[t.object for t in triples] for triples in PatternExtractor()(rows)] == [
        ["Jane Austen"],
        [],
        ["Shakespeare"],
    ]


SCRAPS = (
    "Who what Which where is was the of Kos's Paris born wrote and , . ? ( ) \" “ ” ' ’s in A. not 1903 works é 東京 \n"
    " does half part name Answer: ``` - "
)
WORDS = st.sampled_from(SCRAPS.split(" "))
TEXT = st.one_of(st.text(max_size=80), st.lists(WORDS, max_size=20).map(" ".join))


@settings(max_examples=300)
@given(TEXT, TEXT)
def test_never_raises_and_every_part_says_something(prompt, response):
    for triple in extract(prompt, response):
        assert triple.subject.strip() and triple.relation.strip() and triple.object.strip()
        if triple.source == "question":
            assert triple.object in response and "\n" not in triple.object


@settings(max_examples=100)
@given(st.sampled_from([q[0] for q in QUESTIONS]), st.from_regex(r"[A-Z][a-z]{2,8}( [A-Z][a-z]{2,8})?", fullmatch=True))
def test_the_object_of_a_question_is_the_response(question, response):
    if response.lower() not in {"true", "none", "unknown", "yes"}:
        assert [t.object for t in extract(question, response)] == [response]


def records(shared, name):
    with gzip.open(shared / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


@pytest.mark.shared
def test_the_subjects_of_real_questions(shared):
    """PopQA and zsRE say which entity a question is about. Measured: 96 and 70 percent; zsRE's are reworded oddly."""
    popqa = [(r["question"], r["golden_answers"][0], r["metadata"]["subj"]) for r in records(shared, "popqa_1000")]
    zsre = [(r["src"], r["pred"], r["subject"]) for r in records(shared, "zsre_1k")]
    for name, rows, least in (("popqa", popqa, 0.93), ("zsre", zsre, 0.66)):
        right = sum(any(t.subject.lower() == s.lower() for t in extract(q, a)) for q, a, s in rows) / len(rows)
        print(f"{name}: the subject is right for {right:.3f} of {len(rows)}")
        assert right > least


@pytest.mark.shared
@pytest.mark.parametrize("language", ["de", "es", "ro", "zh"])
def test_real_text_in_other_languages_gives_nothing(shared, language):
    for r in records(shared, f"xquad_{language}"):
        assert extract(r["question"], r["context"]) == [] and extract(r["question"], "1945") == []


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "least", "most"), [("dolly_3k", 0.4, 0.6), ("alpaca_9k", 0.2, 0.4), ("sciq_val", 0.2, 0.5)]
)
def test_real_sets(shared, name, least, most):
    rows = read_rows(str(shared / f"{name}.jsonl.gz"), DataConfig(limit=600))
    found = PatternExtractor()(rows)
    share = sum(map(bool, found)) / len(rows)
    print(f"{name}: {share:.2f} of {len(rows)} rows have a triple")
    assert least < share < most
    code = read_rows(str(shared / "gpteacher_codegen.jsonl.gz"), DataConfig(limit=600))
    assert sum(map(bool, PatternExtractor()(code))) < 0.03 * len(code)


def test_messages_before_the_prompt_are_not_read():
    turns = (Message("system", "Rome is in Italy."), Message("user", "Who wrote Emma?"), Message("assistant", "Austen"))
    row = Row(row_id="a", messages=turns, dataset="d", position=0, source="d:1")
    assert PatternExtractor()([row]) == [[Triple("Emma", "who wrote", "Austen", "question")]]
