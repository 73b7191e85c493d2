"""The peers in torch: transformers' own models, and the first Qwen, which transformers does not have."""

import json
import math
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.torch import load_file


def torch_logits(folder: Path, tokens: np.ndarray) -> np.ndarray:
    """float32[batch, seq, vocab] by the checkpoint's own architecture, on the CPU in float32."""
    if json.loads((folder / "config.json").read_text())["model_type"] == "qwen":
        return qwen_logits(folder, tokens)
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"], info
    with torch.no_grad():
        return model.eval()(torch.tensor(tokens, dtype=torch.long)).logits.numpy()


def qwen_logits(folder: Path, tokens: np.ndarray) -> np.ndarray:
    """QWenLMHeadModel, written from its description: fused c_attn with a bias, mlp = c_proj(w1(x) * silu(w2(x)))."""
    config = json.loads((folder / "config.json").read_text())
    weights = load_file(folder / "model.safetensors")
    heads, dim = config["num_attention_heads"], config["kv_channels"]

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        scale = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + config["layer_norm_epsilon"])
        return x * scale * weights[name + ".weight"]

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return torch.nn.functional.linear(x, weights[name + ".weight"], weights.get(name + ".bias"))

    seq = tokens.shape[1]
    freq = 1.0 / config["rotary_emb_base"] ** (torch.arange(0, dim, 2).float() / dim)
    angle = torch.outer(torch.arange(seq).float(), freq)
    angle = torch.cat([angle, angle], -1)[None, :, None, :]

    def rotate(x: torch.Tensor) -> torch.Tensor:
        first, second = x.chunk(2, -1)
        return x * angle.cos() + torch.cat([-second, first], -1) * angle.sin()

    causal = torch.full((seq, seq), -math.inf).triu(1)
    x = weights["transformer.wte.weight"][torch.tensor(tokens, dtype=torch.long)]
    for n in range(config["num_hidden_layers"]):
        layer = f"transformer.h.{n}."
        fused = linear(norm(x, layer + "ln_1"), layer + "attn.c_attn")
        q, k, v = (part.unflatten(-1, (heads, dim)) for part in fused.chunk(3, -1))
        scores = torch.einsum("bqhd,bkhd->bhqk", rotate(q), rotate(k)) / math.sqrt(dim) + causal
        mixed = torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), v).flatten(-2)
        x = x + linear(mixed, layer + "attn.c_proj")
        h = norm(x, layer + "ln_2")
        gated = linear(h, layer + "mlp.w1") * torch.nn.functional.silu(linear(h, layer + "mlp.w2"))
        x = x + linear(gated, layer + "mlp.c_proj")
    return linear(norm(x, "transformer.ln_f"), "lm_head").numpy()
