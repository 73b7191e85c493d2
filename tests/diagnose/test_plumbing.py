"""Stage 0: every fault by a row that has it, and none for a row that is sound."""

import copy

import pytest

from ilpjax.config import DataConfig
from ilpjax.data import read_rows, train_tokenizer
from ilpjax.diagnose import check_plumbing
from ilpjax.rows import Item, Message, Row
from ilpjax.rundir import read_table, write_table

TEXTS = ["where does the red bird keep its golden keys when winter comes to Paris"] * 20
CHAT = "{% for m in messages %}<|im|>{{ m.role }}\n{{ m.content }}<|end|>\n{% endfor %}"
CHAT += "{% if add_generation_prompt %}<|im|>assistant\n{% endif %}"


@pytest.fixture
def tokenizer():
    made = train_tokenizer(TEXTS, 400)
    made.add_special_tokens({"additional_special_tokens": ["<|im|>", "<|end|>"]})
    return made


def row(prompt="where does it keep keys", response="to Paris", row_id="r", **more):
    messages = (Message("user", prompt), Message("assistant", response))
    return Row(row_id=row_id, messages=messages, dataset="d", position=0, source="f.jsonl:1", **more)


def item(*options, answer=0, row_id="r"):
    return Item(
        row_id=row_id, question="where does it keep keys", options=options or ("to Paris", "winter"), answer=answer
    )


def problems(tokenizer, rows=None, items=None, tuned=None, **keys):
    found = check_plumbing(
        [row()] if rows is None else rows,
        [item()] if items is None else items,
        tokenizer,
        DataConfig(**keys),
        tuned=tuned,
    )
    assert list(found.columns) == ["row_id", "problem", "detail"]
    assert not found.detail.str.contains("\n").any()
    return found.problem.tolist()


def test_sound_rows_have_no_problem(tokenizer, tmp_path):
    assert problems(tokenizer) == []
    assert problems(tokenizer, tuned=copy.deepcopy(tokenizer)) == []
    chat = copy.deepcopy(tokenizer)
    chat.chat_template = CHAT
    assert problems(chat) == []
    empty = check_plumbing([row()], [item()], tokenizer, DataConfig())
    write_table(tmp_path / "plumbing.parquet", empty)
    joined = read_table(tmp_path / "plumbing.parquet").groupby("row_id")["problem"].agg(", ".join)
    assert len(joined) == 0


def test_truncated_and_how_much(tokenizer):
    long = row(response="golden " * 30)
    found = check_plumbing([long], [item()], tokenizer, DataConfig(max_tokens=12)).iloc[0]
    assert found.problem == "truncated" and "data.max_tokens is 12" in found.detail
    assert problems(tokenizer, [row(prompt="where " * 30)], max_tokens=12) == ["truncated", "no_target"]


def test_a_response_without_tokens(tokenizer):
    assert problems(tokenizer, [row(prompt="keys ", response="")]) == ["no_target"]
    refused = copy.deepcopy(tokenizer)
    refused.chat_template = "{{ raise_exception('roles must alternate') }}"
    found = check_plumbing([row()], [item()], refused, DataConfig()).iloc[0]
    assert found.problem == "no_target" and "roles must alternate" in found.detail


def test_one_bad_row_does_not_hide_the_others(tokenizer):
    rows = [row(), row(prompt="keys ", response="", row_id="bad"), row(response="golden " * 30, row_id="long")]
    items = [item(row_id=r.row_id) for r in rows]
    found = check_plumbing(rows, items, tokenizer, DataConfig(max_tokens=20))
    assert found[["row_id", "problem"]].to_numpy().tolist() == [["bad", "no_target"], ["long", "truncated"]]


def test_missing_eos(tokenizer):
    tokenizer.chat_template = CHAT.replace("<|end|>", "")
    assert problems(tokenizer) == ["missing_eos"]


def test_doubled_bos(tokenizer):
    tokenizer.bos_token = "<|im|>"
    tokenizer.chat_template = "<|im|>" + CHAT
    assert problems(tokenizer) == ["doubled_bos"]


@pytest.mark.parametrize("where", ["prompt", "response"])
def test_special_token_text_in_the_data(tokenizer, where):
    found = check_plumbing([row(**{where: "keys <|endoftext|> comes"})], [item()], tokenizer, DataConfig()).iloc[0]
    assert found.problem == "special_token_text"
    assert ("the response" if where == "response" else "a user message") in found.detail
    assert "'<|endoftext|>'" in found.detail


def test_another_chat_template(tokenizer):
    base, tuned = copy.deepcopy(tokenizer), copy.deepcopy(tokenizer)
    base.chat_template, tuned.chat_template = CHAT, "<|im|>system\nkeys<|end|>\n" + CHAT
    found = check_plumbing([row()], [item()], base, DataConfig(), tuned=tuned).iloc[0]
    assert found.problem == "template_differs" and "from character 6 on" in found.detail
    assert problems(base, tuned=tuned, template="plain") == []
    lost = copy.deepcopy(tokenizer)
    assert problems(base, tuned=lost) == ["template_differs"]
    assert problems(tokenizer, tuned=tuned) == []  # a base has none, its chat model does: no fault


def test_another_vocabulary(tokenizer):
    other = train_tokenizer(TEXTS, 300)
    found = check_plumbing([row()], [item()], tokenizer, DataConfig(), tuned=other).iloc[0]
    assert found.problem == "tokenizer_differs"


@pytest.mark.parametrize(
    ("options", "answer", "problem"),
    [
        (("Paris", " ", "Rome"), 0, "empty_option"),
        (("Paris", "Rome", " Rome."), 0, "duplicate_option"),
        (("Paris", "Rome", "Paris "), 0, "option_equals_answer"),
        (("Paris", "Rome", "Paris "), 2, "option_equals_answer"),
        (("BB", "Bb"), 0, None),
        (("C", "C#", "C++"), 0, None),
        (("(P or Q) and R", "P or (Q and R)"), 0, None),
    ],
)
def test_options(tokenizer, options, answer, problem):
    assert problems(tokenizer, items=[item(*options, answer=answer)]) == ([problem] if problem else [])


def test_a_row_without_item(tokenizer):
    assert problems(tokenizer, items=[]) == ["no_item"]


@pytest.mark.shared
def test_real_multiple_choice_files(shared, tokenizer):
    """CommonsenseQA repeats options in some 1 % of its items; ARC's genotypes differ in case only and are sound."""
    cfg = DataConfig()
    for name, least, most in (("commonsenseqa_train", 10, 60), ("arc_challenge_test", 0, 0)):
        rows = read_rows(str(shared / f"{name}.jsonl.gz"), cfg)
        items = [Item(row_id=r.row_id, question=r.prompt, options=r.options, answer=r.answer) for r in rows]
        found = check_plumbing(rows, items, tokenizer, cfg)
        repeats = found.problem.isin(["duplicate_option", "option_equals_answer"]).sum()
        assert least <= repeats <= most


def test_a_prompt_with_three_answers_is_ambiguous_and_one_with_two_is_a_conflict_to_examine(tokenizer):
    rows = [row(response=text, row_id=f"r{n}") for n, text in enumerate(("to Paris", "winter", "golden keys"))]
    items = [item(row_id=one.row_id) for one in rows]
    three, two = problems(tokenizer, rows, items), problems(tokenizer, rows[:2], items[:2])
    assert "ambiguous_prompt" in str(three) and "ambiguous_prompt" not in str(two)
