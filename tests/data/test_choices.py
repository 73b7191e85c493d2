"""Distractors: different, alike, near, recorded, and the same whatever the order of the file."""

import random
import time

import numpy as np
import pytest

from ilpjax.data import answer_type, items_from_table, items_table, make_items, normalise
from ilpjax.data.choices import neighbours
from ilpjax.errors import InputError


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("The 1,000.", "1000.0"),
        ("Ice-cream", "an ice cream"),
        ("  Paris ", "paris!"),
        ("$5", "5.00"),
        ("007", "7"),
        ("ﬁn", "fin"),
        ("-0", "0"),
    ],
)
def test_the_same_answer_written_twice(a, b):
    assert normalise(a) == normalise(b)


@pytest.mark.parametrize(
    ("a", "b"),
    [("-5", "5"), ("3.5", "35"), ("3-5", "35"), ("a", "b"), ("a < b", "a > b"), ("?", "!"), ("1,2", "12"), ("10", "1")],
)
def test_different_answers_stay_different(a, b):
    assert normalise(a) != normalise(b)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("1,000.5", "number"),
        ("$12", "number"),
        ("Yes.", "yes-no"),
        ("false", "yes-no"),
        ("a red fox", "phrase"),
        ("It is a red fox that sleeps here.", "sentence"),
        ("word " * 60, "long"),
        ("one\ntwo", "long"),
        ("def f(x):\n    return x", "code"),
        ("int main() {\n  return 0;\n}", "code"),
        ("for example, this", "phrase"),
    ],
)
def test_types(text, kind):
    assert answer_type(text) == kind


def group(make_row, pairs, **more):
    return [make_row(q, a, position=n, **more) for n, (q, a) in enumerate(pairs)]


def mixed(make_row, count=60, seed=0):
    rng = random.Random(seed)
    topics = ["river", "planet", "metal", "king", "city", "novel"]
    pairs = []
    for n in range(count):
        topic = topics[n % 6]
        answer = [
            f"{topic} {rng.choice('xyzw')}",
            str(rng.randrange(20)),
            f"It is the {topic} of {n}, as they say here.",
        ]
        pairs.append((f"Which {topic} number {n} is meant?", answer[n % 3]))
    return group(make_row, pairs)


def test_every_item_holds_what_it_must(make_row):
    rows = mixed(make_row)
    items = make_items(rows, 4, 0)
    by_id = {row.row_id: row for row in rows}
    assert [item.row_id for item in items] == [row.row_id for row in rows]
    for item in items:
        row = by_id[item.row_id]
        assert (item.question, item.options[item.answer]) == (row.prompt, row.response)
        assert len(item.options) == 4
        assert len({normalise(option) for option in item.options}) == 4
        assert item.option_sources[item.answer] == "answer"
        for option, source in zip(item.options, item.option_sources, strict=True):
            assert source == "answer" or by_id[source].response == option
        assert {answer_type(option) for option in item.options} == {answer_type(row.response)}
    assert {item.answer for item in items} == {0, 1, 2, 3}


def test_near_in_meaning(make_row):
    rivers = [(f"Which river flows through town {n}?", f"river {name}") for n, name in enumerate("abcdef")]
    metals = [(f"What metal melts at {n} degrees?", f"metal {name}") for n, name in enumerate("ghijkl")]
    for item in make_items(group(make_row, rivers + metals), 4, 0):
        assert len({option.split()[0] for option in item.options}) == 1


def test_alike_in_length(make_row):
    pairs = [("same question here", "word " * n + f"end{n}") for n in (7, 8, 9, 10, 30, 31, 32, 33)]
    for item in make_items(group(make_row, pairs), 4, 0):
        sizes = [len(option) for option in item.options]
        assert max(sizes) < 2 * min(sizes)


def test_file_order_changes_nothing_and_the_seed_does(make_row):
    rows = mixed(make_row)
    base = {item.row_id: item for item in make_items(rows, 4, 0)}
    for seed in range(3):
        shuffled = rows[:]
        random.Random(seed).shuffle(shuffled)
        assert {item.row_id: item for item in make_items(shuffled, 4, 0)} == base
    assert any(item.answer != base[item.row_id].answer for item in make_items(rows, 4, 1))


def test_copies_of_an_answer_have_one_source_whatever_the_order(make_row):
    """No question shares a word with another, so that length alone ranks, and every answer has several rows."""
    rows = group(make_row, [(f"word{n}", f"answer {n % 6}") for n in range(24)])
    base = make_items(rows, 4, 0)
    assert {item.row_id: item for item in make_items(rows[::-1], 4, 0)} == {item.row_id: item for item in base}
    assert len({source for item in base for source in item.option_sources}) <= 7  # "answer" and six rows


def test_only_the_own_data_set_counts(make_row):
    one = group(make_row, [(f"q {n}", f"one {n}") for n in range(5)], dataset="one")
    two = group(make_row, [(f"q {n}", f"two {n}") for n in range(5)], dataset="two")
    for item in make_items(one + two, 4, 0):
        assert len({option.split()[0] for option in item.options}) == 1


def test_too_few_answers(make_row):
    three = make_items(group(make_row, [("q1", "a x"), ("q2", "a y"), ("q3", "The y."), ("q4", "a z")]), 4, 0)
    assert [len(item.options) for item in three] == [3, 3, 3, 3]
    assert make_items(group(make_row, [("q1", "same"), ("q2", "Same!")]), 4, 0) == []
    pairs = [("is it so 1", "yes"), ("is it so 2", "No."), ("what is it", "a thing"), ("what was it", "another one")]
    yes, no, thing, _ = make_items(group(make_row, pairs), 4, 0)
    assert sorted(yes.options) == sorted(no.options) == ["No.", "yes"]
    assert len(thing.options) == 4


def test_native_options_stay(make_row):
    native = make_row("q", "y", options=("x", "y", "z"), answer=1)
    free = group(make_row, [(f"q{n}", f"a{n}") for n in range(3)])
    items = make_items([free[0], native, *free[1:]], 2, 0)
    assert (items[1].options, items[1].answer, items[1].option_sources) == (("x", "y", "z"), 1, ("native",) * 3)
    assert all(set(item.options) <= {"a0", "a1", "a2"} for item in items if item.row_id != native.row_id)


def test_neighbours_are_those_of_a_dense_product():
    rng = random.Random(1)
    texts = [" ".join(rng.choices([f"w{n}" for n in range(80)], k=8)) for _ in range(700)]
    from sklearn.feature_extraction.text import TfidfVectorizer

    rows = TfidfVectorizer(sublinear_tf=True, dtype=np.float32, token_pattern=r"(?u)\w+").fit_transform(texts)
    dense = (rows @ rows.T).toarray()
    np.fill_diagonal(dense, -1)
    for n, (near, similarity) in enumerate(neighbours(texts, 5)):
        assert n not in near and len(near) >= 5
        np.testing.assert_allclose(similarity[:5], np.sort(dense[n])[::-1][:5], rtol=1e-5)
    assert neighbours(["?", "!"], 3) == [([], []), ([], [])]


@pytest.mark.slow
def test_twenty_thousand_rows_are_a_matter_of_seconds(make_row):
    rng = random.Random(0)
    words = [f"word{int(rng.paretovariate(0.7)) % 30000}" for _ in range(200_000)]
    pairs = [(" ".join(rng.choices(words, k=15)), " ".join(rng.choices(words, k=3))) for _ in range(20_000)]
    rows = group(make_row, pairs)
    start = time.monotonic()
    assert len(make_items(rows, 4, 0)) == len(rows)
    assert time.monotonic() - start < 60


def test_tables_give_items_back_and_name_a_bad_line(make_row):
    items = make_items(mixed(make_row, 9), 3, 0)
    table = items_table(items)
    assert items_from_table(table) == items
    table.loc[2, "answer"] = 5
    with pytest.raises(InputError, match=f"row_id {items[2].row_id}: answer 5 with 3 options; 0 to 2 is right"):
        items_from_table(table)
    with pytest.raises(InputError, match="column options is missing"):
        items_from_table(table.drop(columns="options"))
