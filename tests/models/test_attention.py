"""The token tree: one mask, two ways to attend, and the same hidden states as one sequence a branch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import CASES, case_model
from trees import Tree, trees

from ilpjax.models import attention, tree_mask

SIZE = 24  # of every padded tree: one shape, one compilation


@given(trees(SIZE))
def test_mask_shows_a_token_its_ancestors_and_itself(tree: Tree):
    mask = np.asarray(tree_mask(tree.padded(SIZE)[1], jnp.arange(SIZE)))[0]
    for token in range(tree.size):
        assert np.flatnonzero(mask[token]).tolist() == tree.path(token)


def draw_qkv(seed: int, seq: int, heads: int, kv: int, batch: int = 1, dim: int = 8):
    keys = jax.random.split(jax.random.key(seed), 3)
    sizes = ((batch, seq, heads, dim), (batch, seq, kv, dim), (batch, seq, kv, dim))
    return [3 * jax.random.normal(key, size) for key, size in zip(keys, sizes, strict=True)]


@functools.partial(jax.jit, static_argnames=("impl", "block"))
def value_and_grad(qkv: list, end: jax.Array, impl: str, block: int = 1) -> tuple:
    def loss(qkv: list) -> tuple:
        out = attention(*qkv, end, impl, block)
        return jnp.sum(jnp.sin(out)), out

    grads, out = jax.grad(loss, has_aux=True)(qkv)
    return out, *grads


# Blocks that divide and that do not, one that holds all; heads one to seven and one to two.
@given(trees(SIZE), st.sampled_from([(5, 7, 1), (8, 4, 2), (99, 4, 2)]), st.integers(0, 99))
def test_chunked_equals_reference(tree: Tree, sizes: tuple[int, int, int], seed: int):
    block, *heads = sizes
    qkv, end = draw_qkv(seed, SIZE, *heads), tree.padded(SIZE)[1]
    fast, plain = value_and_grad(qkv, end, "chunked", block), value_and_grad(qkv, end, "reference")
    for ours, theirs in zip(fast, plain, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


@given(trees(SIZE), st.integers(0, 99))
def test_reference_equals_a_softmax_over_the_ancestors(tree: Tree, seed: int):
    q, k, v = draw_qkv(seed, SIZE, 4, 2)
    out = value_and_grad([q, k, v], tree.padded(SIZE)[1], "reference")[0][0]
    token = seed % tree.size
    seen = np.array(tree.path(token))
    for head in range(4):
        scores = np.asarray(k)[0, seen, head // 2] @ np.asarray(q)[0, token, head] / np.sqrt(8)
        p = np.exp(scores - scores.max())
        np.testing.assert_allclose(out[token, head], (p / p.sum()) @ np.asarray(v)[0, seen, head // 2], atol=1e-5)


def test_long_sequences_are_chunked_by_themselves():
    """Not one float32 [seq, seq] array in the compiled gradient."""
    q, k, v = draw_qkv(0, 2048, 2, 1)
    end = jnp.full((1, 2048), 2048)
    text = jax.jit(jax.grad(lambda q: attention(q, k, v, end).sum())).lower(q).as_text()
    assert "2048x2048" not in text
    plain = jax.jit(jax.grad(lambda q: attention(q, k, v, end, "reference").sum())).lower(q).as_text()
    assert "2048x2048" in plain


MODELS = {case: case_model(case) for case in ("llama3_scaled_tied", "qwen2_7to1", "qwen3", "olmo2", "qwen")}


@pytest.mark.parametrize("case", MODELS)
@given(tree=trees(SIZE), seed=st.integers(0, 99), impl=st.sampled_from(["reference", "chunked"]))
def test_tree_forward_equals_one_sequence_a_branch(case: str, tree: Tree, seed: int, impl: str):
    assert case in CASES
    model, params = MODELS[case]
    tokens = np.random.default_rng(seed).integers(0, model.spec.vocab, SIZE).astype(np.int32)
    positions, ends = tree.padded(SIZE)
    packed = np.asarray(LOGITS[impl](model, params, tokens[None], positions, ends))[0]
    for leaf in tree.leaves[:3]:
        branch = tree.path(leaf)
        alone = np.zeros((1, SIZE), np.int32)  # one shape, one compilation; what follows is not seen
        alone[0, : len(branch)] = tokens[branch]
        np.testing.assert_allclose(packed[branch], plain(model, params, alone)[: len(branch)], atol=3e-5)


def plain(model, params, tokens: np.ndarray) -> np.ndarray:
    positions, ends = np.arange(SIZE, dtype=np.int32)[None], np.full((1, SIZE), SIZE, np.int32)
    return np.asarray(LOGITS["reference"](model, params, tokens, positions, ends))[0]


def _logits(impl: str):
    return jax.jit(lambda model, *args: model.logits(*args, impl=impl), static_argnums=0)


LOGITS = {impl: _logits(impl) for impl in ("reference", "chunked")}
