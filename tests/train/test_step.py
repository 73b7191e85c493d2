import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small import SEQ, VOCAB, first_batch, model_on, one_device, rows, settings, some_lengths

from ilpjax.config import MeshConfig
from ilpjax.data import pack
from ilpjax.parallel import make_mesh, put_batch
from ilpjax.train import init_state, loss_and_grads, make_optimizer, make_step, state_shardings
from ilpjax.train.step import GREEDY, NLL, P_RIGHT, TOKENS, batch_sums, row_sums


def loss_of(mesh, cfg, batch, **changes):
    model, params = model_on(mesh, **changes)
    found = jax.jit(lambda p, b: loss_and_grads(model, cfg, p, b, mesh))(params, put_batch(mesh, batch))
    return jax.device_get(found)


def stepped(cfg, batch, count=3):
    mesh = one_device()
    model, params = model_on(mesh)
    optimizer = make_optimizer(cfg, count)
    shardings = state_shardings(model, mesh, params, optimizer)
    state = init_state(params, optimizer, shardings)
    step = make_step(model, cfg, count, mesh, shardings)
    for _ in range(count):
        state, metrics = step(state, put_batch(mesh, batch))
    return jax.device_get(state), jax.device_get(metrics)


def close(a, b, rtol=1e-5):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=rtol, atol=rtol * np.abs(y).max())


def test_loss_is_the_mean_over_targets_of_plain_log_softmax():
    mesh = one_device()
    model, params = model_on(mesh)
    batch = first_batch(rows(some_lengths(30)))
    logits = model.logits(params, batch["tokens"], batch["positions"], batch["subtree_end"])
    logprob = np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), batch["targets"][..., None], -1)[..., 0]
    expected = -(logprob * batch["weights"]).sum() / batch["weights"].sum()
    loss, _, weight, _ = loss_of(mesh, settings(), batch)
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    assert float(weight) == batch["weights"].sum()


def test_accumulation_changes_nothing():
    batch = first_batch(rows([*[40] * 7, 4]))
    whole = loss_of(one_device(), settings(), batch)
    close(whole, loss_of(one_device(), settings(micro_batches=4), batch), rtol=1e-5)
    # The last part has a short row, so that a mean of the parts' means would not have passed.
    sums = whole[3].sum(1)
    means = np.mean([sums[n::4, NLL].sum() / sums[n::4, TOKENS].sum() for n in range(4)])
    assert abs(means - whole[0]) > 1e-4 * whole[0]


@pytest.mark.parametrize(("parts", "tied"), [(1, True), (2, False)])
def test_eight_devices_equal_one(parts, tied):
    batch = first_batch(rows(some_lengths(40)))
    cfg = settings(micro_batches=parts)
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    one = loss_of(one_device(), cfg, batch, tie_word_embeddings=tied)
    eight = loss_of(mesh, cfg, batch, tie_word_embeddings=tied)
    close(one, eight)


def test_moments_are_cut_like_their_parameters():
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    model, params = model_on(mesh)
    optimizer = make_optimizer(settings(), 3)
    shardings = state_shardings(model, mesh, params, optimizer)
    state = init_state(params, optimizer, shardings)
    adam = state.opt_state[1][0]
    for moments in (adam.mu, adam.nu):
        same = jax.tree.map(lambda m, p: m.sharding == p.sharding, moments, state.params)
        assert all(jax.tree.leaves(same))
    kernel = state.params["layers"]["mlp"]["up"]["kernel"]
    assert kernel.addressable_shards[0].data.size * 4 == kernel.size


@pytest.fixture(scope="module")
def sums():
    """Row sums of a batch, compiled once."""
    mesh, cfg = one_device(), settings()
    model, params = model_on(mesh, initializer_range=0.3)
    return functools.partial(jax.jit(lambda p, b: batch_sums(model, cfg, p, b)[1][1]), params)


@given(st.lists(st.integers(2, 40), min_size=1, max_size=12), st.integers(0, 2**31))
def test_a_packed_row_has_the_loss_it_has_alone(sums, lengths, seed):
    made = rows(lengths, seed)
    packed = first_batch(made, batch=12)
    packed["rows"] = np.pad(packed["rows"], ((0, 0), (0, 12 - packed["rows"].shape[1])), constant_values=-1)
    one_each = [pack([n] if n < len(made) else [], made, SEQ, 12) for n in range(12)]
    alone = {name: np.stack([one[name] for one in one_each]) for name in packed}
    here = packed["rows"] >= 0
    together = np.asarray(sums(packed))[here][np.argsort(packed["rows"][here])]
    apart = np.asarray(sums(alone))[: len(made), 0]
    np.testing.assert_allclose(together, apart, rtol=2e-5, atol=1e-6)
    assert apart[:, TOKENS].tolist() == [int(example.target_mask.sum()) for example in made]


def test_row_sums_by_hand():
    logprob = jnp.log(jnp.array([[0.5, 0.25, 0.1, 0.8, 0.9]]))
    greedy = jnp.array([[True, False, True, True, True]])
    weights = jnp.array([[1.0, 1.0, 0.0, 1.0, 1.0]])
    slots = jnp.array([[0, 0, 0, -1, 2]])
    got = np.asarray(row_sums(logprob, greedy, weights, slots, 3))[0]
    np.testing.assert_allclose(got[0], [-np.log(0.5) - np.log(0.25), 0.75, 1, 2], rtol=1e-6)
    np.testing.assert_allclose(got[1], 0)
    np.testing.assert_allclose(got[2], [-np.log(0.9), 0.9, 1, 1], rtol=1e-6)
    assert (NLL, P_RIGHT, GREEDY, TOKENS) == (0, 1, 2, 3)


def test_without_dynamics_the_same_training():
    batch = first_batch(rows(some_lengths(30)))
    with_rows, told = stepped(settings(), batch)
    without, silent = stepped(settings(dynamics=False), batch)
    assert silent.row_sums is None and told.row_sums is not None
    assert float(told.loss) == pytest.approx(float(silent.loss), rel=1e-6)
    close(with_rows.params, without.params, rtol=1e-6)


@pytest.mark.slow
def test_remat_and_bfloat16():
    batch = first_batch(rows(some_lengths(30)))
    plain = loss_of(one_device(), settings(), batch)
    close(plain, loss_of(one_device(), settings(remat=True), batch))
    half = loss_of(one_device(), settings(dtype="bfloat16"), batch)
    assert float(half[0]) == pytest.approx(float(plain[0]), rel=1e-2)
    assert float(half[0]) != float(plain[0])
    state, _ = stepped(settings(dtype="bfloat16"), batch)
    assert {leaf.dtype for leaf in jax.tree.leaves((state.params, state.opt_state[1][0].mu))} == {np.dtype("float32")}


def test_an_empty_part_adds_nothing():
    batch = first_batch(rows([40, 40]), batch=4)
    assert (batch["weights"].sum(1) == 0).sum() == 2
    loss, grads, weight, _ = loss_of(one_device(), settings(batch=4, micro_batches=4), batch)
    assert weight == batch["weights"].sum() and 0 < float(loss) < 2 * np.log(VOCAB)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
