"""The exact strings of each protocol, and p from log-probs."""

from dataclasses import replace

import numpy as np
import pytest

from ilpjax.errors import InputError
from ilpjax.rows import Item, Message, Row
from ilpjax.scoring import ask, option_probabilities, permutation

ITEM = Item(row_id="a", question="Where is it?", options=("in Rome", "in Paris", "der Süden"), answer=1)


def test_cloze_is_the_string_of_training(plain):
    got = ask(ITEM, plain, "cloze", 0, seed=0)
    assert got.prompt_text == "Where is it?" and got.option_texts == (" in Rome", " in Paris", " der Süden")
    assert got.option_bytes == (7, 8, 10) and got.control_text == ""


def test_cloze_scores_the_tokens_that_training_predicts(plain, chat):
    row = Row(
        row_id="a",
        messages=(Message("system", "keep keys"), Message("user", "where does it"), Message("assistant", "in Rome")),
        dataset="d",
        position=0,
        source="d:1",
    )
    item = Item(row_id="a", question=row.prompt, options=("in Rome", "to Paris"), answer=0, history=row.history)
    for template in (plain, chat):
        got = ask(item, template, "cloze", 0, seed=0)
        tokens = template.encode_options(got.prompt_text, got.option_texts)
        encoded = template.encode(row)
        scored = len(tokens.options[0]) - tokens.prompt_tail[0]
        sequence = np.concatenate([tokens.shared, tokens.options[0]])
        np.testing.assert_array_equal(encoded.tokens[: len(sequence)], sequence)
        first = int(np.argmax(encoded.target_mask))
        assert encoded.target_mask[first : first + scored].all() and first + scored == len(sequence)


@pytest.mark.parametrize("order", range(1, 25))
def test_letter_lists_the_options_in_the_drawn_order(plain, order):
    listed = permutation(3, "a", order, 3)
    got = ask(ITEM, plain, "letter", order, seed=3)
    lines = [f"{'ABC'[n]}. {ITEM.options[option]}" for n, option in enumerate(listed)]
    assert got.prompt_text == "\n".join(["Where is it?", *lines, "Answer:"])
    assert got.control_text == "\n".join([*lines, "Answer:"])
    for option, text in enumerate(got.option_texts):  # each option keeps its own label, in the item's own order
        assert f"{text.strip()}. {ITEM.options[option]}" in lines
    assert set(got.option_texts) == {" A", " B", " C"} and got.option_bytes == (1, 1, 1)


def test_the_first_order_is_the_items_own(plain):
    got = ask(ITEM, plain, "letter", 0, seed=3)
    assert got.prompt_text == "Where is it?\nA. in Rome\nB. in Paris\nC. der Süden\nAnswer:"
    assert got.option_texts == (" A", " B", " C")


def test_a_native_question_asks_for_the_answer_once(plain):
    native = replace(ITEM, question="Question: Where is it?\nAnswer:")
    assert ask(native, plain, "letter", 0, seed=3).prompt_text.count("Answer:") == 1
    assert ask(native, plain, "cloze", 0, seed=3).prompt_text == native.question


ORDER = (5, 7, 0, 6, 4, 3, 1, 2)


def test_orders_are_keyed_by_seed_row_and_order():
    orders = {(seed, row, n): tuple(permutation(seed, row, n, 8)) for seed in (0, 1) for row in "ab" for n in (1, 2)}
    assert len(set(orders.values())) == 8
    assert orders[0, "a", 1] == ORDER, "another order than before: scores made earlier could not be compared"
    places = np.mean([np.argmax(permutation(0, f"r{n}", 1, 4) == 0) for n in range(4000)])
    assert abs(places - 1.5) < 5 * np.sqrt(1.25 / 4000)


def test_chat_puts_the_list_inside_the_user_message(chat):
    item = Item(row_id="a", question="Where?", options=("Rome", "Paris"), answer=0, history=(Message("system", "s"),))
    got = ask(item, chat, "letter", 0, seed=0)
    user = "<|endoftext|>user\nWhere?\nA. Rome\nB. Paris\nAnswer:<|endoftext|>\n<|endoftext|>assistant\n"
    assert got.prompt_text == "<|endoftext|>system\ns<|endoftext|>\n" + user
    assert got.option_texts == ("A", "B")
    assert got.control_text == user.replace("Where?\n", "")
    cloze = ask(item, chat, "cloze", 0, seed=0)
    assert cloze.option_texts == ("Rome", "Paris")
    assert cloze.control_text == "<|endoftext|>user\n<|endoftext|>\n<|endoftext|>assistant\n"


def test_more_options_than_labels(plain):
    item = Item(row_id="many", question="?", options=tuple(map(str, range(27))), answer=0)
    with pytest.raises(InputError, match="row_id many: 27 options, and letter has labels for 26"):
        ask(item, plain, "letter", 0, seed=0)
    assert len(ask(item, plain, "cloze", 0, seed=0).option_texts) == 27


def test_probabilities_of_each_score():
    logprob, tokens, nbytes = np.log([0.1, 0.4]), np.array([1, 2]), np.array([2, 4])
    control = np.log([0.1, 0.8])
    p = lambda kind: option_probabilities(logprob, tokens, nbytes, control, kind)
    np.testing.assert_allclose(p("raw"), [0.2, 0.8])
    np.testing.assert_allclose(p("token"), np.array([0.1, 0.4**0.5]) / (0.1 + 0.4**0.5))
    np.testing.assert_allclose(p("byte"), np.array([0.1**0.5, 0.4**0.25]) / (0.1**0.5 + 0.4**0.25))
    np.testing.assert_allclose(p("pmi"), [2 / 3, 1 / 3])


def test_an_option_without_tokens_cannot_be_picked():
    p = option_probabilities(np.array([0.0, -5.0]), np.array([0, 2]), np.array([0, 3]), None, "raw")
    assert p.tolist() == [0, 1]
    p = option_probabilities(np.array([0.0, 0.0]), np.array([0, 0]), np.array([0, 0]), None, "raw")
    assert p.tolist() == [0.5, 0.5]


def test_far_apart_scores_do_not_overflow():
    p = option_probabilities(np.array([-5000.0, -1.0]), np.array([9, 9]), np.array([9, 9]), None, "raw")
    assert p.tolist() == [0, 1]
