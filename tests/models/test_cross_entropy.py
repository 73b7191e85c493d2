"""Chunked log-probs against the plain ones: values, argmax and gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ilpjax.models import target_logprobs, target_logprobs_reference


def draw(shape: tuple[int, ...], seed: int, embed: int = 12, vocab: int = 37):
    keys = jax.random.split(jax.random.key(seed), 4)
    hidden = jax.random.normal(keys[0], (*shape, embed))
    head = jax.random.normal(keys[1], (vocab, embed))
    targets = jax.random.randint(keys[2], shape, 0, vocab)
    # Half of the targets are the argmax, or that output would never be true.
    best = jnp.argmax(hidden @ head.T, -1)
    targets = jnp.where(jax.random.bernoulli(keys[3], 0.5, shape), best, targets)
    return hidden, head, targets, jax.random.normal(keys[3], shape)


@functools.partial(jax.jit, static_argnames="chunk")
def value_and_grad(hidden, head, targets, weights, chunk: int | None) -> tuple:
    def loss(hidden, head):
        of = target_logprobs_reference if chunk is None else functools.partial(target_logprobs, chunk=chunk)
        logprob, is_argmax = of(hidden, head, targets)
        return jnp.sum(weights * logprob), (logprob, is_argmax)

    grads, values = jax.grad(loss, (0, 1), has_aux=True)(hidden, head)
    return *values, *grads


# A few shapes, or every example compiles anew: one token, chunks that divide and that do not, more than there are.
@pytest.mark.parametrize(("shape", "chunk"), [((1,), 4), ((40,), 6), ((40,), 999), ((5, 13), 1), ((3, 8), 12)])
@given(seed=st.integers(0, 99))
def test_equal_to_the_reference(shape: tuple[int, ...], chunk: int, seed: int):
    drawn = draw(shape, seed)
    logprob, is_argmax, *grads = value_and_grad(*drawn, chunk)
    plain_logprob, plain_argmax, *plain_grads = value_and_grad(*drawn, None)
    assert logprob.shape == shape and logprob.dtype == jnp.float32 and is_argmax.dtype == bool
    np.testing.assert_allclose(logprob, plain_logprob, atol=1e-5)
    np.testing.assert_array_equal(is_argmax, plain_argmax)
    for ours, plain in zip(grads, plain_grads, strict=True):
        np.testing.assert_allclose(ours, plain, atol=1e-4)


def test_some_targets_are_the_argmax_and_some_are_not():
    hidden, head, targets, _ = draw((4, 10), 0)
    is_argmax = target_logprobs(hidden, head, targets, chunk=8)[1]
    assert 0 < int(is_argmax.sum()) < is_argmax.size


def test_bfloat16_compute_keeps_float32_statistics_and_gradients():
    hidden, head, targets, weights = draw((2, 64), 1, embed=64, vocab=512)
    hidden = (hidden / 8).astype(jnp.bfloat16)

    def grads(hidden, head):
        loss = lambda head: jnp.sum(weights * target_logprobs(hidden, head, targets, chunk=16)[0])  # noqa: E731
        return jax.grad(loss)(head)

    logprob, _ = target_logprobs(hidden, head, targets, chunk=16)
    rounded = head.astype(jnp.bfloat16).astype(jnp.float32)
    exact, _ = target_logprobs_reference(hidden.astype(jnp.float32), rounded, targets)
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

    def temporary(of) -> int:
        run = lambda hidden, head, targets: of(hidden, head, targets)[0].sum()  # noqa: E731
        run = run if direction == "forward" else jax.grad(run, (0, 1))
        return jax.jit(run).lower(hidden, head, targets).compile().memory_analysis().temp_size_in_bytes

    whole = 4 * 16384 * 8192
    assert temporary(lambda *args: target_logprobs(*args, chunk=512)) < whole / 5
    assert temporary(target_logprobs_reference) >= whole
