"""Reads a llama2.c checkpoint (format v0, float32) and its tokenizer into what `transformers` and we load."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file


def convert(path: Path, folder: Path) -> None:
    """Writes a Hugging Face folder."""
    raw = path.read_bytes()
    dim, hidden, layers, heads, kv_heads, vocab, seq = (int(n) for n in np.frombuffer(raw, np.int32, 7))
    assert vocab > 0, "a negative vocabulary says that the head is not tied"
    flat, at = np.frombuffer(raw, np.float32, offset=28), 0

    def take(*shape: int) -> np.ndarray:
        nonlocal at
        at += int(np.prod(shape))
        return flat[at - int(np.prod(shape)) : at].reshape(shape)

    kv = dim // heads * kv_heads
    embedding, attention_norm = take(vocab, dim), take(layers, dim)
    q, k, v, o = take(layers, dim, dim), take(layers, kv, dim), take(layers, kv, dim), take(layers, dim, dim)
    mlp_norm, gate, down, up = (take(layers, *shape) for shape in ((dim,), (hidden, dim), (dim, hidden), (hidden, dim)))
    tensors = {"model.embed_tokens.weight": embedding, "model.norm.weight": take(dim)}
    for n in range(layers):
        layer = {
            "self_attn.q_proj": halves(q[n], heads),
            "self_attn.k_proj": halves(k[n], kv_heads),
            "self_attn.v_proj": v[n],
            "self_attn.o_proj": o[n],
            "mlp.gate_proj": gate[n],
            "mlp.down_proj": down[n],
            "mlp.up_proj": up[n],
            "input_layernorm": attention_norm[n],
            "post_attention_layernorm": mlp_norm[n],
        }
        tensors |= {f"model.layers.{n}.{name}.weight": value for name, value in layer.items()}
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": vocab,
        "hidden_size": dim,
        "intermediate_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "max_position_embeddings": seq,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    folder.mkdir(parents=True)
    save_file({name: np.ascontiguousarray(x) for name, x in tensors.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))


def halves(rows: np.ndarray, heads: int) -> np.ndarray:
    """RoPE turns neighbouring rows there, and here the first half against the second."""
    out, dim = rows.shape
    return rows.reshape(heads, out // heads // 2, 2, dim).swapaxes(1, 2).reshape(out, dim)


class Tokenizer:
    """The vocabulary of tok*.bin: (score, bytes) a token; pairs merge by score."""

    def __init__(self, path: Path):
        raw, at, self.tokens, self.scores = path.read_bytes(), 4, [], []
        while at < len(raw):
            score, length = np.frombuffer(raw, np.float32, 1, at)[0], np.frombuffer(raw, np.int32, 1, at + 4)[0]
            self.tokens.append(raw[at + 8 : at + 8 + length])
            self.scores.append(float(score))
            at += 8 + int(length)

    def encode(self, text: str) -> list[int]:
        pieces = [bytes([b]) for b in (" " + text).encode()]
        while True:
            pairs = [(self.score(a + b), -n) for n, (a, b) in enumerate(zip(pieces, pieces[1:], strict=False))]
            best, where = max(pairs, default=(-np.inf, 0))
            if best == -np.inf:
                return [1, *(self.tokens.index(piece) for piece in pieces)]
            pieces[-where : -where + 2] = [pieces[-where] + pieces[-where + 1]]

    def score(self, piece: bytes) -> float:
        return self.scores[self.tokens.index(piece)] if piece in self.tokens else -np.inf

    def decode(self, ids: list[int]) -> str:
        return b"".join(self.tokens[n] for n in ids if n > 2).decode().strip()
