"""AdamW with linear warm-up and a cosine to `final_lr * lr`; decay on matrices only."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from ilpjax.config import TrainConfig

# What decays, by name and not by rank: a stacked [layers, embed] norm weight is no matrix. `ilpjax.models.Model` gives
# these names to matrices alone.
MATRICES = ("kernel", "embedding", "head")


def schedule(cfg: TrainConfig, steps: int) -> optax.Schedule:
    """Learning rate of each of `steps` steps, the first being step 0.

    Rises in equal parts to `lr` over `ceil(warmup * steps)` steps (never from a wasted zero), then falls as a
    half cosine, reaching `final_lr * lr` at the last step.
    """
    rise = -int(-cfg.warmup * steps // 1)
    fall = max(steps - 1 - rise, 1)

    def rate(step: Int[Array, ""]) -> Float[Array, ""]:
        done = jnp.clip((step - rise) / fall, 0.0, 1.0)
        cosine = cfg.final_lr + (1 - cfg.final_lr) * 0.5 * (1 + jnp.cos(jnp.pi * done))
        return cfg.lr * jnp.where(step < rise, (step + 1) / max(rise, 1), cosine)

    return rate


def decay_mask(params: Any) -> Any:
    """True where weight decay applies: matrices, not norm weights and biases, told by the name of the leaf."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key in MATRICES, params)


def make_optimizer(cfg: TrainConfig, steps: int) -> optax.GradientTransformation:
    """Clip by the global norm, then AdamW (arXiv:1711.05101)."""
    adamw = optax.adamw(
        schedule(cfg, steps), b1=cfg.beta1, b2=cfg.beta2, weight_decay=cfg.weight_decay, mask=decay_mask
    )
    return optax.chain(optax.clip_by_global_norm(cfg.clip), adamw)
