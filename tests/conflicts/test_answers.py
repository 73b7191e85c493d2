import pytest

from ilpjax.conflicts import KINDS, OPEN, SAME, STEPS, compare
from ilpjax.conflicts.answers import quantity

NO_OPTIONS = ((), ())


@pytest.mark.parametrize(
    ("one", "two", "step"),
    [
        ("The Paris.", "paris", "same text"),
        ("1,000", "1000", "same text"),
        ("3 km", "3000 m", "same number"),
        ("5 miles", "8 km", "same number"),  # each rounded in its own unit
        ("5 miles", "9 km", "number"),
        ("100 centimetres", "1 metre", "same number"),
        ("20 °C", "68 °F", "same number"),
        ("3 kg", "3 m", "number"),
        ("in 1997", "1997", "same number"),
        ("1997", "1998", "number"),  # a tenth of a per mille apart, and another year
        ("about three", "3", "same number"),
        ("3.14", "3.1416", "same number"),
        ("3.14", "3.15", "number"),
        ("-5", "5", "number"),
        ("$5 million", "5,000,000", "same number"),
        ("50%", "50 percent", "same number"),
        ("12 people", "12", "same number"),
        ("red, blue and green", "green, red, blue", "same list"),
        ("- red\n- blue", "1. blue\n2. red", "same list"),
        ("red, blue and green", "green, red, yellow", "list"),
        ("red, blue and green", "cyan, magenta, yellow", "unclear"),  # two choices among many
        ("red, blue", "red, blue, green", "says more"),
        ("Paris", "Paris, France", "says more"),
        ("April 5, 1990", "5 April 1990", "says more"),
        ("Paris", "London", "name"),
        ("bishop", "member of the House of Commons of Canada", "name"),
        ("Paris", "1997", "unclear"),
        ("Yes, it is.", "yes", "says more"),
        ("Yes", "No, it is not.", "yes-no"),
        ("True", "false", "yes-no"),
        ("The Eiffel Tower is 330 metres tall.", "The Eiffel tower is 300 metres tall.", "number"),
        ("It was built by Gustave Eiffel in Paris.", "It was built by Gustave Moreau in Paris.", "name"),
        ("It is a mammal that flies at night.", "It is not a mammal that flies at night.", "negation"),
        ("A cat sat on the mat and slept.", "Dogs run about in the garden all day long.", "unclear"),
        ("It is a mammal that flies at night.", "It is a small animal that flies by night.", "unclear"),
    ],
)
def test_each_step_both_ways(one, two, step):
    assert compare(("q", "q"), (one, two)) == step == compare(("q", "q"), (two, one))


def test_options_are_compared_by_what_they_say():
    options = ("red", "blue", "green")
    assert compare(("q", "q"), ("red", "blue"), (options, options[::-1])) == "choice"
    assert compare(("q", "q"), ("B", "blue"), (options, ())) == "same text"  # a label is its option
    assert compare(("q", "q"), ("red", "black"), (options, ("black", "white"))) == "other options"
    assert compare(("q", "q"), ("red", "black"), (options, ())) == "other options"
    listed = ("Which?\nA. red\nB. blue", "Which?\nA. blue\nB. red")
    assert compare(listed, ("A", "B")) == "same text"
    assert compare(listed, ("A", "A")) == "choice"


@pytest.mark.parametrize("text", ["", "Paris", "5 of them, or 6", "1997-98", "12:30", "5 pears in a basket of straw"])
def test_what_is_no_quantity(text):
    assert quantity(text) is None


def test_every_outcome_is_a_step():
    assert set(SAME) | set(KINDS) | set(OPEN) < set(STEPS) and len(STEPS) == len(set(STEPS))
