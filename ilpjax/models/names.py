"""Hugging Face names <-> ours. A weight in `nn.Linear` is [out, in]; our kernels are [in, out], heads apart."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax

from ilpjax.models.model import Model, param_axes, param_shapes
from ilpjax.models.spec import ModelSpec

_BLOCK = "model.layers.{}."
_LLAMA = {
    "embedding": "model.embed_tokens",
    "norm": "model.norm",
    "head": "lm_head",
    "layers.attention.q": _BLOCK + "self_attn.q_proj",
    "layers.attention.k": _BLOCK + "self_attn.k_proj",
    "layers.attention.v": _BLOCK + "self_attn.v_proj",
    "layers.attention.o": _BLOCK + "self_attn.o_proj",
    "layers.attention.q_norm": _BLOCK + "self_attn.q_norm",
    "layers.attention.k_norm": _BLOCK + "self_attn.k_norm",
    "layers.mlp.gate": _BLOCK + "mlp.gate_proj",
    "layers.mlp.up": _BLOCK + "mlp.up_proj",
    "layers.mlp.down": _BLOCK + "mlp.down_proj",
    "layers.attention_norm": _BLOCK + "input_layernorm",
    "layers.mlp_norm": _BLOCK + "post_attention_layernorm",
}
_OLMO2 = _LLAMA | {
    "layers.attention_norm": _BLOCK + "post_attention_layernorm",
    "layers.mlp_norm": _BLOCK + "post_feedforward_layernorm",
}
_QWEN = {
    "embedding": "transformer.wte",
    "norm": "transformer.ln_f",
    "head": "lm_head",
    "layers.attention.q": "transformer.h.{}.attn.c_attn",  # rows: q, then k, then v
    "layers.attention.k": "transformer.h.{}.attn.c_attn",
    "layers.attention.v": "transformer.h.{}.attn.c_attn",
    "layers.attention.o": "transformer.h.{}.attn.c_proj",
    "layers.mlp.gate": "transformer.h.{}.mlp.w2",
    "layers.mlp.up": "transformer.h.{}.mlp.w1",
    "layers.mlp.down": "transformer.h.{}.mlp.c_proj",
    "layers.attention_norm": "transformer.h.{}.ln_1",
    "layers.mlp_norm": "transformer.h.{}.ln_2",
}


@dataclass(frozen=True)
class Weight:
    """One of our arrays and where it lies in a checkpoint."""

    path: tuple[str, ...]
    shape: tuple[int, ...]  # of one layer
    axes: tuple[str, ...]  # of one layer
    stacked: bool
    template: str  # name in the checkpoint; {} is the layer
    part: int  # which of `parts` equal blocks of rows of that tensor
    parts: int

    @property
    def transposed(self) -> bool:
        return self.path[-1] == "kernel"

    @property
    def hf_axes(self) -> tuple[str, ...]:
        """In the checkpoint head_dim is folded into the axis before it, and a kernel is transposed."""
        kept = [name for n, name in enumerate(self.axes) if not (n and name == "head_dim")]
        return tuple(reversed(kept)) if self.transposed else tuple(kept)

    @property
    def hf_shape(self) -> tuple[int, ...]:
        """Shape in the checkpoint (of this part)."""
        sizes: list[int] = []
        for name, size in zip(self.axes, self.shape, strict=True):
            if sizes and name == "head_dim":
                sizes[-1] *= size
            else:
                sizes.append(size)
        return tuple(reversed(sizes)) if self.transposed else tuple(sizes)

    def to_ours(self, x: jax.Array) -> jax.Array:
        return (x.T if self.transposed else x).reshape(self.shape)

    def to_hf(self, x: jax.Array) -> jax.Array:
        return x.reshape(self.hf_shape[::-1]).T if self.transposed else x.reshape(self.hf_shape)


def weights(model: Model) -> list[Weight]:
    """Every array of the model, in the order of its params."""
    spec = model.spec
    table = {"qwen": _QWEN, "olmo2": _OLMO2}.get(spec.family, _LLAMA)
    axes = dict(_leaves(param_axes(model)))
    found = []
    for path, shape in _leaves(param_shapes(model)):
        stacked = path[0] == "layers"
        module = ".".join(path if len(path) == 1 else path[:-1])
        leaf = ".bias" if path[-1] == "bias" else ".weight"
        part, parts = _part(spec, path)
        found.append(
            Weight(path, shape.shape[stacked:], axes[path][stacked:], stacked, table[module] + leaf, part, parts)
        )
    return found


def _part(spec: ModelSpec, path: Sequence[str]) -> tuple[int, int]:
    fused = spec.family == "qwen" and len(path) > 2 and path[-2] in ("q", "k", "v")
    return ("qkv".index(path[-2]), 3) if fused else (0, 1)


def _leaves(tree: dict, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, (*path, key))
        else:
            yield (*path, key), value
