"""The token tree: one mask, ways to attend, what is refused, and the hidden states of one sequence a branch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import CASES, case_model
from trees import Tree, trees

from ilpjax.config import MeshConfig
from ilpjax.errors import InputError
from ilpjax.models import attention, choose_attention, describe_attention, tree_mask
from ilpjax.models.attention import dense
from ilpjax.parallel import make_mesh

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
        np.testing.assert_allclose(ours, theirs, atol=1e-5 * max(1, np.abs(theirs).max()))


@pytest.mark.parametrize("block", [2, 200])
def test_bands_of_several_blocks(block: int):
    """Enough blocks that a band is a loop: 17 or more small ones, 5 or more large ones."""
    seq = 37 if block == 2 else 1001
    ends = np.where(np.arange(seq) < seq // 3, seq // 3, seq)[None].astype(np.int32)
    ends[0, :9] = seq  # a stem under which both halves hang
    qkv = draw_qkv(0, seq, 4, 2)
    fast, plain = value_and_grad(qkv, ends, "chunked", block), value_and_grad(qkv, ends, "reference")
    for ours, theirs in zip(fast, plain, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5 * max(1, np.abs(theirs).max()))


def test_later_keys_are_not_read():
    """What a NaN among the last keys leaves alone: every block of queries before them."""
    q, k, v = draw_qkv(0, SIZE, 4, 2)
    ends = np.full((1, SIZE), SIZE, np.int32)
    out = attention(q, k, v.at[:, 16:].set(jnp.nan), ends, "chunked", 8)
    np.testing.assert_array_equal(out[:, :16], attention(q, k, v, ends, "chunked", 8)[:, :16])


@given(trees(SIZE), st.integers(0, 99))
def test_a_dense_mask_for_the_library(tree: Tree, seed: int):
    """The path that cuDNN takes on a GPU, with XLA in its place."""
    qkv, end = draw_qkv(seed, SIZE, 4, 2), tree.padded(SIZE)[1]
    plain = value_and_grad(qkv, end, "reference")[0]
    np.testing.assert_allclose(_dense(qkv, end), plain, atol=1e-5 * max(1, np.abs(plain).max()))


_dense = jax.jit(lambda qkv, end: dense(*qkv, end, "xla"))


@pytest.mark.skipif(jax.default_backend() != "gpu", reason="cuDNN needs a GPU")
def test_cudnn_equals_reference():
    qkv, end = (
        [x.astype(jnp.bfloat16) for x in draw_qkv(0, 128, 4, 2, dim=64)],
        jnp.full((1, 128), 128).at[:, 64:].set(96),
    )
    end = jnp.maximum(end, jnp.arange(128) + 1)
    for ours, theirs in zip(value_and_grad(qkv, end, "cudnn"), value_and_grad(qkv, end, "reference"), strict=True):
        scale = np.abs(theirs.astype(jnp.float32)).max()
        np.testing.assert_allclose(ours.astype(jnp.float32), theirs.astype(jnp.float32), atol=0.03 * scale)


def test_choice():
    choose = lambda platform, seq, dtype, packed, dim=128: choose_attention("auto", platform, seq, dim, dtype, packed)
    assert choose("cpu", 100, "float32", True) == "reference"
    assert choose("cpu", 128, "float32", False) == choose("gpu", 2048, "bfloat16", True) == "chunked"
    assert choose("tpu", 4096, "bfloat16", True) == choose("tpu", 4096, "bfloat16", True, dim=64) == "splash"
    assert choose("tpu", 4096, "bfloat16", False) == choose("tpu", 100, "bfloat16", True) == "tree"
    assert choose("tpu", 4096, "float32", True) == choose("tpu", 4096, "bfloat16", True, dim=80) == "tree"
    assert choose_attention("reference", "tpu", 100, 8, "float32", False) == "reference"


def test_description():
    line = describe_attention("auto", 4096, 128, jnp.bfloat16, mesh=make_mesh(MeshConfig(data=8)), packed=True)
    assert line == "attention: chunked XLA (cpu, seq 4096)"


@pytest.mark.parametrize(
    ("impl", "platform", "seq", "dim", "dtype", "packed", "why"),
    [
        ("tree", "cpu", 128, 64, "float32", False, "tree runs on a TPU, this is a CPU; auto would be right"),
        ("splash", "gpu", 128, 64, "bfloat16", True, "splash runs on a TPU, this is a GPU"),
        ("cudnn", "cpu", 128, 64, "bfloat16", True, "cudnn runs on a GPU, this is a CPU"),
        ("cudnn", "gpu", 128, 64, "float32", True, "cudnn needs bfloat16, the dtype is float32"),
        ("splash", "tpu", 128, 64, "bfloat16", False, "splash drops the tree"),
        ("splash", "tpu", 200, 64, "bfloat16", True, "multiple of 128, this one has 200 tokens"),
        ("splash", "tpu", 128, 80, "bfloat16", True, "multiple of 64, these have 80"),
        ("splash", "tpu", 128, 64, "float32", True, "multiplies in bfloat16, the dtype is float32"),
    ],
)
def test_what_cannot_be_had_is_refused(impl, platform, seq, dim, dtype, packed, why):
    with pytest.raises(InputError, match=why) as refused:
        choose_attention(impl, platform, seq, dim, dtype, packed)
    assert str(refused.value).startswith("attention: ") and "\n" not in str(refused.value)


def test_the_model_refuses_too():
    model, params = case_model("qwen3")
    tokens = jnp.zeros((1, 8), jnp.int32)
    with pytest.raises(InputError, match="tree runs on a TPU"):
        model.hidden(params, tokens, tokens, tokens + 8, dtype=jnp.float32, impl="tree")


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
