"""The token tree against one sequence an option."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_tree import roots

from ilpjax.config import MeshConfig
from ilpjax.data import OptionTokens
from ilpjax.models import param_shapes
from ilpjax.parallel import make_mesh
from ilpjax.scoring import (
    Scorer,
    Shape,
    batch_shapes,
    fill,
    grow,
    option_scores,
    option_scores_reference,
    score_batch,
    stack,
    unstack,
)

SHAPE = Shape(256, 128, 128)


def scores(scorer, trees, shape=SHAPE):
    """Of some trees packed together."""
    rows = [[(n, trees[n]) for n in row] for row in fill([tree.need for tree in trees], shape, pack=True)]
    found = dict(unstack(rows, np.asarray(scorer.submit(scorer.arrays(rows, shape), shape))))
    return [found[n] for n in range(len(trees))]


@pytest.mark.parametrize("family", ["qwen2", "llama", "olmo2"])
def test_packed_trees_equal_one_sequence_an_option(family, mesh, make_model):
    model, params = make_model(model_type=family, tie_word_embeddings=family == "qwen2")
    scorer = Scorer(model, params, mesh, batch=4, dtype=jnp.float32)

    @settings(max_examples=8)
    @given(st.lists(roots(), min_size=1, max_size=4))
    def holds(forests):
        for forest, got in zip(forests, scores(scorer, [grow(forest) for forest in forests]), strict=True):
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
    (got,) = scores(scorer, [tree], Shape(1024, 64, 64))
    np.testing.assert_allclose(got[:3], option_scores_reference(model, params, tokens), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("chunk", [1024, 8])
def test_logits_exist_for_places_only(tiny, monkeypatch, chunk):
    monkeypatch.setattr("ilpjax.scoring.forward.CHUNK", chunk)
    model, params = tiny
    tree = grow([OptionTokens(np.ones(90, np.int32), (np.ones(2, np.int32), np.full(3, 2, np.int32)), (0, 0))])
    batch = stack([[(0, tree)]], 2, Shape(96, 8, 16))
    jaxpr = jax.make_jaxpr(lambda p, b: option_scores(model, p, b, jnp.float32))(params, batch)
    vocab = model.spec.vocab
    wide = [v for v in _shapes(jaxpr.jaxpr) if vocab in v and model.spec.embed not in v]
    assert wide and max(int(np.prod(v)) for v in wide) <= min(2 * 8, chunk) * vocab


def _shapes(jaxpr):
    for equation in jaxpr.eqns:
        yield from (v.aval.shape for v in equation.outvars)
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else [value]:
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from _shapes(inner)


def test_it_is_lowered_from_shapes_alone(tiny):
    model, _ = tiny
    mesh = make_mesh(MeshConfig(data=2, fsdp=4))
    spread = type(model)(model.spec, model.graphdef, mesh)
    shapes = batch_shapes(mesh, 8, Shape(64, 16, 16))
    lowered = score_batch.lower(spread, jnp.dtype("bfloat16"), mesh, "auto", param_shapes(spread), shapes)
    assert lowered.out_info.shape == (8, 16)
