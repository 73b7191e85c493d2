"""A model as two values: a static definition and a nested dict of arrays."""

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from ilpjax.config import AttentionImpl, Dtype
from ilpjax.models.attention import attention
from ilpjax.models.attention_chunked import precision
from ilpjax.models.decoder import Attend, Cache, Decoder
from ilpjax.models.spec import ModelSpec
from ilpjax.parallel import named_sharding

Params = dict[str, Any]


@dataclass(frozen=True)
class Model:
    """The definition of a decoder. Hashable: pass it to `jax.jit` as a static argument, or close over it.

    `params` is a nested dict of arrays, layer weights stacked on a leading axis. Matrices are called `kernel`,
    `embedding` or `head`, everything else `bias` or `scale`.
    """

    spec: ModelSpec
    graphdef: nnx.GraphDef
    mesh: Mesh | None = None

    def hidden(
        self,
        params: Params,
        tokens: Int[Array, "batch seq"],
        positions: Int[Array, "batch seq"],
        subtree_end: Int[Array, "batch seq"],
        *,
        dtype: Any,
        remat: bool = False,
        impl: AttentionImpl = "auto",
        packed: bool = False,
        longest: int | None = None,
    ) -> Float[Array, "batch seq embed"]:
        """Hidden states after the final norm, in `dtype`.

        `positions` are RoPE positions (depth in the token tree); key k is visible to query q exactly when
        k <= q < subtree_end[k]. `remat` recomputes each layer in the backward pass. `impl`, `packed`: see `attention`.
        `longest`: tokens of the longest path, where the caller knows that it is shorter than seq.
        Raises InputError where the platform has no such attention, and where the family would change its own beyond its
        context (Qwen's dynamic NTK).
        """
        self.spec.check_positions(longest or tokens.shape[1])
        mesh = self.mesh
        attend = lambda q, k, v, cache, layer: (
            attention(q, k, v, subtree_end, impl, mesh=mesh, packed=packed),
            cache,
        )
        return self.cached(params, tokens, positions, attend, None, dtype=dtype, remat=remat)[0]

    def cached(
        self,
        params: Params,
        tokens: Int[Array, "batch seq"],
        positions: Int[Array, "batch seq"],
        attend: Attend,
        cache: Cache,
        *,
        dtype: Any,
        remat: bool = False,
    ) -> tuple[Float[Array, "batch seq embed"], Cache]:
        """(hidden states after the final norm, the cache as the last layer's `attend` returned it).

        `attend(q, k, v, cache, layer)` gives one layer's attention and the cache for the next: prefill writes its keys
        and values into the buffers of all layers, a decode step reads and extends them.
        """
        decoder = nnx.merge(self.graphdef, params)
        return decoder(tokens, positions, attend, cache, dtype=jnp.dtype(dtype), remat=remat, mesh=self.mesh)

    def head(self, params: Params) -> Float[Array, "vocab embed"]:
        """The matrix that turns hidden states into logits: the embedding where they are tied."""
        return params["embedding" if self.spec.tied else "head"]

    def logits(
        self,
        params: Params,
        tokens: Int[Array, "batch seq"],
        positions: Int[Array, "batch seq"],
        subtree_end: Int[Array, "batch seq"],
        *,
        dtype: Any = jnp.float32,
        impl: AttentionImpl = "auto",
    ) -> Float[Array, "batch seq vocab"]:
        """All logits, float32: for tests and small models. `weighted_nats` is training's way."""
        x = self.hidden(params, tokens, positions, subtree_end, dtype=dtype, impl=impl)
        head = self.head(params).astype(dtype)
        return jnp.einsum("bsd,vd->bsv", x, head, precision=precision(x.dtype), preferred_element_type=jnp.float32)


def define(spec: ModelSpec, mesh: Mesh | None = None) -> Model:
    """The definition alone; no weight is made."""
    return Model(spec, _abstract(spec)[0], mesh)


def init_model(spec: ModelSpec, key: jax.Array, mesh: Mesh, dtype: Any = jnp.float32) -> tuple[Model, Params]:
    """A model with random weights, each device making its own part: the same weights on any mesh."""
    return define(spec, mesh), _init(key, spec=spec, mesh=mesh, dtype=jnp.dtype(dtype))


@functools.partial(jax.jit, static_argnames=("spec", "mesh", "dtype"))
def _init(key: jax.Array, *, spec: ModelSpec, mesh: Mesh, dtype: Any) -> Params:
    params = nnx.to_pure_dict(nnx.state(Decoder(spec, nnx.Rngs(params=key))))
    shardings = param_shardings(define(spec), mesh)
    return jax.tree.map(lambda x, s: jax.lax.with_sharding_constraint(x.astype(dtype), s), params, shardings)


def param_shapes(model: Model, dtype: Any = jnp.float32) -> Params:
    """A pytree of jax.ShapeDtypeStruct with the structure of params."""
    state = _abstract(model.spec)[1]
    return nnx.to_pure_dict(state.map(lambda _, param: jax.ShapeDtypeStruct(param.shape, dtype)))


def param_axes(model: Model) -> Params:
    """The logical axis names of every array in params, as tuples."""
    return nnx.to_pure_dict(_abstract(model.spec)[1].map(lambda _, param: param.axes))


def param_shardings(model: Model, mesh: Mesh) -> Params:
    """A pytree of NamedSharding with the structure of params."""
    shapes, axes = param_shapes(model), param_axes(model)
    return jax.tree.map(lambda shape, names: named_sharding(mesh, names, shape.shape), shapes, axes)


def compute_dtype(name: Dtype) -> Any:
    """auto: bfloat16, and float32 on a CPU, which has no fast bfloat16."""
    if name == "auto":
        name = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return jnp.dtype(name)


def _abstract(spec: ModelSpec) -> tuple[nnx.GraphDef, nnx.State]:
    return nnx.split(nnx.eval_shape(lambda: Decoder(spec, nnx.Rngs(params=0))))
