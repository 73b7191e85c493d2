"""The token tree against one sequence an option."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from test_tree import roots

from ilpjax.data import OptionTokens
from ilpjax.scoring import Scorer, grow, option_scores, option_scores_reference, stack
from ilpjax.scoring.forward import _in_groups


@pytest.mark.parametrize("family", ["qwen2", "llama", "olmo2"])
def test_tree_equals_one_sequence_an_option(family, mesh, make_model):
    model, params = make_model(model_type=family, tie_word_embeddings=family == "qwen2")
    scorer = Scorer(model, params, mesh, batch=2, dtype=jnp.float32)

    @settings(max_examples=8)
    @given(roots())
    def holds(forest):
        tree = grow(forest)
        (got,) = scorer.collect([tree], scorer.submit([tree]))
        want = np.concatenate([option_scores_reference(model, params, root) for root in forest])
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)

    holds()


def test_a_long_prompt(tiny, mesh):
    """RoPE faults do not show on short ones."""
    rng = np.random.default_rng(1)
    draw = lambda n: rng.integers(1, 400, n).astype(np.int32)
    tokens = OptionTokens(draw(500), (draw(12), draw(1), draw(7)), (0, 0, 0))
    model, params = tiny
    scorer = Scorer(model, params, mesh, batch=1, dtype=jnp.float32)
    tree = grow([tokens, OptionTokens(draw(40), tokens.options, tokens.prompt_tail)])
    (got,) = scorer.collect([tree], scorer.submit([tree]))
    np.testing.assert_allclose(got[:3], option_scores_reference(model, params, tokens), rtol=1e-5, atol=1e-5)


def test_logits_exist_for_targets_only(tiny):
    model, params = tiny
    shared = np.ones(90, np.int32)
    tree = grow([OptionTokens(shared, (np.ones(2, np.int32), np.ones(3, np.int32)), (0, 0))])
    batch = stack([tree], 2, tree.shape)
    jaxpr = jax.make_jaxpr(lambda p, b: option_scores(model, p, b, jnp.float32))(params, batch)
    vocab, targets = model.spec.vocab, tree.shape[1]
    wide = [v for v in _shapes(jaxpr.jaxpr) if vocab in v and model.spec.embed not in v]
    assert wide and max(int(np.prod(v)) for v in wide) <= 2 * targets * vocab < 2 * tree.shape[0] * vocab


def _shapes(jaxpr):
    for equation in jaxpr.eqns:
        yield from (v.aval.shape for v in equation.outvars)
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else [value]:
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from _shapes(inner)


def test_one_compilation_a_shape_whatever_the_weights(tiny, make_model, mesh):
    model, params = tiny
    _in_groups.clear_cache()
    scorer = Scorer(model, params, mesh, batch=2, dtype=jnp.float32)
    rng = np.random.default_rng(2)
    sizes = [*range(1, 60), *range(1, 60)]
    trees = [
        grow([OptionTokens(rng.integers(1, 400, n).astype(np.int32), (np.ones(2, np.int32),), (0,))]) for n in sizes
    ]
    scorer.collect(trees, scorer.submit(trees))
    again = Scorer(*make_model(), mesh, batch=2, dtype=jnp.float32)
    again.collect(trees, again.submit(trees))
    assert scorer.shapes == again.shapes == {(32, 16), (48, 16), (64, 16)}
    assert _in_groups._cache_size() == 3
