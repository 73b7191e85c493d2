"""Sentence-BERT (arXiv:1908.10084): an encoder, its pooling and what follows, as a folder's modules.json says."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int
from tokenizers import normalizers
from transformers import PreTrainedTokenizerBase

from ilpjax.errors import InputError
from ilpjax.models.bert import BertSpec, hidden_states, linear, read_weights
from ilpjax.models.files import Checkpoint, read_json
from ilpjax.models.hf import resolve
from ilpjax.parallel import replicated

# Flags of 1_Pooling/config.json, in the order in which several are concatenated.
_POOLING = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
}
_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "Identity": lambda x: x,
    "Tanh": jnp.tanh,
    "ReLU": jax.nn.relu,
    "GELU": lambda x: jax.nn.gelu(x, approximate=False),
    "SiLU": jax.nn.silu,
    "Sigmoid": jax.nn.sigmoid,
}


@dataclass(frozen=True)
class SentenceModel:
    """Tokens of a text to its vector. Hashable: static under `jax.jit`; the weights are beside it."""

    spec: BertSpec
    pooling: tuple[str, ...]
    head: tuple[str, ...]  # modules behind the pooling: "Normalize", or the activation of a Dense
    dims: int  # of the vector
    max_tokens: int  # longer texts are cut
    lower: bool  # texts are lower-cased before they are tokenised
    prompt: str  # put before every text
    tokenizer: Path = field(compare=False)  # the folder it is in

    def prepare(self, text: str) -> str:
        """The text that is tokenised."""
        return (self.prompt + text).strip()

    def prepare_tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
        """The tokenizer, which then lower-cases where the model asks for it; special tokens in a text stay as they are.

        So it is since sentence-transformers 5.4; before, "[PAD]" in a text became "[pad]".
        """
        if self.lower:
            backend: Any = tokenizer.backend_tokenizer  # every tokenizer that is read here has one
            own = [backend.normalizer] if backend.normalizer else []
            backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *own])
        return tokenizer

    def embed(
        self, params: dict[str, Any], tokens: Int[Array, "batch seq"], lengths: Int[Array, " batch"]
    ) -> Float[Array, "batch dims"]:
        """Vectors, float32, of unit length where the model has a Normalize. Texts are padded behind `lengths`."""
        hidden = hidden_states(self.spec, params["encoder"], tokens, lengths).astype(jnp.float32)
        x = pool(hidden, jnp.arange(tokens.shape[1]) < lengths[:, None], self.pooling)
        for name, weights in zip(self.head, params["head"], strict=True):
            if name == "Normalize":
                x = x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
            else:
                x = _ACTIVATIONS[name](linear(weights, x))
        return x


def pool(
    hidden: Float[Array, "batch seq embed"], seen: Bool[Array, "batch seq"], modes: tuple[str, ...]
) -> Float[Array, "batch pooled"]:
    """One vector a text from those of its tokens; several modes side by side."""
    count = jnp.maximum(jnp.sum(seen, axis=1, keepdims=True), 1)
    total = jnp.sum(jnp.where(seen[..., None], hidden, 0.0), axis=1)
    made = {
        "cls": lambda: hidden[:, 0],
        "max": lambda: jnp.max(jnp.where(seen[..., None], hidden, -1e9), axis=1),
        "mean": lambda: total / count,
        "mean_sqrt_len_tokens": lambda: total / jnp.sqrt(count),
    }
    return jnp.concatenate([made[mode]() for mode in modes], axis=-1)


def load_sentence_model(
    name_or_path: str | Path, mesh: Mesh, dtype: Any = jnp.float32
) -> tuple[SentenceModel, dict[str, Any]]:
    """The encoder in a folder or of a hub name, and its weights in `dtype`, whole on every device.

    Without modules.json it is the mean of the hidden states, as sentence-transformers has it. Raises InputError for a
    module, an option or a model type that is not supported, a tensor that is missing, a pickle.
    """
    folder = resolve(name_or_path, encoder=True)
    (_, home), *rest = _modules(folder)
    where = home / "config.json"
    spec = BertSpec.from_config(read_json(where), str(where))
    with Checkpoint(home) as checkpoint:
        params: dict[str, Any] = {"encoder": read_weights(spec, checkpoint), "head": []}
    pooling: tuple[str, ...] = ("mean",)
    head: list[str] = []
    if (folder / "modules.json").is_file():
        if not rest or rest[0][0] != "Pooling":
            raise InputError(f"{folder / 'modules.json'}: no Pooling behind the Transformer, where there should be one")
        pooling = _pooling(rest.pop(0)[1])
    dims = len(pooling) * spec.embed
    for kind, place in rest:
        weights: dict[str, Any] = {}
        if kind == "Dense":
            kind, weights = _dense(place, dims)
            dims = weights["kernel"].shape[1]
        elif kind != "Normalize":
            raise InputError(f"{folder / 'modules.json'}: a second {kind}; behind the pooling: Dense, Normalize")
        head.append(kind)
        params["head"].append(weights)
    model = SentenceModel(spec, pooling, tuple(head), dims, *_options(folder, home, spec), home)
    params = jax.tree.map(lambda x: jax.device_put(x.astype(jnp.dtype(dtype)), replicated(mesh)), params)
    return model, params


def _modules(folder: Path) -> list[tuple[str, Path]]:
    """(class, folder) of each module."""
    path = folder / "modules.json"
    if not path.is_file():
        return [("Transformer", folder)]
    known = ("Transformer", "Pooling", "Dense", "Normalize")
    try:
        listed = [(m["type"].split("."), folder / m["path"]) for m in json.loads(path.read_text(encoding="utf-8"))]
    except (ValueError, TypeError, KeyError, AttributeError):
        raise InputError(f"{path}: not a list of modules; expected an idx, name, path and type each") from None
    for names, _ in listed:
        if names[0] != "sentence_transformers" or names[-1] not in known:
            raise InputError(f"{path}: module {'.'.join(names)} is not supported; supported: {', '.join(known)}")
    if not listed or listed[0][0][-1] != "Transformer":
        raise InputError(f"{path}: the first module must be a Transformer")
    return [(names[-1], place) for names, place in listed]


def _pooling(place: Path) -> tuple[str, ...]:
    path = place / "config.json"
    config = read_json(path)
    if config.get("include_prompt") is False:
        raise InputError(f"{path}: include_prompt: false is not supported; true would be right")
    if "pooling_mode" in config:  # since 5.4: a mode, or a list of them in its own order
        named = config["pooling_mode"]
        asked = tuple(map(str, named if isinstance(named, list) else [named]))
    else:
        flags = {"pooling_mode_mean_tokens": True} | {k: v for k, v in config.items() if k.startswith("pooling_mode_")}
        on = [key for key, value in flags.items() if value]
        asked = tuple(_POOLING.get(key, key) for key in sorted(on, key=[*_POOLING, *on].index))
    modes = tuple(_POOLING.values())
    if not asked or set(asked) - set(modes):
        wrong = ", ".join(sorted(set(asked) - set(modes))) or "no pooling mode"
        raise InputError(f"{path}: {wrong} is not supported; supported: {', '.join(modes)}")
    return asked


def _dense(place: Path, dims: int) -> tuple[str, dict[str, np.ndarray]]:
    """(the activation's name, its kernel [in, out] and perhaps bias)."""
    path = place / "config.json"
    config = read_json(path)
    activation = str(config.get("activation_function")).split(".")[-1]
    if activation not in _ACTIVATIONS:
        raise InputError(
            f"{path}: activation_function: {config.get('activation_function')} is not supported; "
            f"supported: {', '.join(_ACTIVATIONS)}"
        )
    for key in ("module_input_name", "module_output_name"):  # a Dense of tokens, which newer versions have
        if config.get(key, "sentence_embedding") not in (None, "sentence_embedding"):
            raise InputError(f"{path}: {key}: {config[key]} is not supported; sentence_embedding would be right")
    shapes: dict[str, tuple] = {"kernel": (config.get("out_features"), dims)}
    if config.get("bias", True):
        shapes["bias"] = (config.get("out_features"),)
    weights = {}
    with Checkpoint(place) as checkpoint:
        for ours, shape in shapes.items():
            name = "linear.weight" if ours == "kernel" else "linear.bias"
            if name not in checkpoint or checkpoint.shape(name) != shape:
                found = checkpoint.shape(name) if name in checkpoint else "nothing"
                raise InputError(f"{place}: tensor {name} should have shape {shape}, found {found}")
            weights[ours] = checkpoint.read(name, (slice(None),) * len(shape)).T
    return activation, weights


def _options(folder: Path, home: Path, spec: BertSpec) -> tuple[int, bool, str]:
    """(longest text in tokens, lower-casing, what is put before a text)."""
    own = home / "sentence_bert_config.json"
    config = read_json(own) if own.is_file() and (folder / "modules.json").is_file() else {}
    longest = config.get("max_seq_length")
    if longest is None:
        tokenizer = home / "tokenizer_config.json"
        longest = read_json(tokenizer).get("model_max_length") if tokenizer.is_file() else None
    elif isinstance(longest, bool) or not isinstance(longest, int) or longest < 1:
        raise InputError(f"{own}: max_seq_length: {longest!r}, expected a positive integer")
    texts = folder / "config_sentence_transformers.json"
    prompts = read_json(texts) if texts.is_file() else {}
    name = prompts.get("default_prompt_name")
    prompt = (prompts.get("prompts") or {}).get(name) if name else None
    return int(min(longest or spec.max_tokens, spec.max_tokens)), bool(config.get("do_lower_case")), prompt or ""
