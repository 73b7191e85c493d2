"""The forest of an item, held against the plain sequences it stands for."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ilpjax.data import OptionTokens
from ilpjax.scoring import cut_left, grow


@st.composite
def roots(draw, longest=20):
    """Up to four prompts with options; some prompts begin alike, as option orders do, and some options too; some
    options change the prompt's tail, some are empty."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    tokens = lambda n: rng.integers(1, draw(st.sampled_from([3, 400])), n).astype(np.int32)
    stem = tokens(draw(st.integers(0, longest)))
    made = []
    for _ in range(draw(st.integers(1, 4))):
        shared = np.concatenate([stem if draw(st.booleans()) else stem[:0], tokens(draw(st.integers(1, longest)))])
        sizes = draw(st.lists(st.integers(0, 6), min_size=1, max_size=5))
        tails = tuple(draw(st.integers(0, min(2, size))) for size in sizes)
        made.append(OptionTokens(shared, tuple(tokens(n) for n in sizes), tails))
    return made


def visible(tree, query):
    keys = np.arange(len(tree.tokens))
    return np.flatnonzero((keys <= query) & (query < tree.subtree_end))


@given(roots())
def test_every_target_sees_exactly_its_own_sequence(forest):
    tree = grow(forest)
    number, seen = 0, 0
    for root in forest:
        for option, tail in zip(root.options, root.prompt_tail, strict=True):
            sequence = np.concatenate([root.shared, option])
            for n, j in enumerate(np.flatnonzero(tree.option == number)):
                place = len(root.shared) + tail + n  # of the target in the plain sequence
                path = visible(tree, tree.places[tree.at[j]])
                assert tree.tokens[path].tolist() == sequence[:place].tolist()
                assert tree.positions[path].tolist() == list(range(place))
                assert tree.target[j] == sequence[place]
                seen += 1
            assert np.sum(tree.option == number) == len(option) - tail
            number += 1
    assert tree.options == number and seen == len(tree.target)


@given(roots())
def test_what_begins_alike_is_there_once(forest):
    """Every path of the tree is a beginning of a sequence less its last token, and none is there twice."""
    tree = grow(forest)
    paths = [tuple(tree.tokens[visible(tree, node)]) for node in range(len(tree.tokens))]
    wanted = set()
    for root in forest:
        for option in root.options:
            sequence = tuple(np.concatenate([root.shared, option]))
            wanted |= {sequence[:n] for n in range(1, len(sequence))}
    assert len(paths) == len(set(paths)) and set(paths) == wanted
    assert len(set(tree.places)) == len(tree.places) <= len(tree.target)


def test_labels_of_one_token_add_nothing_to_the_prompt():
    shared = np.arange(1, 11, dtype=np.int32)
    tree = grow([OptionTokens(shared, tuple(np.array([n], np.int32) for n in (30, 31, 32)), (0, 0, 0))])
    assert tree.tokens.tolist() == shared.tolist() and tree.places.tolist() == [9] and tree.at.tolist() == [0, 0, 0]
    assert tree.target.tolist() == [30, 31, 32]


def test_option_orders_share_the_question():
    stem = np.arange(1, 31, dtype=np.int32)
    labels = tuple(np.array([n], np.int32) for n in (90, 91))
    lists = [np.array(order, np.int32) for order in ([50, 51, 52], [51, 50, 52], [50, 52, 51])]
    tree = grow([OptionTokens(np.concatenate([stem, each]), labels, (0, 0)) for each in lists])
    assert len(tree.tokens) == 30 + 3 + 3 + 2 and tree.options == 6


def test_cut_left_keeps_the_end_of_the_prompt():
    tokens = OptionTokens(
        np.arange(10, dtype=np.int32), (np.arange(3, dtype=np.int32), np.arange(5, dtype=np.int32)), (0, 0)
    )
    fits, cut = cut_left(tokens, 14)
    assert cut == 0 and len(fits.shared) == 10  # the last token of an option is not an input
    fits, cut = cut_left(tokens, 8)
    assert cut == 6 and fits.shared.tolist() == [6, 7, 8, 9]
    fits, cut = cut_left(tokens, 5)
    assert fits.shared.tolist() == [9]
    with pytest.raises(ValueError, match="an option has 5 tokens, and the model sees at most 4"):
        cut_left(tokens, 4)
