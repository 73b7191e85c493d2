"""Tiny checkpoints of every family, made without torch. Other rooms' tests use them too."""

import zlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ilpjax.config import MeshConfig
from ilpjax.models import Model, ModelSpec, Params, define, init_model, param_shapes, save_model
from ilpjax.parallel import make_mesh

_SMALL: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "rms_norm_eps": 1e-5,
    "initializer_range": 0.2,  # logits of a tiny model stay informative
}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": _SMALL | {"model_type": "llama", "rope_theta": 10000.0},
    "qwen2": _SMALL | {"model_type": "qwen2", "rope_theta": 1e6, "tie_word_embeddings": True},
    "qwen3": _SMALL | {"model_type": "qwen3", "rope_theta": 1e6, "head_dim": 20, "tie_word_embeddings": True},
    "olmo2": _SMALL | {"model_type": "olmo2", "rope_theta": 5e5},
    "qwen": {
        "model_type": "qwen",
        "vocab_size": 320,
        "hidden_size": 48,
        "intermediate_size": 160,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "kv_channels": 12,
        "seq_length": 1024,
        "max_position_embeddings": 1024,
        "layer_norm_epsilon": 1e-6,
        "rotary_emb_base": 10000,
        "no_bias": True,
        "use_dynamic_ntk": True,
        "use_logn_attn": True,
        "initializer_range": 0.2,
        "tie_word_embeddings": False,
    },
}
# Odd shapes and options of every family; each is compared with transformers, and has a golden file.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama2": ("llama", {"num_key_value_heads": 4}),
    "llama3_scaled_tied": (
        "llama",
        {
            "tie_word_embeddings": True,
            "rope_theta": 500000.0,
            "rope_scaling": {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,  # so that 512 tokens see all three bands
            },
        },
    ),
    "llama_bias_linear": (
        "llama",
        {
            "attention_bias": True,
            "mlp_bias": True,
            "head_dim": 16,
            "rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0},
        },
    ),
    "qwen2_7to1": ("qwen2", {"hidden_size": 56, "num_attention_heads": 7, "num_key_value_heads": 1}),
    "qwen2_untied": ("qwen2", {"tie_word_embeddings": False, "use_sliding_window": False, "sliding_window": 64}),
    "qwen3": ("qwen3", {}),
    "qwen3_bias_untied": ("qwen3", {"attention_bias": True, "tie_word_embeddings": False}),
    "olmo2": ("olmo2", {}),
    "olmo2_bias_tied": ("olmo2", {"attention_bias": True, "tie_word_embeddings": True, "num_key_value_heads": 1}),
    "qwen": ("qwen", {}),
}


def one_device():
    """A mesh of one device, whatever the number of fake ones."""
    return make_mesh(MeshConfig(data=1), jax.devices()[:1])


def tiny_spec(family: str = "qwen2", vocab: int | None = None, **changes: Any) -> ModelSpec:
    config = FAMILIES[family] | changes
    return ModelSpec.from_config(config | ({"vocab_size": vocab} if vocab else {}))


def tiny_model(family: str = "qwen2", vocab: int | None = None, seed: int = 0, **changes: Any) -> tuple[Model, Params]:
    return init_model(tiny_spec(family, vocab, **changes), jax.random.key(seed), one_device())


def case_spec(case: str) -> ModelSpec:
    family, changes = CASES[case]
    return tiny_spec(family, **changes)


def numpy_params(model: Model, seed: int = 0) -> Params:
    """Weights that any version of numpy makes from the seed; biases and norms are not left at 0 and 1."""

    def make(path: Any, like: jax.ShapeDtypeStruct) -> jax.Array:
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        random = np.random.Generator(np.random.PCG64([seed, zlib.crc32(name.encode())]))
        values = random.standard_normal(like.shape, dtype=np.float64) * 0.2
        return jnp.asarray(values + name.endswith("scale"), jnp.float32)

    return jax.tree_util.tree_map_with_path(make, param_shapes(model))


def case_model(case: str) -> tuple[Model, Params]:
    model = define(case_spec(case), one_device())
    return model, numpy_params(model)


def prompt(length: int = 512, vocab: int = 320, seed: int = 1) -> np.ndarray:
    """int32[1, length], random."""
    return np.random.Generator(np.random.PCG64(seed)).integers(0, vocab, (1, length)).astype(np.int32)


def plain_logits(model: Model, params: Params, tokens: np.ndarray) -> np.ndarray:
    """float32[batch, seq, vocab] of ordinary sequences."""
    positions = np.broadcast_to(np.arange(tokens.shape[1], dtype=np.int32), tokens.shape)
    ends = np.full_like(tokens, tokens.shape[1])
    return np.asarray(jax.jit(model.logits)(params, tokens, positions, ends))


def tiny_checkpoint(
    path: Path | str,
    family: str = "qwen2",
    vocab: int | None = None,
    *,
    tokenizer: Any = None,
    seed: int = 0,
    **changes: Any,
) -> Path:
    """Writes a checkpoint folder with random weights and returns its path. `changes` are keys of config.json."""
    model, params = tiny_model(family, vocab, seed, **changes)
    save_model(path, model, params, tokenizer=tokenizer)
    return Path(path)
