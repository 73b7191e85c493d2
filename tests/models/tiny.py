"""Tiny checkpoints of every family, made without torch. Other rooms' tests use them too."""

from pathlib import Path
from typing import Any

import jax

from ilpjax.config import MeshConfig
from ilpjax.models import Model, ModelSpec, Params, init_model, save_model
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


def one_device():
    """A mesh of one device, whatever the number of fake ones."""
    return make_mesh(MeshConfig(data=1), jax.devices()[:1])


def tiny_spec(family: str = "qwen2", vocab: int | None = None, **changes: Any) -> ModelSpec:
    config = FAMILIES[family] | changes
    return ModelSpec.from_config(config | ({"vocab_size": vocab} if vocab else {}))


def tiny_model(family: str = "qwen2", vocab: int | None = None, seed: int = 0, **changes: Any) -> tuple[Model, Params]:
    return init_model(tiny_spec(family, vocab, **changes), jax.random.key(seed), one_device())


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
