"""The forest of an item, held against the plain sequences it stands for."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ilpjax.data import OptionTokens
from ilpjax.scoring import cut_left, grow, stack


@st.composite
def roots(draw, longest=20):
    """One or two prompts with options; some options change the prompt's tail, some are empty."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    made = []
    for _ in range(draw(st.integers(1, 2))):
        shared = rng.integers(1, 400, draw(st.integers(1, longest))).astype(np.int32)
        sizes = draw(st.lists(st.integers(0, 6), min_size=1, max_size=5))
        tails = tuple(draw(st.integers(0, min(2, size))) for size in sizes)
        made.append(OptionTokens(shared, tuple(rng.integers(1, 400, n).astype(np.int32) for n in sizes), tails))
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
                path = visible(tree, tree.index[j])
                assert tree.tokens[path].tolist() == sequence[:place].tolist()
                assert tree.positions[path].tolist() == list(range(place))
                assert tree.target[j] == sequence[place]
                seen += 1
            assert np.sum(tree.option == number) == len(option) - tail
            number += 1
    assert tree.options == number and seen == len(tree.target)


@given(roots())
def test_last_tokens_are_not_in_the_tree_and_padding_sees_itself(forest):
    tree = grow(forest)
    assert len(tree.tokens) == sum(len(r.shared) + sum(max(len(o) - 1, 0) for o in r.options) for r in forest)
    batch = stack([tree], 2, tree.shape)
    for row, size in ((0, len(tree.tokens)), (1, 0)):
        ends = batch["subtree_end"][row]
        assert (ends[size:] == np.arange(size, tree.shape[0]) + 1).all() and (ends[:size] <= size).all()
    assert (batch["option"][0, len(tree.target) :] == tree.shape[1]).all()


def test_labels_of_one_token_add_nothing_to_the_prompt():
    shared = np.arange(1, 11, dtype=np.int32)
    tree = grow([OptionTokens(shared, tuple(np.array([n], np.int32) for n in (30, 31, 32)), (0, 0, 0))])
    assert tree.tokens.tolist() == shared.tolist() and tree.index.tolist() == [9, 9, 9]
    assert tree.target.tolist() == [30, 31, 32]


def test_shapes_are_few():
    lengths = {}
    for size in range(1, 4097):
        shared = np.ones(size, np.int32)
        shape = grow([OptionTokens(shared, (np.ones(1, np.int32),), (0,))]).shape
        assert shape[0] >= size and (size < 32 or shape[0] - size <= shape[0] / 3)
        lengths[shape[0]] = shape
    assert sorted(lengths) == [32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096]
    assert {shape[1] for shape in lengths.values()} == {16}


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
