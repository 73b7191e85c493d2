import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import model_on, one_device, settings

from ilpjax.train import decay_mask, make_optimizer, schedule


def test_schedule_warms_up_and_falls_to_final_lr():
    rate = schedule(settings(lr=1.0, warmup=0.1, final_lr=0.2), steps=100)
    got = [float(rate(jnp.asarray(n))) for n in range(100)]
    assert got[:10] == pytest.approx([(n + 1) / 10 for n in range(10)])
    assert got[10] == pytest.approx(1.0)
    assert got[99] == pytest.approx(0.2)
    expected = 0.2 + 0.8 * 0.5 * (1 + np.cos(np.pi * (50 - 10) / 89))
    assert got[50] == pytest.approx(expected, rel=1e-6)
    assert np.all(np.diff(got[10:]) < 0)


@pytest.mark.parametrize(("warmup", "steps"), [(0.0, 1), (0.0, 2), (0.5, 1), (0.03, 5), (0.99, 3)])
def test_schedule_of_a_short_run_is_never_zero_or_above_the_peak(warmup, steps):
    rate = schedule(settings(lr=1.0, warmup=warmup, final_lr=0.1), steps)
    got = np.array([float(rate(jnp.asarray(n))) for n in range(steps)])
    assert np.all((got > 0) & (got <= 1 + 1e-6))


@pytest.mark.parametrize("changes", [{"model_type": "olmo2"}, {"model_type": "qwen3"}, {"attention_bias": True}])
def test_decay_is_for_matrices_only(changes):
    if changes == {"attention_bias": True}:
        changes = {"model_type": "llama", "attention_bias": True, "mlp_bias": True}
    _, params = model_on(one_device(), **changes)
    mask = decay_mask(params)
    leaves = jax.tree_util.tree_leaves_with_path(mask)
    vectors = {jax.tree_util.keystr(path) for path, decays in leaves if not decays}
    assert {name for name in vectors if "norm" not in name and "bias" not in name} == set()
    decayed = [jax.tree_util.keystr(path) for path, decays in leaves if decays]
    assert not [name for name in decayed if "norm" in name or "bias" in name]
    assert len(decayed) >= 8 and len(vectors) >= 3  # q k v o gate up down embedding; the norms


def test_decay_moves_matrices_and_leaves_stacked_norms():
    _, params = model_on(one_device())
    optimizer = make_optimizer(settings(lr=0.1, weight_decay=0.5, warmup=0.0), steps=10)
    zero = jax.tree.map(jnp.zeros_like, params)
    updates, _ = jax.jit(lambda grads: optimizer.update(grads, optimizer.init(params), params))(zero)
    assert float(jnp.abs(updates["layers"]["mlp_norm"]["scale"]).max()) == 0
    assert params["layers"]["mlp_norm"]["scale"].ndim == 2  # why the rank cannot tell
    np.testing.assert_allclose(updates["embedding"], -0.1 * 0.5 * params["embedding"], rtol=1e-6)


def test_clips_by_the_global_norm():
    _, params = model_on(one_device())
    first = make_optimizer(settings(clip=1.0), steps=10)
    big = jax.tree.map(lambda p: jnp.full_like(p, 7.0), params)
    norm = np.sqrt(sum(np.sum(np.square(x)) for x in jax.tree.leaves(big)))
    update = jax.jit(lambda grads: first.update(grads, first.init(params), params))
    _, after_big = update(big)
    _, after_unit = update(jax.tree.map(lambda g: g / norm, big))
    for a, b in zip(jax.tree.leaves(after_big), jax.tree.leaves(after_unit), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)
