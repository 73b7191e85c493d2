"""The sampler done plainly: one answer at a time, the whole sequence through the model for every token."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from ilpjax.config import SampleConfig
from ilpjax.models import Model
from ilpjax.scoring import Prompt, Sampler
from ilpjax.scoring.decoding import BLOCK, row_key

WIDTH = 64


@functools.partial(jax.jit, static_argnums=0)
def _logits(model: Model, params, tokens):
    positions = jnp.arange(WIDTH)[None]
    return model.logits(params, tokens[None], positions, jnp.full((1, WIDTH), WIDTH))[0]


def next_logprobs(model, params, tokens):
    """float64[vocab] after these tokens."""
    logits = np.asarray(_logits(model, params, np.pad(tokens, (0, WIDTH - len(tokens)))), np.float64)[len(tokens) - 1]
    return logits - np.logaddexp.reduce(logits)


def two_uniforms(seed, row_id, sample, position):
    key = jax.random.wrap_key_data(jnp.asarray(row_key(seed, row_id)), impl="threefry2x32")
    key = jax.random.fold_in(jax.random.fold_in(key, sample), position)
    return np.asarray(jax.random.uniform(key, (2,)), np.float64)


def inverse_cdf(weights, u):
    """The first id whose cumulative share passes u: among blocks of ids, then in the block."""
    first = lambda w, u: int(np.argmax(np.cumsum(w) > u * w.sum()))
    blocks = np.pad(weights, (0, -len(weights) % BLOCK)).reshape(-1, BLOCK)
    block = first(blocks.sum(1), u[0])
    return block * BLOCK + first(blocks[block], u[1])


def top(weights, top_p):
    """Zero outside the nucleus, by sorting."""
    if top_p == 1:
        return weights
    order = np.argsort(-weights, kind="stable")
    mass = np.cumsum(weights[order]) / weights.sum()
    least = weights[order[np.argmax(mass >= top_p)]]
    return np.where(weights >= least, weights, 0)


def answer(model, params, prompt, sample, cfg, seed=0, stop=(), vocab=None):
    """(tokens, log-probs) of one answer; ids from `vocab` on are padding."""
    tokens, logprobs = list(prompt.tokens), []
    for position in range(cfg.new_tokens):
        logprob = next_logprobs(model, params, tokens)
        if cfg.decode == "greedy":
            token = int(np.argmax(logprob))
        else:
            weights = np.exp(logprob / cfg.temperature)
            if vocab is not None:
                weights[vocab:] = 0
            weights = top(weights, cfg.top_p)
            token = inverse_cdf(weights, two_uniforms(seed, prompt.row_id, sample, position))
        tokens.append(token)
        logprobs.append(logprob[token])
        if token in stop:
            break
    return tokens[len(prompt.tokens) :], logprobs


def prompts(lengths, samples, vocab=320, seed=0):
    rng = np.random.default_rng(seed)
    drawn = [rng.integers(0, vocab, length).astype(np.int32) for length in lengths]
    return [Prompt(f"row {n}", tokens, tuple(range(samples))) for n, tokens in enumerate(drawn)]


def sampler(model, params, mesh, seed=0, stop=(), vocab=None, **keys):
    return Sampler(model, params, mesh, SampleConfig(**keys), seed=seed, stop=stop, vocab=vocab)


def tokens_of(answers):
    return [[one.tokens.tolist() for one in each] for each in answers]
