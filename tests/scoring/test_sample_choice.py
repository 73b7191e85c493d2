"""One token's choice: shares, support, the keys of draws; and attention over a shared prefix."""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import sampling
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ilpjax.scoring.decoding import lane_keys, nucleus, pick, row_key, uniforms
from ilpjax.scoring.generate import shared_prefix_attention


@given(st.sampled_from([1, 3, 127, 128, 129, 400]), st.integers(0, 10), st.floats(0.1, 6))
def test_a_draw_is_the_plain_inverse_cdf(vocab, seed, spread):
    rng = np.random.default_rng(seed)
    logits = (spread * rng.standard_normal((2, 3, vocab))).astype(np.float32)
    logits[..., rng.random(vocab) < 0.3] = -np.inf
    logits[..., rng.integers(vocab)] = 0.0
    u = rng.random((2, 3, 2), np.float32)
    got = np.asarray(pick(jnp.asarray(logits), jnp.asarray(u)))
    weights = np.exp(logits.astype(np.float64))
    for place in np.ndindex(2, 3):
        assert got[place] == sampling.inverse_cdf(weights[place], u[place].astype(np.float64))
        assert np.isfinite(logits[place][got[place]])
    shared = np.asarray(pick(jnp.asarray(logits[:, :1]), jnp.asarray(u)))  # one row of logits for all lanes
    assert (shared[:, 0] == got[:, 0]).all()


def test_the_ends_of_the_unit_interval_pick_what_can_be_picked():
    logits = np.full((1, 2, 300), -np.inf, np.float32)
    logits[0, :, [3, 7, 200]] = [[-90.0], [0.0], [-90.0]]
    u = np.array([[[0.0, 0.0], [1 - 2**-24, 1 - 2**-24]]], np.float32)
    assert set(np.asarray(pick(jnp.asarray(logits), jnp.asarray(u)))[0]) <= {3, 7, 200}


def test_many_draws_have_the_exact_shares():
    logits = jnp.asarray(np.random.default_rng(0).standard_normal((1, 1, 300)) * 2, jnp.float32)
    keys = lane_keys(jnp.asarray(row_key(0, "a"))[None], jnp.arange(40_000)[None])
    drawn = np.asarray(pick(logits, uniforms(keys, jnp.zeros(1, jnp.int32))))[0]
    expected = np.asarray(jax.nn.softmax(logits[0, 0]), np.float64) * len(drawn)
    often = expected > 5
    counts = np.bincount(drawn, minlength=300)
    counts, expected = (
        np.append(counts[often], counts[~often].sum()),
        np.append(expected[often], expected[~often].sum()),
    )
    assert stats.chisquare(counts, expected * counts.sum() / expected.sum()).pvalue > 1e-4


@settings(max_examples=10)
@given(st.sampled_from([1, 2, 40, 300]), st.integers(0, 20), st.floats(0.05, 0.999))
def test_the_nucleus_is_the_sorted_one(vocab, seed, top_p):
    logits = np.random.default_rng(seed).standard_normal((1, 1, vocab)).astype(np.float32) * 3
    kept = np.isfinite(np.asarray(jax.jit(nucleus)(jnp.asarray(logits), top_p)))[0, 0]
    weights = np.exp(logits[0, 0].astype(np.float64))
    share = weights / weights.sum()
    least = share[kept].min()
    assert kept.any() and (share[~kept] < least).all()
    assert share[kept].sum() > top_p - 1e-5  # enough, and without the least of them it would not be
    assert share[kept].sum() - least < top_p + 1e-5


def test_equals_stay_together_in_the_nucleus():
    kept = np.isfinite(np.asarray(nucleus(jnp.asarray([[[1.0, 3.0, 3.0, -np.inf]]]), 0.2)))
    assert kept.tolist() == [[[False, True, True, False]]]


def test_draws_are_keyed_by_seed_row_sample_and_position():
    draws = {
        (seed, row, sample, position): float(
            uniforms(lane_keys(jnp.asarray(row_key(seed, row))[None], jnp.full((1, 1), sample)), jnp.full(1, position))[
                0, 0, 0
            ]
        )
        for seed in range(2)
        for row in ("a", "b")
        for sample in range(2)
        for position in range(2)
    }
    assert len(set(draws.values())) == 16
    assert row_key(3, "x").tobytes() == hashlib.sha256(b"3\0x").digest()[:8]


@settings(max_examples=8)
@given(
    kv=st.integers(1, 3),
    group=st.integers(1, 3),
    prompt=st.integers(1, 9),
    columns=st.integers(1, 6),
    lanes=st.integers(1, 4),
    seed=st.integers(0, 5),
)
def test_shared_prefix_attention_is_that_of_whole_sequences(kv, group, prompt, columns, lanes, seed):
    rng = np.random.default_rng(seed)
    make = lambda *shape: rng.standard_normal(shape).astype(np.float32)
    slots, dim = 2, 4
    q, pk, pv = make(slots, lanes, kv * group, dim), make(slots, kv, prompt, dim), make(slots, kv, prompt, dim)
    sk, sv = make(slots, lanes, kv, columns, dim), make(slots, lanes, kv, columns, dim)
    length, own = rng.integers(1, prompt + 1, slots), rng.integers(1, columns + 1, slots)
    in_prompt, in_answer = np.arange(prompt) < length[:, None], np.arange(columns) < own[:, None]
    got = np.asarray(jax.jit(shared_prefix_attention)(q, pk, pv, sk, sv, in_prompt, in_answer))
    for slot, lane in np.ndindex(slots, lanes):
        join = lambda a, b, s=slot, n=lane: np.concatenate([a[s, :, : length[s]], b[s, n, :, : own[s]]], 1)
        k, v = join(pk, sk), join(pv, sv)  # [kv, keys, dim]
        for head in range(kv * group):
            scores = k[head // group] @ q[slot, lane, head] * dim**-0.5
            weights = np.exp(scores - scores.max())
            want = weights / weights.sum() @ v[head // group]
            np.testing.assert_allclose(got[slot, lane, head], want, rtol=1e-4, atol=1e-5)
