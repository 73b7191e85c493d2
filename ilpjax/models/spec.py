"""What a model is, read from its own config.json."""

import json
import math
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np

from ilpjax.errors import InputError

FAMILIES = {
    "qwen": "QWenLMHeadModel",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "llama": "LlamaForCausalLM",
    "olmo2": "Olmo2ForCausalLM",
}
# config.json of the first Qwen has names of its own; here they become the later ones.
_QWEN_KEYS = {
    "layer_norm_epsilon": "rms_norm_eps",
    "rotary_emb_base": "rope_theta",
    "kv_channels": "head_dim",
    "rotary_pct": "partial_rotary_factor",
}
# Key -> the values that are implemented, and how to say so.
_ONLY: dict[str, tuple[tuple[Any, ...], str]] = {
    "quantization_config": (({},), "none; use the unquantised checkpoint"),
    "hidden_act": (("silu", "swish"), "silu"),
    "attention_dropout": ((0,), "0.0"),
    "attn_dropout_prob": ((0,), "0.0"),
    "emb_dropout_prob": ((0,), "0.0"),
    "partial_rotary_factor": ((1,), "1.0"),
    "scale_attn_weights": ((True,), "true"),
}


@dataclass(frozen=True)
class Rope:
    """Rotary embedding: `kind` is default, linear (arXiv:2306.15595) or llama3."""

    theta: float = 10000.0
    kind: str = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_length: int = 8192

    def inv_freq(self, head_dim: int) -> np.ndarray:
        """float32[head_dim / 2], radians a position. In float32 throughout, as the checkpoints were trained."""
        exponent = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
        freq = np.float32(1.0) / np.power(np.float32(self.theta), exponent)
        if self.kind == "linear":
            return freq / np.float32(self.factor)
        if self.kind == "llama3":
            turns = self.original_length * freq / np.float32(2 * math.pi)
            span = self.high_freq_factor - self.low_freq_factor
            smooth = np.clip((turns - self.low_freq_factor) / span, 0.0, 1.0)
            freq = (1 - smooth) * freq / self.factor + smooth * freq
        return freq.astype(np.float32)


@dataclass(frozen=True)
class ModelSpec:
    """One decoder's shape and options. Made by `from_config`; hashable, so it is static under `jax.jit`."""

    family: str
    vocab: int
    embed: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp: int
    norm_eps: float
    init_std: float
    tied: bool
    qkv_bias: bool
    out_bias: bool
    mlp_bias: bool
    qk_norm: str  # "none", "head" (each head by itself: Qwen3) or "width" (all heads together: OLMo2)
    post_norm: bool  # norm after attention and MLP instead of before (OLMo2)
    max_positions: int
    strict_positions: bool  # beyond max_positions the family changes its attention in ways not supported here
    rope: Rope
    config: str = field(compare=False, repr=False)  # config.json as it came, so that writing back loses nothing

    @classmethod
    def from_config(cls, config: dict[str, Any], where: str = "config.json") -> "ModelSpec":
        """Reads config.json, in the spelling of transformers 4 or 5.

        Raises InputError naming the key and value of whatever is missing, wrong or not supported.
        """
        return _Reader(config, where).spec()

    def to_config(self) -> dict[str, Any]:
        """config.json for `transformers`: as it came, with what it left to defaults written out."""
        config = json.loads(self.config)
        config.setdefault("architectures", [FAMILIES[self.family]])
        if self.family == "qwen":
            return config
        defaults = {
            "num_key_value_heads": self.kv_heads,
            "hidden_act": "silu",
            "max_position_embeddings": self.max_positions,
            "initializer_range": self.init_std,
            "rms_norm_eps": self.norm_eps,
            "tie_word_embeddings": self.tied,
        }
        if self.head_dim != self.embed // self.heads or self.family == "qwen3":
            defaults["head_dim"] = self.head_dim
        if "rope_parameters" not in config:
            defaults["rope_theta"] = self.rope.theta
        return defaults | {key: value for key, value in config.items() if value is not None or key not in defaults}

    @property
    def num_params(self) -> int:
        """Weights and biases; a tied head counts once."""
        heads, kv, dim = self.heads * self.head_dim, self.kv_heads * self.head_dim, self.embed
        layer = self._layer_matmul + 2 * dim
        layer += (heads + 2 * kv) * self.qkv_bias + dim * self.out_bias + (2 * self.mlp + dim) * self.mlp_bias
        layer += {"none": 0, "head": 2 * self.head_dim, "width": heads + kv}[self.qk_norm]
        return self.layers * layer + dim + self.vocab * dim * (1 if self.tied else 2)

    def flops_per_token(self, seq_len: int) -> float:
        """Forward and backward FLOPs a token: 6 a matmul weight, and causal attention over seq_len / 2 keys."""
        matmul = self.layers * self._layer_matmul + self.vocab * self.embed
        return 6.0 * matmul + 6.0 * self.layers * self.heads * self.head_dim * seq_len

    @property
    def _layer_matmul(self) -> int:
        attention = 2 * self.embed * self.head_dim * (self.heads + self.kv_heads)
        return attention + 3 * self.embed * self.mlp

    def check_positions(self, longest: int) -> None:
        """Raises InputError when a sequence of `longest` tokens needs what the family does only beyond its context."""
        if self.strict_positions and longest > self.max_positions:
            raise InputError(
                f"config.json: seq_length: {longest} tokens, but use_dynamic_ntk and use_logn_attn act beyond "
                f"{self.max_positions} and are not supported; use at most {self.max_positions} tokens"
            )


class _Reader:
    def __init__(self, config: dict[str, Any], where: str):
        self.where, self.source = where, config
        self.family = str(config.get("model_type"))
        if self.family not in FAMILIES:
            self.refuse("model_type", config.get("model_type"), f"supported: {', '.join(FAMILIES)}")
        # Explicit nulls mean the default.
        self.config = {key: value for key, value in config.items() if value is not None}
        if self.family == "qwen":
            self.config = {_QWEN_KEYS.get(key, key): value for key, value in self.config.items()}

    def refuse(self, key: str, value: Any, supported: str) -> NoReturn:
        raise InputError(f"{self.where}: {key}: {json.dumps(value, default=str)} is not supported; {supported}")

    def number(self, key: str, default: float | None = None, whole: bool = True) -> Any:
        value = self.config.get(key, default)
        if value is None:
            raise InputError(f"{self.where}: {key}: missing; a {self.family} config needs it")
        kinds = int if whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds) or value <= 0:
            raise InputError(f"{self.where}: {key}: {value!r}, expected a positive {'integer' if whole else 'number'}")
        return value

    def spec(self) -> ModelSpec:
        self.check()
        qwen, bias = self.family == "qwen", bool(self.config.get("attention_bias", False))
        embed, heads, mlp = (self.number(k) for k in ("hidden_size", "num_attention_heads", "intermediate_size"))
        kv_heads = heads if qwen else self.number("num_key_value_heads", heads)
        # Qwen3's default head_dim does not follow from its width.
        head_dim = self.number("head_dim", 128 if self.family == "qwen3" else embed // heads)
        if head_dim % 2 or heads % kv_heads:
            raise InputError(
                f"{self.where}: head_dim {head_dim} must be even, and num_attention_heads {heads} a multiple of "
                f"num_key_value_heads {kv_heads}"
            )
        positions = self.number("max_position_embeddings", 8192 if qwen else 2048)
        strict = qwen and bool(self.config.get("use_dynamic_ntk") or self.config.get("use_logn_attn"))
        return ModelSpec(
            family=self.family,
            vocab=self.number("vocab_size"),
            embed=embed,
            layers=self.number("num_hidden_layers"),
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            mlp=mlp // 2 if qwen else mlp,
            norm_eps=self.number("rms_norm_eps", 1e-5 if self.family == "olmo2" else 1e-6, whole=False),
            init_std=self.number("initializer_range", 0.02, whole=False),
            tied=bool(self.config.get("tie_word_embeddings", False)),
            qkv_bias=self.family in ("qwen", "qwen2") or bias,
            out_bias=not self.config.get("no_bias", True) if qwen else self.family != "qwen2" and bias,
            mlp_bias=not self.config.get("no_bias", True) if qwen else self.family == "llama" and self.flag("mlp_bias"),
            qk_norm={"qwen3": "head", "olmo2": "width"}.get(self.family, "none"),
            post_norm=self.family == "olmo2",
            max_positions=self.number("seq_length", positions) if qwen else positions,
            strict_positions=strict,
            rope=self.rope(positions),
            config=json.dumps(self.source),
        )

    def flag(self, key: str) -> bool:
        return bool(self.config.get(key, False))

    def check(self) -> None:
        """What would change the numbers and is not implemented is refused by name."""
        config = self.config
        names = config.get("architectures", [FAMILIES[self.family]])
        if not any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in names):
            self.refuse("architectures", names, f"supported: {FAMILIES[self.family]}")
        for key, (fine, supported) in _ONLY.items():
            if key in config and config[key] not in fine:
                self.refuse(key, config[key], f"supported: {supported}")
        self.check_window()

    def check_window(self) -> None:
        config = self.config
        kinds = config.get("layer_types")
        if kinds is not None and set(kinds) - {"full_attention"}:
            self.refuse("layer_types", sorted(set(kinds)), "supported: full_attention in every layer")
        # Layers from max_window_layers on get the window; where there are none, the switch does nothing.
        windowed = config.get("max_window_layers", 28) < config.get("num_hidden_layers", 0)
        if kinds is None and config.get("use_sliding_window") and windowed:
            self.refuse("use_sliding_window", True, "supported: false (full attention in every layer)")
        if self.family in ("llama", "olmo2") and config.get("sliding_window"):
            self.refuse("sliding_window", config["sliding_window"], "supported: null")

    def rope(self, positions: int) -> Rope:
        config = self.config
        name = "rope_scaling" if config.get("rope_scaling") else "rope_parameters"
        given = config.get(name) or {}
        if not isinstance(given, dict):
            self.refuse(name, given, "expected an object with rope_type")
        kind = given.get("rope_type", given.get("type", "default"))
        theta = given.get("rope_theta", config.get("rope_theta", 10000.0))
        if kind not in ("default", "linear", "llama3"):
            self.refuse(f"{name}.rope_type", kind, "supported: default, linear, llama3")
        if given.get("partial_rotary_factor", 1.0) != 1.0:
            self.refuse(f"{name}.partial_rotary_factor", given["partial_rotary_factor"], "supported: 1.0")
        keys = {"default": (), "linear": ("factor",), "llama3": ("factor", "low_freq_factor", "high_freq_factor")}[kind]
        for key in keys:
            if not isinstance(given.get(key), int | float):
                raise InputError(f"{self.where}: {name}.{key}: {given.get(key)!r}, but rope_type {kind} needs a number")
        length = given.get("original_max_position_embeddings", positions)
        return Rope(float(theta), kind, **{key: float(given[key]) for key in keys}, original_length=int(length))
