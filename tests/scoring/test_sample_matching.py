"""How an answer is compared with its reference."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ilpjax.scoring.matching import choose_metric, exact_match, match, named_option, rouge_l, token_f1

OPTIONS = ("the red bird", "seven keys", "Rome", "the red bird of Rome")


def test_exact_match_is_squads():
    assert exact_match("The  Red bird!", "red bird") == 1 and exact_match("red birds", "red bird") == 0
    assert match("Rome.", "rome", "em") == 1


def test_f1_by_hand():
    # 2 words shared of 3 given and 4 wanted: 2 * 2 / 7
    assert token_f1("red bird sings", "a red bird in winter sun") == pytest.approx(4 / 8)
    assert token_f1("red red bird", "red bird") == pytest.approx(4 / 5)
    assert token_f1("", "") == 1 and token_f1("", "x") == 0 and token_f1("x", "y") == 0


def test_rouge_l_by_hand():
    # the subsequence "police kill gunman" has 2 words in order: of 4 and 4
    assert rouge_l("police kill the gunman", "police killed the gunman") == pytest.approx(3 / 4)
    assert rouge_l("the gunman kill police", "police killed the gunman") == pytest.approx(2 / 4)
    assert rouge_l("кошка спит", "кошка ест") == pytest.approx(1 / 2) and rouge_l("", "x") == 0


@given(st.text("ab c.", max_size=12), st.text("ab c.", max_size=12))
def test_scores_are_symmetric_shares(a, b):
    for metric in (exact_match, token_f1, rouge_l):
        assert 0 <= metric(a, b) == metric(b, a) <= 1


@pytest.mark.parametrize(
    ("text", "option"),
    [
        ("the red bird", 0),
        ("Red bird.", 0),
        ("B", 1),
        ("(C) Rome", 2),
        ("B. seven keys", 1),
        ("B\nbecause of winter", 1),
        ("I think the answer is C.", 2),
        ("the answer is: seven keys", 1),
        ("it keeps seven keys there", 1),
        ("it is the red bird of Rome", 3),  # which contains two of the others
        ("seven keys or Rome", -1),
        ("E", -1),
        ("A bird of another kind", -1),  # an article, not a label
        ("", -1),
        ("the romeo", -1),
    ],
)
def test_the_option_an_answer_gives(text, option):
    assert named_option(text, OPTIONS) == option


def test_choice_needs_the_right_one():
    assert match("B.", "", "choice", OPTIONS, 1) == 1 and match("B.", "", "choice", OPTIONS, 2) == 0
    assert match("none", "", "choice", OPTIONS, -1) == 0


def test_auto_goes_by_options_and_length():
    assert choose_metric("auto", "x", OPTIONS) == "choice"
    assert choose_metric("auto", "the seven golden keys of Rome", ()) == "em"
    assert choose_metric("auto", "it keeps them in Rome until the winter has come", ()) == "rouge_l"
    assert choose_metric("f1", "x", OPTIONS) == "f1"
