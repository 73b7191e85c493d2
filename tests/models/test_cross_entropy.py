"""Chunked cross-entropy against the plain one: sums, log-probs, argmax and gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ilpjax.models import weighted_nats, weighted_nats_reference


def draw(shape: tuple[int, int], seed: int, embed: int = 12, vocab: int = 37, share: float = 0.5):
    """`share` of the tokens count."""
    keys = jax.random.split(jax.random.key(seed), 5)
    hidden = jax.random.normal(keys[0], (*shape, embed))
    head = jax.random.normal(keys[1], (vocab, embed))
    targets = jax.random.randint(keys[2], shape, 0, vocab)
    # Half of the targets are the argmax, or that output would never be true.
    best = jnp.argmax(hidden @ head.T, -1)
    targets = jnp.where(jax.random.bernoulli(keys[3], 0.5, shape), best, targets)
    weights = jax.random.uniform(keys[3], shape) * jax.random.bernoulli(keys[4], share, shape)
    return hidden, head, targets, weights


@functools.partial(jax.jit, static_argnames="chunk")
def values_and_grads(hidden, head, targets, weights, chunk: int | None) -> tuple:
    def loss(hidden, head):
        of = weighted_nats_reference if chunk is None else functools.partial(weighted_nats, chunk=chunk)
        nats, *told = of(hidden, head, targets, weights)
        return 3 * nats, (nats, *told)

    grads, values = jax.grad(loss, (0, 1), has_aux=True)(hidden, head)
    return *values, *grads


# A few shapes, or every example compiles anew: one token, chunks that divide and that do not, more than there are.
@pytest.mark.parametrize(("shape", "chunk"), [((1, 1), 4), ((1, 40), 6), ((1, 40), 999), ((5, 13), 1), ((3, 8), 12)])
@given(seed=st.integers(0, 99), share=st.sampled_from([0.0, 0.1, 0.5, 1.0]))
def test_equal_to_the_reference(shape: tuple[int, int], chunk: int, seed: int, share: float):
    drawn = draw(shape, seed, share=share)
    nats, logprob, is_best, *grads = values_and_grads(*drawn, chunk)
    plain_nats, plain_logprob, plain_best, *plain_grads = values_and_grads(*drawn, None)
    assert logprob.shape == shape and logprob.dtype == jnp.float32 and is_best.dtype == bool
    np.testing.assert_allclose(nats, plain_nats, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(logprob, plain_logprob, atol=1e-5)
    np.testing.assert_array_equal(is_best, plain_best)
    for ours, plain in zip(grads, plain_grads, strict=True):
        np.testing.assert_allclose(ours, plain, atol=1e-4)


def test_the_sum_is_the_same_with_and_without_its_gradient():
    drawn = draw((4, 30), 3)
    alone = jax.jit(functools.partial(weighted_nats, chunk=16))(*drawn)
    beside = values_and_grads(*drawn, 16)[:3]
    jax.tree.map(np.testing.assert_array_equal, alone, beside)


def test_some_targets_are_the_argmax_and_some_are_not():
    hidden, head, targets, weights = draw((4, 10), 0)
    is_best = weighted_nats(hidden, head, targets, weights, chunk=8)[2]
    assert 0 < int(is_best.sum()) < int((weights > 0).sum())


def test_bfloat16_compute_keeps_float32_statistics_and_gradients():
    hidden, head, targets, weights = draw((2, 64), 1, embed=64, vocab=512)
    hidden = (hidden / 8).astype(jnp.bfloat16)

    def grads(hidden, head):
        return jax.grad(lambda head: weighted_nats(hidden, head, targets, weights, chunk=16)[0])(head)

    logprob = weighted_nats(hidden, head, targets, weights, chunk=16)[1]
    rounded = head.astype(jnp.bfloat16).astype(jnp.float32)
    exact = weighted_nats_reference(hidden.astype(jnp.float32), rounded, targets, weights)[1]
    assert logprob.dtype == jnp.float32
    np.testing.assert_allclose(logprob, exact, atol=1e-4)  # bfloat16 logits would be 1e-2 apart
    low, high = grads(hidden, head), grads(hidden.astype(jnp.float32), rounded)
    assert low.dtype == jnp.float32
    assert float(jnp.linalg.norm(low - high) / jnp.linalg.norm(high)) < 5e-3


@pytest.mark.parametrize("direction", ["forward", "gradient"])
def test_logits_of_all_tokens_never_exist(direction: str):
    """16,384 tokens, 8,192 words: 512 MiB of float32 logits; the compiled program takes a fifth at most."""
    hidden = jax.ShapeDtypeStruct((4, 4096, 32), jnp.float32)
    head = jax.ShapeDtypeStruct((8192, 32), jnp.float32)
    targets = jax.ShapeDtypeStruct((4, 4096), jnp.int32)
    weights = jax.ShapeDtypeStruct((4, 4096), jnp.float32)

    def temporary(of) -> int:
        run = lambda *args: of(*args)[0]  # noqa: E731
        run = run if direction == "forward" else jax.grad(run, (0, 1))
        analysis = jax.jit(run).lower(hidden, head, targets, weights).compile().memory_analysis()
        return analysis.temp_size_in_bytes

    whole = 4 * 16384 * 8192
    assert temporary(lambda *args: weighted_nats(*args, chunk=512)) < whole / 5
    assert temporary(weighted_nats_reference) >= whole
