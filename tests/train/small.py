"""A model and rows small enough to train in a test."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pandas as pd
from jax.sharding import Mesh

from ilpjax.config import MeshConfig, TrainConfig
from ilpjax.data import Example, Loader, train_tokenizer
from ilpjax.models import Model, ModelSpec, Params, define, init_model, param_shardings, save_model
from ilpjax.parallel import make_mesh

VOCAB = 96
CONFIG = {
    "model_type": "qwen2",
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "hidden_act": "silu",
}
SEQ = 64


def one_device() -> Mesh:
    return make_mesh(MeshConfig(), jax.devices()[:1])


def model_on(mesh: Mesh, **changes: object) -> tuple[Model, Params]:
    """The same weights on any mesh; fresh arrays each time, so that a test may give them away."""
    spec = ModelSpec.from_config(CONFIG | changes)
    model = define(spec, mesh)
    return model, jax.device_put(_weights(spec), param_shardings(model, mesh))


@functools.cache
def _weights(spec: ModelSpec) -> Params:
    return jax.tree.map(np.array, init_model(spec, jax.random.key(0), one_device())[1])


def rows(lengths: list[int], seed: int = 0) -> list[Example]:
    """Random rows of these lengths; the first third of each is the prompt."""
    rng = np.random.default_rng(seed)
    made = []
    for n, length in enumerate(lengths):
        mask = np.arange(length) >= max(1, length // 3)
        made.append(Example(n, rng.integers(0, VOCAB, length).astype(np.int32), mask))
    return made


def some_lengths(count: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(4, 40, count).tolist()


def settings(**changes: object) -> TrainConfig:
    values = dict(epochs=2, seq_len=SEQ, batch=8, lr=1e-2, remat=False, loss_chunk=128, save_every=4)
    return TrainConfig.model_validate(values | changes)


def first_batch(examples: list[Example], batch: int = 8, seq_len: int = SEQ) -> dict[str, np.ndarray]:
    loader = Loader(examples, seq_len=seq_len, batch=batch, epochs=1, order="file", seed=0)
    found = next(iter(loader))
    loader.close()
    return found


def table_of(out: Path, name: str) -> pd.DataFrame:
    return pd.read_parquet(Path(out) / f"{name}.parquet")


def base_and_rows(folder: Path, count: int = 60) -> tuple[Path, Path]:
    """A checkpoint with a tokenizer, and a file of rows, for runs in processes of their own."""
    facts = [f"{name} of {place} keeps {n} grey cats" for n, (name, place) in enumerate(_people(count))]
    tokenizer = train_tokenizer(facts, 300)
    model, params = model_on(one_device(), vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id)
    save_model(folder / "base", model, params, tokenizer=tokenizer)
    lines = [{"id": f"r{n}", "prompt": fact[:-9], "response": fact[-9:]} for n, fact in enumerate(facts)]
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder / "base", file


def _people(count: int) -> list[tuple[str, str]]:
    rng = np.random.default_rng(1)
    syllables = ["ba", "ko", "mi", "ren", "to", "sul", "ve", "zan"]
    word = lambda: "".join(rng.choice(syllables, rng.integers(2, 5)))
    return [(word(), word()) for _ in range(count)]


def start(job: str, *args: str, **environment: str) -> subprocess.Popen[str]:
    """`ilpjax JOB ...` in a process of its own, on one device."""
    command = [sys.executable, "-c", "from ilpjax.cli import main; main()", job, *args]
    flags = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "", "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(
        command, env=os.environ | flags | environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(process: subprocess.Popen[str], status: int = 0) -> str:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == status, output
    return output
