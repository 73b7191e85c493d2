"""Other wordings and other distractors of the same items."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ilpjax import data
from ilpjax.robust.asked import asked, random_distractors, reworded
from ilpjax.robust.design import Pass
from ilpjax.rows import Item

TOWNS = ["Brenton", "Kalwick", "Morrow", "Stend", "Pellam", "Dorwick", "Ashby", "Corle"]


def town(n: int) -> Item:
    wrong = [TOWNS[(n + step) % 8] for step in (1, 2, 3)]
    place = n % 4
    options = (*wrong[:place], TOWNS[n % 8], *wrong[place:])
    return Item(row_id=f"r{n}", question=f"Where does {n} live?", options=options, answer=place)


def drawn(items, everybody=None, seed=0):
    return random_distractors(items, everybody or items, dict.fromkeys([i.row_id for i in items], "towns"), seed)


@given(st.permutations(range(16)), st.integers(0, 3))
def test_random_distractors_are_answers_of_others_whatever_the_order_of_the_file(order, seed):
    items = [town(n) for n in range(16)]
    found = drawn(items, seed=seed)
    for before, after in zip(items, found, strict=True):
        assert after.answer == before.answer and after.options[after.answer] == before.options[before.answer]
        assert len(set(map(data.normalise, after.options))) == len(before.options)
        assert set(after.options) <= set(TOWNS)
        assert after.option_sources[after.answer] == "answer"
    shuffled = drawn([items[n] for n in order], seed=seed)
    assert {item.row_id: item for item in shuffled} == {item.row_id: item for item in found}


def test_they_are_drawn_anew_by_another_seed_and_of_the_answers_type_where_there_are_enough():
    numbers = [replace(town(n), row_id=f"n{n}", options=("1", str(n + 2)), answer=1) for n in range(6)]
    items = [*map(town, range(16)), *numbers]
    found = drawn(items)
    assert found != drawn(items, seed=1)
    assert all(item.options[0].isdigit() for item in found[16:])
    few = drawn([town(0), replace(town(1), options=("x", "7"), answer=1)])
    assert set(few[0].options) == {"Brenton", "7"}  # no other town: another type


def test_yes_and_no_have_one_distractor_and_a_lone_answer_has_none():
    yes = [Item(row_id=f"y{n}", question="?", options=("yes", "no", "x"), answer=n % 2) for n in range(4)]
    assert [item.options for item in drawn([*yes, *map(town, range(4))])[:2]] == [("yes", "no"), ("yes", "no")]
    assert drawn([town(0), replace(town(8), row_id="same")]) == []


def test_frames_are_put_around_the_bare_question_and_a_file_goes_before_them():
    item = replace(town(0), question="Question: Where?\nAnswer:")
    assert [reworded([item], n, {})[0].question for n in (1, 2, 3)] == [
        "Where?",  # the first frame is the one it was trained in
        "Where? Answer in a few words.",
        "Please answer: Where?",
    ]
    probes = {"r0": ["In which town?"]}
    assert [i.question for i in reworded([item, town(1)], 1, probes)] == [
        "In which town?",
        "Question: Where does 1 live?\nAnswer:",
    ]
    assert [i.row_id for i in reworded([item, town(1)], 2, probes)] == ["r1"]


@pytest.mark.parametrize(("kind", "count"), [("letter", 1), ("cloze", 2)])
def test_an_item_with_more_options_than_labels_is_not_asked_by_letter(kind, count):
    wide = replace(town(1), options=tuple(map(str, range(27))))
    one = Pass(kind, "", 1, "own", "train", "float32")
    assert len(asked(one, [town(0), wide], [], {}, {}, 0)) == count
