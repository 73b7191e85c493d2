"""Every accepted shape becomes the messages it should, and what is wrong is told in one line."""

import json

import pytest

from ilpjax.config import DataConfig
from ilpjax.data import read_items, read_rows
from ilpjax.errors import InputError

CHOICES = {"text": ["ice", "fire"], "label": ["A", "B"]}

# record, prompt, response, options
SHAPES = [
    ({"prompt": "p", "response": "r"}, "p", "r", ()),
    ({"prompt": "p", "completion": "r"}, "p", "r", ()),
    ({"instruction": "i", "input": "", "output": "o"}, "i", "o", ()),
    ({"instruction": "i", "input": "in", "output": "o"}, "i\n\nin", "o", ()),
    ({"instruction": "i", "input": "in", "response": "o"}, "i\n\nin", "o", ()),
    ({"instruction": "i", "context": "c", "response": "o", "category": "x"}, "i\n\nc", "o", ()),
    ({"instruction": "i", "input": None, "output": "o"}, "i", "o", ()),
    ({"messages": [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]}, "u", "a", ()),
    ({"conversations": [{"from": "human", "value": "u"}, {"from": "gpt", "value": "a"}]}, "u", "a", ()),
    ({"question": "q", "answer": "a"}, "q", "a", ()),
    ({"question": "q", "context": "c", "answer": "a"}, "c\n\nq", "a", ()),
    ({"question": "Q: q", "options": ["x ", "y"], "answer": 1}, "Q: q", "y", ("x ", "y")),
    ({"question": "q", "choices": CHOICES, "answerKey": "B"}, "Question: q\nAnswer:", "fire", ("ice", "fire")),
    ({"question_stem": "q", "choices": CHOICES, "answerKey": "A"}, "Question: q\nAnswer:", "ice", ("ice", "fire")),
    (
        {"question": "q", "choices": {"text": ["x", "y"], "label": ["1", "2"]}, "answerKey": "2"},
        "Question: q\nAnswer:",
        "y",
        ("x", "y"),
    ),
    (
        {"question": "q", "choices": [{"text": "x", "label": "A"}, {"text": "y", "label": "B"}], "answerKey": "B"},
        "Question: q\nAnswer:",
        "y",
        ("x", "y"),
    ),
    ({"question": "q", "choices": ["x", "y", "z"], "answer": 2}, "Question: q\nAnswer:", "z", ("x", "y", "z")),
    (
        {"question": "q", "opa": "x", "opb": "y", "opc": "z", "opd": "w", "cop": 4},
        "Question: q\nAnswer:",
        "w",
        ("x", "y", "z", "w"),
    ),
    (
        {"question": "q", "A": "x", "B": "y", "C": "z", "D": "w", "answer": "B"},
        "Question: q\nAnswer:",
        "y",
        ("x", "y", "z", "w"),
    ),
    (
        {"context": "c.", "question": "q", "answerA": "x", "answerB": "y", "answerC": "z", "label": "3"},
        "Question: c. q\nAnswer:",
        "z",
        ("x", "y", "z"),
    ),
    ({"goal": "g", "sol1": "x", "sol2": "y", "label": 1}, "Question: g\nAnswer:", "y", ("x", "y")),
    (
        {"question": "q", "options": {"A": "x", "B": "y"}, "answer": "y", "answer_idx": "B"},
        "Question: q\nAnswer:",
        "y",
        ("x", "y"),
    ),
]


def write(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def message(path, **settings):
    with pytest.raises(InputError) as raised:
        read_rows(str(path), DataConfig(**settings))
    assert "\n" not in str(raised.value)
    return str(raised.value).replace(str(path.parent) + "/", "")


@pytest.mark.parametrize(("record", "prompt", "response", "options"), SHAPES)
def test_each_shape(tmp_path, record, prompt, response, options):
    (row,) = read_rows(write(tmp_path / "train.jsonl", record), DataConfig())
    assert (row.prompt, row.response, row.options) == (prompt, response, options)
    assert (row.dataset, row.position, row.source) == ("train", 0, "train.jsonl:1")
    if options:
        assert row.options[row.answer] == row.response


def test_sciq_does_not_put_the_answer_in_one_place(tmp_path):
    wrong = {"distractor1": "x", "distractor2": "y", "distractor3": "z"}
    records = [{"question": f"q{n}", "correct_answer": "right", **wrong} for n in range(40)]
    rows = read_rows(write(tmp_path / "s.jsonl", *records), DataConfig())
    assert {row.options[row.answer] for row in rows} == {"right"}
    assert {row.answer for row in rows} == {0, 1, 2, 3}
    assert all(sorted(row.options) == ["right", "x", "y", "z"] for row in rows)


def test_turns_before_the_prompt(tmp_path):
    turns = [("system", "s"), ("user", "u"), ("assistant", "a"), ("user", "v"), ("assistant", "b")]
    (row,) = read_rows(
        write(tmp_path / "c.jsonl", {"messages": [{"role": r, "content": c} for r, c in turns]}), DataConfig()
    )
    assert [m.content for m in row.history] == ["s", "u", "a"]
    assert (row.prompt, row.response) == ("v", "b")
    record = {"instruction": "v", "output": "b", "history": [["u", "a"]], "system": "s"}
    assert read_rows(write(tmp_path / "h.jsonl", record), DataConfig())[0].messages == row.messages


GOOD = {"prompt": "p", "response": "r"}


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"prompt": "p"}, 'train.jsonl, line 3: "response" or "completion" is missing'),
        ({"prompt": "p", "response": " \n"}, "train.jsonl, line 3: the response is empty"),
        ({"prompt": "p", "response": None}, 'line 3: "response" is null; text is right'),
        ({"prompt": "p", "response": 4}, 'line 3: "response" is a number; text is right'),
        ({"prompt": ["p"], "response": "r"}, 'line 3: "prompt" is a list; text is right'),
        ({"prompt": "p", "response": "\ud83d"}, 'line 3: "response" holds half of a surrogate pair'),
        ([1], "line 3: not a JSON object"),
    ],
)
def test_a_bad_record_names_its_line(tmp_path, bad, words):
    write(path := tmp_path / "train.jsonl", GOOD, GOOD, bad, GOOD)
    assert words in message(path)


def test_a_missing_field_in_the_first_record_is_that_record_s_fault(tmp_path):
    write(path := tmp_path / "train.jsonl", {"prompt": "p"}, GOOD, GOOD)
    assert 'train.jsonl, line 1: "response" or "completion" is missing' in message(path)


def test_broken_json_names_line_and_column(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text(json.dumps(GOOD) + '\n\n{"prompt": "p", "response": }\n')
    assert "train.jsonl, line 3: not JSON (Expecting value at column 29)" in message(path)


@pytest.mark.parametrize(
    ("roles", "words"),
    [
        (["user", "user", "assistant"], "the roles are user, user, assistant; right is user, assistant in turn"),
        (["user", "assistant", "user"], "the assistant last"),
        (["assistant"], "the roles are assistant"),
        (["system"], "the roles are system"),
        (["user", "system", "assistant"], "at most one system message"),
        ([], "the roles are none"),
        (["user", "tool"], '"messages", turn 2: "role" is "tool"; one of system, user, assistant is right'),
    ],
)
def test_wrong_role_order(tmp_path, roles, words):
    write(path := tmp_path / "m.jsonl", {"messages": [{"role": role, "content": "x"} for role in roles]})
    assert words in message(path)


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"question": "q", "options": ["x", "y"], "answer": 2}, '"answer" is 2; with 2 options 0 to 1 is right'),
        ({"question": "q", "options": ["x", "y"], "answer": -1}, '"answer" is -1'),
        ({"question": "q", "options": ["x", "y"], "answer": "B"}, '"answer" is text; the index of the right option'),
        ({"question": "q", "options": ["x", "y"], "answer": True}, '"answer" is a boolean'),
        ({"question": "q", "options": ["x"], "answer": 0}, "at least 2 are right"),
        ({"question": "q", "options": "xy", "answer": 0}, '"options" is text; a list is right'),
        ({"question": "q", "choices": CHOICES, "answerKey": "C"}, '"answerKey" is "C"; one of A, B is right'),
        ({"goal": "g", "sol1": "x", "sol2": "y", "label": -1}, '"label" is -1; with 2 options 0 to 1 is right'),
        ({"question": "q", "options": ["", "y"], "answer": 0}, "the response is empty"),
    ],
)
def test_a_wrong_answer_is_named(tmp_path, record, words):
    write(path := tmp_path / "i.jsonl", record)
    assert words in message(path)


def medmcqa(*cops):
    return [{"question": f"q{n}", "opa": "w", "opb": "x", "opc": "y", "opd": "z", "cop": c} for n, c in enumerate(cops)]


def test_medmcqa_counts_from_what_the_file_shows(tmp_path):
    one = read_rows(write(tmp_path / "one.jsonl", *medmcqa(1, 2, 4)), DataConfig())
    assert [row.response for row in one] == ["w", "x", "z"]
    zero = read_rows(write(tmp_path / "zero.jsonl", *medmcqa(1, 2, 0)), DataConfig(limit=2))
    assert [row.response for row in zero] == ["x", "y"]  # the deciding record lies behind the limit
    write(path := tmp_path / "open.jsonl", *medmcqa(1, 2, 3))
    assert "open.jsonl: " in message(path) and "data.answer_base" in message(path)
    assert [row.response for row in read_rows(str(path), DataConfig(answer_base=0))] == ["x", "y", "z"]
    write(path := tmp_path / "both.jsonl", *medmcqa(0, 4))
    assert '"cop" is 0 in some records and 4 in others' in message(path)


def test_an_unknown_format_lists_the_accepted_ones(tmp_path):
    write(path := tmp_path / "x.jsonl", {"foo": 1, "bar": 2})
    text = message(path)
    assert "{foo, bar}" in text and "{prompt, response|completion}" in text and "{messages}" in text


def test_a_mixed_file_is_read_as_what_most_of_it_is(tmp_path):
    write(path := tmp_path / "x.jsonl", GOOD, GOOD, {"question": "q", "answer": "a"})
    assert 'x.jsonl, line 3: "prompt" is missing' in message(path)


def test_items_of_an_items_file_keep_question_options_and_id(tmp_path):
    record = {"id": "i7", "question": "Capital of France?\nAnswer:", "options": ["Paris", "Rome"], "answer": 0}
    (item,) = read_items(write(tmp_path / "items.jsonl", record), DataConfig())
    assert (item.row_id, item.question, item.options, item.answer) == ("i7", record["question"], ("Paris", "Rome"), 0)
    assert item.option_sources == ("native", "native")
