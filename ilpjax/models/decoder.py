"""One decoder for Qwen, LLaMA and OLMo2: a definition in flax.nnx, split once, then plain arrays under `jax.jit`.

Every weight names its axes; `ilpjax.parallel.RULES` says which mesh axis each goes over. Layer weights are stacked on
a leading axis and scanned.
"""

import functools
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from ilpjax.models.attention import precision
from ilpjax.models.spec import ModelSpec
from ilpjax.parallel import constrain

_HIDDEN = ("batch", "seq", None)
Cache = Any  # a tree of arrays that goes from layer to layer: keys and values of all layers, or None


class Attend(Protocol):
    """How queries meet keys: `attention` on the token tree, or the sampler's cached kind."""

    def __call__(
        self,
        q: Float[Array, "batch seq heads dim"],
        k: Float[Array, "batch seq kv dim"],
        v: Float[Array, "batch seq kv dim"],
        cache: Cache,
        layer: Int[Array, ""],
    ) -> tuple[Float[Array, "batch seq heads dim"], Cache]: ...


def _normal(rngs: nnx.Rngs, std: float, **axes: int) -> nnx.Param:
    return nnx.Param(std * jax.random.normal(rngs.params(), tuple(axes.values())), axes=tuple(axes))


class Linear(nnx.Module):
    """Contracts `x` with a kernel whose `inputs` leading axes are the input; the bias has the others.

    Axes are given by name and size, stacked over layers: Linear(1, rngs, embed=512, heads=8, head_dim=64).
    """

    def __init__(self, inputs: int, rngs: nnx.Rngs, *, spec: ModelSpec, bias: bool, **axes: int):
        self.inputs = inputs
        self.kernel = _normal(rngs, spec.init_std, layers=spec.layers, **axes)
        out = {"layers": spec.layers} | dict(list(axes.items())[inputs:])
        # An output of model width is whole on every device, and so is its bias.
        names = tuple("norm" if name == "embed" else name for name in out)
        self.bias = nnx.Param(jnp.zeros(tuple(out.values())), axes=names) if bias else None

    def __call__(self, x: Array) -> Array:
        kernel = self.kernel[...].astype(x.dtype)
        tokens = x.shape[: x.ndim - self.inputs]
        # One axis of tokens: with two, XLA's CPU backend transposes the activations for the kernel's gradient, which
        # costs a third of the step.
        flat = x.reshape(-1, *x.shape[x.ndim - self.inputs :])
        y = jnp.tensordot(flat, kernel, axes=self.inputs, precision=precision(x.dtype))
        y = y.reshape(*tokens, *y.shape[1:])
        return y if self.bias is None else y + self.bias[...].astype(x.dtype)


Norm = Callable[[Array], Array]
# The backward pass keeps the arguments of these and computes the rest anew: reading is what they cost. Where a linear
# map ends it, only its input is: its output is in nobody's gradient.
_cheap = functools.partial(jax.checkpoint, prevent_cse=False)


def _behind(norm: Norm, *maps: Linear) -> Callable[[Array], tuple[Array, ...]]:
    """Linear maps of one normalised input, which is not kept."""

    def apply(x: Array) -> tuple[Array, ...]:
        x = norm(x)
        return tuple(linear(x) for linear in maps)

    return _cheap(apply)


class RMSNorm(nnx.Module):
    """Over the axes of its scale, statistics in float32 (arXiv:1910.07467)."""

    def __init__(self, eps: float, **axes: int):
        self.eps = eps
        self.scale = nnx.Param(jnp.ones(tuple(axes.values())), axes=tuple(axes))

    def __call__(self, x: Array) -> Array:
        return _normalised(x, self.scale[...].astype(jnp.float32), self.eps)


@functools.partial(_cheap, static_argnums=2)
def _normalised(x: Array, scale: Array, eps: float) -> Array:
    wide = x.astype(jnp.float32)
    over = tuple(range(-scale.ndim, 0))
    wide = wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=over, keepdims=True) + eps)
    return (wide * scale).astype(x.dtype)


@_cheap
def rotate(
    x: Float[Array, "batch seq heads dim"], cos: Float[Array, "batch seq half"], sin: Float[Array, "batch seq half"]
) -> Float[Array, "batch seq heads dim"]:
    """Rotary embedding (arXiv:2104.09864), first half against second half, in float32."""
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    cos, sin = cos[:, :, None], sin[:, :, None]
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], -1).astype(x.dtype)


class Attention(nnx.Module):
    def __init__(self, spec: ModelSpec, rngs: nnx.Rngs):
        self.spec = spec
        dim = spec.head_dim
        self.q = Linear(1, rngs, spec=spec, bias=spec.qkv_bias, embed=spec.embed, heads=spec.heads, head_dim=dim)
        self.k = Linear(1, rngs, spec=spec, bias=spec.qkv_bias, embed=spec.embed, kv=spec.kv_heads, head_dim=dim)
        self.v = Linear(1, rngs, spec=spec, bias=spec.qkv_bias, embed=spec.embed, kv=spec.kv_heads, head_dim=dim)
        self.o = Linear(2, rngs, spec=spec, bias=spec.out_bias, heads=spec.heads, head_dim=dim, embed=spec.embed)
        self.q_norm = _qk_norm(spec, heads=spec.heads)
        self.k_norm = _qk_norm(spec, kv=spec.kv_heads)

    def __call__(
        self, x: Array, norm: Norm, cos: Array, sin: Array, attend: Attend, cache: Cache, layer: Array
    ) -> tuple[Array, Cache]:
        q, k, v = _behind(norm, self.q, self.k, self.v)(x)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        out, cache = attend(rotate(q, cos, sin), rotate(k, cos, sin), v, cache, layer)
        return self.o(out), cache


def _qk_norm(spec: ModelSpec, **heads: int) -> RMSNorm | None:
    if spec.qk_norm == "none":
        return None
    over = {} if spec.qk_norm == "head" else heads
    return RMSNorm(spec.norm_eps, layers=spec.layers, **over, head_dim=spec.head_dim)


class MLP(nnx.Module):
    """down(silu(gate(x)) * up(x)) (arXiv:2002.05202)."""

    def __init__(self, spec: ModelSpec, rngs: nnx.Rngs):
        self.gate = Linear(1, rngs, spec=spec, bias=spec.mlp_bias, embed=spec.embed, mlp=spec.mlp)
        self.up = Linear(1, rngs, spec=spec, bias=spec.mlp_bias, embed=spec.embed, mlp=spec.mlp)
        self.down = Linear(1, rngs, spec=spec, bias=spec.mlp_bias, mlp=spec.mlp, embed=spec.embed)

    def __call__(self, x: Array, norm: Norm) -> Array:
        gate, up = _behind(norm, self.gate, self.up)(x)
        return _cheap(lambda gate, up: self.down(jax.nn.silu(gate) * up))(gate, up)


class Layer(nnx.Module):
    """All layers' weights, stacked; merged with one layer's slice it is that layer."""

    def __init__(self, spec: ModelSpec, rngs: nnx.Rngs):
        self.post_norm = spec.post_norm
        self.attention, self.mlp = Attention(spec, rngs), MLP(spec, rngs)
        self.attention_norm = RMSNorm(spec.norm_eps, layers=spec.layers, norm=spec.embed)
        self.mlp_norm = RMSNorm(spec.norm_eps, layers=spec.layers, norm=spec.embed)

    def __call__(
        self, x: Array, cos: Array, sin: Array, attend: Attend, cache: Cache, layer: Array
    ) -> tuple[Array, Cache]:
        norms, nothing = (self.attention_norm, self.mlp_norm), (lambda x: x,) * 2
        before, after = (nothing, norms) if self.post_norm else (norms, nothing)
        attended, cache = self.attention(x, before[0], cos, sin, attend, cache, layer)
        x = x + after[0](attended)
        return x + after[1](self.mlp(x, before[1])), cache


class Decoder(nnx.Module):
    """Tokens to hidden states after the final norm; `head` turns those into logits."""

    def __init__(self, spec: ModelSpec, rngs: nnx.Rngs):
        self.spec = spec
        self.embedding = _normal(rngs, spec.init_std, vocab=spec.vocab, embed=spec.embed)
        self.layers = Layer(spec, rngs)
        self.norm = RMSNorm(spec.norm_eps, norm=spec.embed)
        self.head = None if spec.tied else _normal(rngs, spec.init_std, vocab=spec.vocab, embed=spec.embed)

    def __call__(
        self,
        tokens: Int[Array, "batch seq"],
        positions: Int[Array, "batch seq"],
        attend: Attend,
        cache: Cache,
        *,
        dtype: jnp.dtype,
        remat: bool,
        mesh: Mesh | None,
    ) -> tuple[Float[Array, "batch seq embed"], Cache]:
        angle = positions[..., None].astype(jnp.float32) * self.spec.rope.inv_freq(self.spec.head_dim)
        cos, sin = jnp.cos(angle), jnp.sin(angle)
        # Looked up where the table's columns are, then sent to where the sequences are; so goes the gradient back.
        x = constrain(self.embedding[...][tokens].astype(dtype), mesh, ("replicas", "seq", "embed"))
        x = constrain(x, mesh, _HIDDEN)
        definition, stacked = nnx.split(self.layers)

        def body(carry: tuple[Array, Cache], weights: tuple[nnx.State, Array]) -> tuple[tuple[Array, Cache], None]:
            x, cache = carry
            x, cache = nnx.merge(definition, weights[0])(x, cos, sin, attend, cache, weights[1])
            return (constrain(x, mesh, _HIDDEN), cache), None

        # The cache is carried, not scanned over: a carry is updated in place, a scanned output is copied every step.
        layers = stacked, jnp.arange(self.spec.layers)
        (x, cache), _ = jax.lax.scan(jax.checkpoint(body) if remat else body, (x, cache), layers)
        return self.norm(x), cache
