"""Other wordings and other distractors of the same items."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ilpjax import data
from ilpjax.robust.asked import asked, near_distractors, random_distractors, reworded, rows_reworded
from ilpjax.robust.design import Pass
from ilpjax.rows import Item, Message, Row

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


NAMES = [
    "Aldin",
    "Borvik",
    "Castra",
    "Dunmore",
    "Elsin",
    "Farrow",
    "Gilden",
    "Hostock",
    "Irving",
    "Jorvik",
    "Kelso",
    "Lindow",
    "Marnay",
    "Norsk",
]
RIVERS = [
    *((f"r{n}", f"Which river runs through {name}?", f"the {name[::-1]}") for n, name in enumerate(NAMES)),
    *((f"w{n}", f"Who wrote the tale of {name}?", f"Doctor {name}") for n, name in enumerate(NAMES)),
    ("same", "Which river is it that runs through Aldin?", "the Marne"),  # may ask what r0 asks
    ("copy", "Which river runs through Oldin?", "The  nidlA"),  # r0's answer once more
    ("fly", "How many legs has a fly?", "6"),
    ("spider", "How many legs has a spider?", "8"),
]


def near(rows, count=3, among=None):
    made = [Item(row_id=i, question=q, options=("x", a, "y", "z")[: count + 1], answer=1) for i, q, a in rows]
    everybody = [Item(row_id=i, question=q, options=("x", a), answer=1) for i, q, a in among or rows]
    return near_distractors(made, everybody, dict.fromkeys([i for i, *_ in [*rows, *(among or ())]], "rivers"))


@given(st.permutations(RIVERS))
def test_near_distractors_are_answers_to_the_questions_most_alike_whatever_the_order_of_the_file(rows):
    found = {item.row_id: item for item in near(rows)}
    right = {name: answer for name, _, answer in RIVERS}
    assert {name: item.options[item.answer] for name, item in found.items()} == right
    rivers = {answer for name, _, answer in RIVERS if name.startswith("r")}
    assert set(found["r0"].options) <= rivers and "the nidlA" not in found["copy"].options  # nor what may be right
    assert found["fly"].options[0] == "8"  # an answer's own type first
    assert all(len(set(map(data.normalise, item.options))) == 4 for item in found.values())


def test_near_distractors_are_found_past_many_rows_with_the_same_answer():
    many = [(f"m{n:03}", f"Which river runs through town {n}?", "Seine") for n in range(100)]
    rows = [("a", "Which river runs through Paris?", "Loire"), *many, RIVERS[14]]
    (item,) = near([rows[0]], 2, rows)
    assert item.options == ("Seine", "Loire", "Doctor Aldin")
    assert near([rows[0]], 2, [rows[0]]) == []  # nobody else


def test_near_distractors_of_yes_and_no_are_yes_or_no():
    rows = [("y1", "Is it wet?", "yes"), ("y2", "Is it dry?", "no"), ("y3", "Is it wet there?", "Rhine")]
    assert [item.options for item in near(rows)][:2] == [("no", "yes"), ("yes", "no")]


def test_a_row_is_prompted_as_its_item_asks():
    talk = (Message("system", "Be brief."), Message("user", "Where does 1 live?"), Message("assistant", "Kalwick"))
    row = Row(row_id="r1", messages=talk, dataset="d", position=0, source="f:1")
    (found,) = rows_reworded([row, replace(row, row_id="r9")], [replace(town(1), question="In which town is 1?")])
    assert found.messages == (talk[0], Message("user", "In which town is 1?"), talk[2]) and found.row_id == "r1"


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
