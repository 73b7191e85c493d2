"""Trees packed into few shapes: nothing is lost, nothing meets a neighbour."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_tree import roots, visible

from ilpjax.data import OptionTokens
from ilpjax.models import ModelSpec
from ilpjax.scoring import Packer, Shape, choose_base, fill, grow, stack, unstack

SPEC = {
    "model_type": "qwen2",
    "hidden_size": 512,
    "intermediate_size": 1408,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "vocab_size": 32000,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
}


@pytest.fixture(scope="module")
def spec():
    return ModelSpec.from_config(SPEC)


def uniform(prompt, options, tokens, count):
    draw = np.random.default_rng(0).integers
    ids = lambda n: draw(1, 32000, n).astype(np.int32)
    return [
        grow([OptionTokens(ids(prompt), tuple(ids(tokens) for _ in range(options)), (0,) * options)])
        for _ in range(count)
    ]


@given(st.lists(roots(), min_size=1, max_size=12), st.integers(1, 3), st.booleans(), st.integers(1, 5))
def test_every_tree_comes_back_from_its_own_place(forests, rows, pack, block):
    trees = [grow(forest) for forest in forests]
    packer = Packer(Shape(16, 4, 4), rows, pack)
    shapes, seen = set(), {}
    for start in range(0, len(trees), block):
        members = list(enumerate(trees))[start : start + block]
        for shape, packed in packer.add(members, last=start + block >= len(trees)):
            shapes.add(shape)
            assert 1 <= len(packed) <= rows and (pack or all(len(row) == 1 for row in packed))
            batch = named(stack(packed, rows, shape))
            assert [batch[name].shape for name in ("tokens", "places", "target")] == [(rows, size) for size in shape]
            assert all(
                len(batch[name][0]) == size for name, size in zip(("tokens", "places", "target"), shape, strict=True)
            )
            numbers = np.tile(np.arange(shape.targets), (rows, 1))
            for n, row in enumerate(packed):
                check_row(row, {name: array[n] for name, array in batch.items()})
            # Each option is given its column as a score.
            seen |= {owner: (line, len(row)) for row in packed for owner, line in unstack([row], numbers)}
    assert sorted(seen) == list(range(len(trees)))
    for n, tree in enumerate(trees):
        assert (np.diff(seen[n][0]) == 1).all() and len(seen[n][0]) == tree.options
    # A doubling each, up to what the largest tree needs.
    assert all(shape == Shape(16, 4, 4) or shape[0] % 32 == 0 for shape in shapes)
    largest = max(max(tree.need[0] / 16, tree.need[1] / 4, tree.need[2] / 4) for tree in trees)
    assert len(shapes) <= 1 + max(0, np.ceil(np.log2(largest)))


def named(batch):
    nodes = zip(("tokens", "positions", "subtree_end"), np.moveaxis(batch["nodes"], 1, 0), strict=True)
    targets = zip(("at", "target", "option"), np.moveaxis(batch["targets"], 1, 0), strict=True)
    return {"places": batch["places"], **dict(nodes), **dict(targets)}


def check_row(row, arrays):
    """Read as one tree, a packed sequence is its trees one after the other, and padding sees only itself."""
    at, target = 0, 0
    for _, tree in row:
        for node in range(len(tree.tokens)):
            seen = np.flatnonzero((np.arange(len(arrays["tokens"])) <= at + node) & (at + node < arrays["subtree_end"]))
            assert (seen - at).tolist() == visible(tree, node).tolist()
        here = slice(at, at + len(tree.tokens))
        assert (arrays["tokens"][here] == tree.tokens).all() and (arrays["positions"][here] == tree.positions).all()
        wanted = slice(target, target + len(tree.target))
        assert (arrays["places"][arrays["at"][wanted]] == tree.places[tree.at] + at).all()
        assert (arrays["target"][wanted] == tree.target).all()
        at, target = at + len(tree.tokens), target + len(tree.target)
    assert (arrays["subtree_end"][at:] == np.arange(at, len(arrays["tokens"])) + 1).all()
    assert (arrays["option"][target:] == len(arrays["option"])).all()


def test_a_sequence_is_filled_before_the_next_is_begun():
    rows = fill([(40, 2, 2), (30, 2, 2), (70, 2, 2), (60, 2, 2)], Shape(100, 8, 8), pack=True)
    assert rows == [[2, 1], [3, 0]]
    assert fill([(10, 5, 5)] * 3, Shape(100, 8, 8), pack=True) == [[0], [1], [2]]  # targets are full first


@pytest.mark.parametrize("prompt, options, tokens, length", [(256, 4, 8, 284), (512, 10, 4, 542), (20, 4, 3, 28)])
def test_the_base_shape_wastes_little(spec, prompt, options, tokens, length):
    trees = uniform(prompt, options, tokens, 64)
    base = choose_base(trees, spec, 8, True, cpu=True, whole=False)
    rows = fill([tree.need for tree in trees], base, True)
    assert base.holds(trees[0].need) and len(rows) * base.length <= 1.07 * 64 * length
    places = len(trees[0].places)
    assert len(rows) * base.places <= 64 * places * 1.15 + 8


def test_an_accelerator_gets_long_sequences_of_whole_blocks(spec):
    for prompt in (20, 700, 3000):
        base = choose_base(uniform(prompt, 4, 8, 64), spec, 8, True, cpu=False, whole=False)
        assert base.length >= 2048 and base.length % 128 == 0


def test_one_long_tree_does_not_stretch_the_others(spec):
    trees = uniform(40, 4, 2, 250) + uniform(1500, 4, 2, 1)
    base = choose_base(trees, spec, 8, True, cpu=True, whole=False)
    assert base.length <= 512
