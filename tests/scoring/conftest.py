"""A tiny tokenizer, a tiny model and a few items."""

import jax
import numpy as np
import pytest

from ilpjax.config import MeshConfig
from ilpjax.data import Template, train_tokenizer
from ilpjax.models import ModelSpec, init_model
from ilpjax.parallel import make_mesh
from ilpjax.rows import Item, Message

TEXT = "where does the red bird keep its seven golden keys when winter comes to Paris or Rome"
WORDS = TEXT.split()
CHAT = (
    "{% for m in messages %}<|endoftext|>{{ m['role'] }}\n{{ m['content'] | trim }}<|endoftext|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|endoftext|>assistant\n{% endif %}"
)
CONFIG = {
    "vocab_size": 401,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "initializer_range": 0.2,
    "model_type": "qwen2",
    "tie_word_embeddings": True,
}


@pytest.fixture(scope="session")
def mesh():
    return make_mesh(MeshConfig(data=1), jax.devices()[:1])


@pytest.fixture(scope="session")
def make_model(mesh):
    return lambda **changes: init_model(ModelSpec.from_config(CONFIG | changes), jax.random.key(0), mesh)


@pytest.fixture(scope="session")
def tiny(make_model):
    return make_model()


@pytest.fixture(scope="session")
def tokenizer():
    return train_tokenizer([" ".join(WORDS)] * 20 + [" ".join(WORDS[::-1])] * 20, 400)


@pytest.fixture(scope="session")
def plain(tokenizer):
    return Template(tokenizer, "plain")


@pytest.fixture(scope="session")
def chat():
    other = train_tokenizer([" ".join(WORDS)] * 20, 400)
    other.chat_template = CHAT
    return Template(other, "chat")


def sentence(rng, low, high):
    return " ".join(rng.choice(WORDS, rng.integers(low, high)))


@pytest.fixture(scope="session")
def items():
    """60 items of many lengths, 2 to 6 options."""
    rng = np.random.default_rng(0)
    made = []
    for n in range(60):
        options = tuple(dict.fromkeys(sentence(rng, 1, 6) for _ in range(rng.integers(2, 7)))) + ("neither",)
        history = (Message("system", sentence(rng, 2, 5)),) if n % 7 == 0 else ()
        question = sentence(rng, 1, 25) + "?"
        made.append(Item(row_id=f"r{n}", question=question, options=options, answer=n % len(options), history=history))
    return made
