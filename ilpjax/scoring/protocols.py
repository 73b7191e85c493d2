"""What is asked of the model for an item: the exact strings, and how their log-probs become p."""

import hashlib
import string
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from ilpjax.config import Normalise, Protocol
from ilpjax.data import Template
from ilpjax.errors import InputError
from ilpjax.rows import Item, Message

LABELS = string.ascii_uppercase


@dataclass(frozen=True)
class Ask:
    """`prompt_text + option_texts[k]` is what is scored for the item's own option k; its bytes are the option's own
    (UTF-8, without the space before it). The control scores the same `option_texts` behind `control_text`."""

    prompt_text: str
    option_texts: tuple[str, ...]
    option_bytes: tuple[int, ...]
    control_text: str


def ask(item: Item, template: Template, protocol: Protocol, order: int, seed: int) -> Ask:
    """Raises InputError for an item with more options than there are labels."""
    return _cloze(item, template) if protocol == "cloze" else _letter(item, template, order, seed)


def _cloze(item: Item, template: Template) -> Ask:
    """Each option's text as the response to the question: the string that training saw. Control: no question."""
    return _ask(template, (*item.history, Message("user", item.question)), item.options, "")


def _letter(item: Item, template: Template, order: int, seed: int) -> Ask:
    """The options listed after the question; the label is the response. Control: the list alone."""
    if len(item.options) > len(LABELS):
        raise InputError(
            f"row_id {item.row_id}: {len(item.options)} options, and letter has labels for {len(LABELS)}; "
            "protocol=cloze would be right"
        )
    listed = permutation(seed, item.row_id, order, len(item.options))
    lines = [f"{LABELS[n]}. {item.options[option]}" for n, option in enumerate(listed)]
    choices = "\n".join([*lines, "Answer:"])
    labels = tuple(LABELS[n] for n in np.argsort(listed))
    question = item.question.removesuffix("\nAnswer:")  # native sets end so, and the list says it again
    prompt = "\n".join([question, choices]) if question else choices
    return _ask(template, (*item.history, Message("user", prompt)), labels, choices)


def _ask(template: Template, messages: tuple[Message, ...], responses: tuple[str, ...], control: str) -> Ask:
    prompt_text, option_texts = template.ask(messages, responses)
    return Ask(
        prompt_text=prompt_text,
        option_texts=option_texts,
        option_bytes=tuple(len(response.encode()) for response in responses),
        control_text=template.prompt_text((Message("user", control),)),
    )


def permutation(seed: int, row_id: str, order: int, options: int) -> Int[np.ndarray, " options"]:
    """The option at each place of the list. Order 0 is the item's own; others are drawn by (seed, row_id, order)."""
    if order == 0:
        return np.arange(options)
    digest = hashlib.sha256(f"{seed}\0{order}\0{row_id}".encode()).digest()
    return np.random.default_rng(np.frombuffer(digest, np.uint32)).permutation(options)


def option_probabilities(
    logprob: Float[np.ndarray, "*items options"],
    tokens: Int[np.ndarray, "*items options"],
    nbytes: Int[np.ndarray, "*items options"],
    control: Float[np.ndarray, "*items options"] | None,
    normalise: Normalise,
) -> Float[np.ndarray, "*items options"]:
    """Softmax over options of the chosen score, in nats: summed (raw), a token, a byte, or less the control (pmi).

    An option without a token cannot be picked: its p is 0 (uniform where no option has one). Raises ValueError for
    pmi without a control.
    """
    score = logprob.astype(np.float64)
    if normalise == "token":
        score = score / np.maximum(tokens, 1)
    elif normalise == "byte":
        score = score / np.maximum(nbytes, 1)
    elif normalise == "pmi":
        if control is None:
            raise ValueError("pmi needs the control")
        score = score - control
    score = np.where(tokens > 0, score, -np.inf)
    score = np.where(np.any(tokens > 0, axis=-1, keepdims=True), score, 0.0)
    weights = np.exp(score - score.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)
