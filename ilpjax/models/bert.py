"""BERT and MPNet: tokens to hidden states, both ways at once. Plain functions on a dict of arrays."""

import json
import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ilpjax.errors import InputError
from ilpjax.models.attention import precision
from ilpjax.models.files import Checkpoint

_BUCKETS, _FAR = 32, 128  # of MPNet's relative positions: how many, and from which distance on they are one
_MASKED = -1e9
_BLOCKS = {
    "bert": {
        "q": "attention.self.query",
        "k": "attention.self.key",
        "v": "attention.self.value",
        "o": "attention.output.dense",
        "attention_norm": "attention.output.LayerNorm",
        "up": "intermediate.dense",
        "down": "output.dense",
        "mlp_norm": "output.LayerNorm",
    },
    "mpnet": {
        "q": "attention.attn.q",
        "k": "attention.attn.k",
        "v": "attention.attn.v",
        "o": "attention.attn.o",
        "attention_norm": "attention.LayerNorm",
        "up": "intermediate.dense",
        "down": "output.dense",
        "mlp_norm": "output.LayerNorm",
    },
}
_exact = lambda x: jax.nn.gelu(x, approximate=False)
_ACTIVATIONS = {
    "gelu": _exact,
    "gelu_python": _exact,
    "gelu_new": jax.nn.gelu,
    "gelu_fast": jax.nn.gelu,
    "gelu_pytorch_tanh": jax.nn.gelu,
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
}


@dataclass(frozen=True)
class BertSpec:
    """One encoder's shape and options, from its config.json. Hashable, so it is static under `jax.jit`."""

    family: str
    vocab: int
    embed: int
    layers: int
    heads: int
    mlp: int
    norm_eps: float
    activation: str
    positions: int  # rows of the position table
    types: int  # rows of BERT's segment table, of which one is used
    pad: int

    @property
    def max_tokens(self) -> int:
        """MPNet counts positions from pad + 1."""
        return self.positions - (self.pad + 1 if self.family == "mpnet" else 0)

    @classmethod
    def from_config(cls, config: dict[str, Any], where: str = "config.json") -> "BertSpec":
        """Raises InputError naming the key and value of whatever is missing, wrong or not supported."""
        config = {key: value for key, value in config.items() if value is not None}

        def number(key: str, default: float | None = None) -> Any:
            value = config.get(key, default)
            if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
                raise InputError(f"{where}: {key}: {json.dumps(value)}; an encoder needs a positive number there")
            return value

        family = config.get("model_type")
        only: dict[str, tuple[Any, list]] = {
            "model_type": (None, list(_BLOCKS)),
            "hidden_act": ("gelu", list(_ACTIVATIONS)),
            "position_embedding_type": ("absolute", ["absolute"]),
            "is_decoder": (False, [False]),
            "add_cross_attention": (False, [False]),
            "relative_attention_num_buckets": (_BUCKETS, [_BUCKETS]),
        }
        for key, (default, supported) in only.items():
            if config.get(key, default) not in supported:
                raise InputError(
                    f"{where}: {key}: {json.dumps(config.get(key))} is not supported in a sentence encoder; "
                    f"supported: {', '.join(map(json.dumps, supported))}"
                )
        embed, heads = number("hidden_size"), number("num_attention_heads")
        if embed % heads:
            raise InputError(f"{where}: hidden_size {embed} must be a multiple of num_attention_heads {heads}")
        return cls(
            family=str(family),
            vocab=number("vocab_size"),
            embed=embed,
            layers=number("num_hidden_layers"),
            heads=heads,
            mlp=number("intermediate_size"),
            norm_eps=number("layer_norm_eps", 1e-12),
            activation=config.get("hidden_act", "gelu"),
            positions=number("max_position_embeddings", 512),
            types=number("type_vocab_size", 2),
            pad=1 if family == "mpnet" else config.get("pad_token_id", 0),  # MPNet's is built in
        )


def hidden_states(
    spec: BertSpec, params: dict[str, Any], tokens: Int[Array, "batch seq"], lengths: Int[Array, " batch"]
) -> Float[Array, "batch seq embed"]:
    """Last hidden states, in the dtype of the weights; what stands behind a text's `lengths` tokens is not seen.

    Every token sees every other (arXiv:1810.04805); MPNet adds a bias for their distance (arXiv:2004.09297).
    """
    seen = jnp.arange(tokens.shape[1]) < lengths[:, None]
    positions = jnp.arange(tokens.shape[1])[None]
    if spec.family == "mpnet":  # a pad token inside a text takes no position
        counted = tokens != spec.pad
        positions = jnp.cumsum(counted, axis=1) * counted + spec.pad
    x = params["word"][tokens] + params["position"][positions]
    bias = jnp.where(seen, 0.0, _MASKED)[:, None, None, :]
    if spec.family == "bert":
        x = x + params["type"][0]
    else:
        near = params["relative"].astype(jnp.float32)[relative_buckets(tokens.shape[1])]
        bias = bias + jnp.transpose(near, (2, 0, 1))[None]
    x = _normalised(x, params["norm"], spec.norm_eps)
    unroll = jax.default_backend() == "cpu"  # which runs what is inside a loop on one core
    body = lambda x, weights: (_layer(spec, weights, x, bias), None)
    return jax.lax.scan(body, x, params["layers"], unroll=unroll)[0]


def relative_buckets(seq: int) -> Int[np.ndarray, "seq seq"]:
    """Bucket of key k seen from query q (arXiv:1910.10683, section 2.1): exact when near, logarithmic up to 128."""
    distance = np.arange(seq)[None, :] - np.arange(seq)[:, None]
    half = _BUCKETS // 2
    exact, n = half // 2, np.abs(distance)
    # In float32, as the checkpoints were trained: 16, 32 and 64 lie on a border.
    ratio = np.log(np.maximum(n, 1).astype(np.float32) / np.float32(exact)) / np.float32(math.log(_FAR / exact))
    far = np.minimum(exact + (ratio * (half - exact)).astype(np.int64), half - 1)
    return (distance > 0) * half + np.where(n < exact, n, far)


def _layer(spec: BertSpec, weights: dict[str, Any], x: Array, bias: Array) -> Array:
    heads = lambda name: linear(weights[name], x).reshape(*x.shape[:2], spec.heads, -1)
    q, k, v = heads("q"), heads("k"), heads("v")
    exact = precision(x.dtype)
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k, precision=exact, preferred_element_type=jnp.float32)
    p = jax.nn.softmax(scores / math.sqrt(q.shape[-1]) + bias, axis=-1).astype(x.dtype)
    mixed = jnp.einsum("bhqk,bkhd->bqhd", p, v, precision=exact).reshape(x.shape)
    x = _normalised(x + linear(weights["o"], mixed), weights["attention_norm"], spec.norm_eps)
    inner = _ACTIVATIONS[spec.activation](linear(weights["up"], x))
    return _normalised(x + linear(weights["down"], inner), weights["mlp_norm"], spec.norm_eps)


def linear(weights: dict[str, Array], x: Float[Array, "... in"]) -> Float[Array, "... out"]:
    y = jnp.einsum("...i,io->...o", x, weights["kernel"], precision=precision(x.dtype))
    return y + weights["bias"] if "bias" in weights else y


def _normalised(x: Array, weights: dict[str, Array], eps: float) -> Array:
    """Layer norm, statistics in float32 (arXiv:1607.06450)."""
    wide = x.astype(jnp.float32)
    wide = wide - jnp.mean(wide, axis=-1, keepdims=True)
    wide = wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + eps)
    return (wide * weights["scale"] + weights["bias"]).astype(x.dtype)


def read_weights(spec: BertSpec, checkpoint: Checkpoint) -> dict[str, Any]:
    """A nested dict of float32 arrays on the host, layers stacked on a leading axis, kernels [in, out].

    Names may begin with `bert.` or `mpnet.`; heads and the pooler are not read. Raises InputError for a tensor that is
    missing or has another shape, and where the checkpoint has more layers than config.json says.
    """
    names = {_plain(name, spec.family): name for name in checkpoint}
    beyond = next((name for name in names if name.startswith(f"encoder.layer.{spec.layers}.")), None)
    if beyond:
        raise InputError(f"{checkpoint.folder}: tensor {names[beyond]} has no place in {spec.layers} layers")

    def read(name: str, *shape: int) -> np.ndarray:
        if name not in names:
            raise InputError(f"{checkpoint.folder}: tensor {name} is missing; config.json asks for it")
        found = checkpoint.shape(names[name])
        if found != shape:
            raise InputError(
                f"{checkpoint.folder}: tensor {names[name]} has shape {found}, config.json makes it {shape}"
            )
        return checkpoint.read(names[name], (slice(None),) * len(shape)).astype(np.float32)

    def stacked(name: str, *shape: int) -> np.ndarray:
        layers = [read(f"encoder.layer.{n}.{name}", *shape) for n in range(spec.layers)]
        return np.stack([layer.T for layer in layers])

    embed, mlp = spec.embed, spec.mlp
    layers: dict[str, Any] = {}
    for ours, theirs in _BLOCKS[spec.family].items():
        if ours.endswith("norm"):
            leaves = {"scale": stacked(f"{theirs}.weight", embed), "bias": stacked(f"{theirs}.bias", embed)}
        else:
            shape = {"up": (mlp, embed), "down": (embed, mlp)}.get(ours, (embed, embed))
            leaves = {"kernel": stacked(f"{theirs}.weight", *shape), "bias": stacked(f"{theirs}.bias", shape[0])}
        layers[ours] = leaves
    norm = "embeddings.LayerNorm"
    params = {
        "word": read("embeddings.word_embeddings.weight", spec.vocab, embed),
        "position": read("embeddings.position_embeddings.weight", spec.positions, embed),
        "norm": {"scale": read(f"{norm}.weight", embed), "bias": read(f"{norm}.bias", embed)},
        "layers": layers,
    }
    if spec.family == "bert":
        params["type"] = read("embeddings.token_type_embeddings.weight", spec.types, embed)
    else:
        params["relative"] = read("encoder.relative_attention_bias.weight", _BUCKETS, spec.heads)
    return params


def _plain(name: str, family: str) -> str:
    """The name without its model's, and as it is spelt since TensorFlow's gamma and beta went."""
    name = name.removeprefix(f"{family}.")
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
