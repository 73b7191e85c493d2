"""One of several processes: init, one gradient, save. `python two_processes.py OUT`, told by JAX_* variables."""

import sys

import jax
import jax.numpy as jnp
import numpy as np

from ilpjax.config import MeshConfig
from ilpjax.models import ModelSpec, init_model, load_model, save_model, weighted_nats
from ilpjax.parallel import make_mesh, put_batch, start

CONFIG = {
    "model_type": "qwen",
    "vocab_size": 320,
    "hidden_size": 48,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "kv_channels": 12,
    "initializer_range": 0.2,
}


def main(out: str) -> None:
    start()
    mesh = make_mesh(MeshConfig(fsdp=2, tensor=2))
    model, params = init_model(ModelSpec.from_config(CONFIG), jax.random.key(0), mesh)
    rows = np.random.default_rng(0).integers(0, 320, (4, 32)).astype(np.int32)
    share = len(rows) // jax.process_count()
    tokens = put_batch(mesh, rows[share * jax.process_index() :][:share])

    @jax.jit
    def update(params, tokens):
        positions, ends = jnp.broadcast_to(jnp.arange(32), tokens.shape), jnp.full_like(tokens, 32)

        def loss(params):
            hidden = model.hidden(params, tokens, positions, ends, dtype=jnp.float32, remat=True)
            return weighted_nats(hidden, model.head(params), tokens, jnp.full(tokens.shape, 0.01), chunk=64)[0]

        return jax.tree.map(lambda p, g: p - g, params, jax.grad(loss)(params))

    save_model(out, model, update(params, tokens))
    again = load_model(out, mesh)[1]
    apart = jax.jit(lambda a, b: sum(jnp.sum(x != y) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True)))
    assert int(apart(again, update(params, tokens))) == 0
    print("processes", jax.process_count(), "devices", jax.device_count())


if __name__ == "__main__":
    main(sys.argv[1])
