"""Tiny sentence encoders with random weights, made without torch, as sentence-transformers writes its folders."""

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

WIDTH, LAYERS, MLP, POSITIONS = 32, 2, 48, 48
LONGEST, TOKENIZERS = 40, 44  # tokens, as sentence_bert_config.json and the tokenizer say
WORDS = [
    "the",
    "cat",
    "sat",
    "on",
    "a",
    "mat",
    "who",
    "wrote",
    "what",
    "is",
    "of",
    "in",
    "France",
    "capital",
    "Paris",
    "Where",
    "big",
]
# Odd ones among them: nothing, too long, a pad token spelt out, letters nobody knows, capitals.
TEXTS = [
    "the cat sat on the mat",
    "Where is Paris?",
    "",
    "  the CAT  ",
    "what is the capital of France " * 30,
    "a [PAD] cat [PAD] sat",
    "日本語 é ???",
    "a",
    "who wrote what in France, and where",
]
_CONFIG = {
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "intermediate_size": MLP,
    "max_position_embeddings": POSITIONS,
    "hidden_act": "gelu",
    "pad_token_id": 1,
}
_ATTENTION = {"bert": ("attention.self.{}", "query", "key", "value"), "mpnet": ("attention.attn.{}", "q", "k", "v")}
_AFTER = {
    "bert": ("attention.output.dense", "attention.output.LayerNorm"),
    "mpnet": ("attention.attn.o", "attention.LayerNorm"),
}
_POOLING = {"cls": "_token", "max": "_tokens", "mean": "_tokens", "mean_sqrt_len_tokens": ""}
_TYPE = "sentence_transformers.models."


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Word pieces, case kept: [CLS] text [SEP]. The pad token has MPNet's id."""
    letters = [chr(n) for n in range(33, 127)]
    specials = ["[CLS]", "[PAD]", "[SEP]", "[UNK]"]
    vocab = {token: n for n, token in enumerate([*specials, *WORDS, *letters, *(f"##{c}" for c in letters)])}
    pieces = Tokenizer(models.WordPiece({t: n for n, t in enumerate(dict.fromkeys(vocab))}, unk_token="[UNK]"))
    pieces.normalizer = normalizers.BertNormalizer(lowercase=False, strip_accents=False)
    pieces.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    pieces.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 0), ("[SEP]", 2)]
    )
    named = dict(cls_token="[CLS]", pad_token="[PAD]", sep_token="[SEP]", unk_token="[UNK]")
    return PreTrainedTokenizerFast(tokenizer_object=pieces, model_max_length=TOKENIZERS, **named)


def tiny_encoder(
    path: Path,
    family: str = "bert",
    *,
    pooling: tuple[str, ...] | None = ("mean",),
    dense: str | None = None,
    normalize: bool = True,
    lower: bool = False,
    longest: int | None = LONGEST,
    prompt: str | None = None,
    prefix: str = "",
    inside: str = "",
    **config: Any,
) -> Path:
    """Writes an encoder's folder and returns its path.

    `pooling=None`: no modules.json. `dense`: a Dense of 24 outputs with that activation of torch. `prefix`: of the
    tensors' names. `inside`: the transformer's own folder, as in old checkpoints. `config`: keys of config.json.
    """
    home = path / inside
    home.mkdir(parents=True)
    tokenizer = tiny_tokenizer()
    tokenizer.save_pretrained(home)
    settings = _CONFIG | {"model_type": family, "vocab_size": len(tokenizer)} | config
    _write(home / "config.json", settings)
    save_file(
        {prefix + name: value for name, value in _tensors(family, settings).items()},
        home / "model.safetensors",
        {"format": "pt"},
    )
    if longest is not None or lower:
        _write(home / "sentence_bert_config.json", {"max_seq_length": longest, "do_lower_case": lower})
    if prompt is not None:
        prompts = {"prompts": {"query": prompt}, "default_prompt_name": "query"}
        _write(path / "config_sentence_transformers.json", prompts)
    if pooling is not None:
        _modules(path, inside, pooling, dense, normalize)
    return path


def _modules(path: Path, inside: str, pooling: tuple[str, ...], dense: str | None, normalize: bool) -> None:
    modules = [("Transformer", inside), ("Pooling", "1_Pooling")]
    flags = {f"pooling_mode_{mode}{rest}": mode in pooling for mode, rest in _POOLING.items()}
    _write(path / "1_Pooling" / "config.json", {"word_embedding_dimension": WIDTH} | flags)
    if dense is not None:
        modules.append(("Dense", "2_Dense"))
        inputs = WIDTH * len(pooling)
        kind = {"activation_function": dense, "in_features": inputs, "out_features": 24, "bias": True}
        _write(path / "2_Dense" / "config.json", kind)
        weights = {"linear.weight": _random("dense", 24, inputs), "linear.bias": _random("dense.bias", 24)}
        save_file(weights, path / "2_Dense" / "model.safetensors", {"format": "pt"})
    if normalize:
        modules.append(("Normalize", f"{len(modules)}_Normalize"))
    listed = [{"idx": n, "name": str(n), "path": p, "type": _TYPE + kind} for n, (kind, p) in enumerate(modules)]
    _write(path / "modules.json", listed)


def _tensors(family: str, config: dict[str, Any]) -> dict[str, np.ndarray]:
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (config["vocab_size"], WIDTH),
        "embeddings.position_embeddings.weight": (config["max_position_embeddings"], WIDTH),
        "embeddings.LayerNorm": (WIDTH,),
    }
    if family == "bert":
        shapes["embeddings.token_type_embeddings.weight"] = (2, WIDTH)
    else:
        shapes["encoder.relative_attention_bias.weight"] = (32, config["num_attention_heads"])
    shapes["pooler.dense"] = (WIDTH, WIDTH)
    name, *qkv = _ATTENTION[family]
    out, norm = _AFTER[family]
    for layer in (f"encoder.layer.{n}." for n in range(LAYERS)):
        shapes |= {layer + name.format(part): (WIDTH, WIDTH) for part in qkv}
        shapes |= {layer + out: (WIDTH, WIDTH), layer + norm: (WIDTH,), layer + "output.LayerNorm": (WIDTH,)}
        shapes |= {layer + "intermediate.dense": (MLP, WIDTH), layer + "output.dense": (WIDTH, MLP)}
    tensors = {}
    for name, shape in shapes.items():
        if name.endswith(".weight"):
            tensors[name] = _random(name, *shape)
        else:
            tensors[f"{name}.weight"] = _random(name, *shape) + name.endswith("LayerNorm")
            tensors[f"{name}.bias"] = _random(name + ".bias", shape[0])
    tensors["embeddings.position_ids"] = np.arange(config["max_position_embeddings"])[None]
    return {name: x if x.dtype == np.int64 else x.astype(np.float32) for name, x in tensors.items()}


def _random(name: str, *shape: int) -> np.ndarray:
    """The same in any version of numpy."""
    random = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
    return (random.standard_normal(shape) * 0.3).astype(np.float32)


def _write(path: Path, value: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value))
