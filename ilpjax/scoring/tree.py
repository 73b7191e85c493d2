"""An item's options as one forest of tokens: what they share is computed once.

Tokens stand in depth-first order: the prompt, then each option's branch; the control prompt, where there is one, is a
second root; option orders of `letter` are branches of the question they share. Key k is visible to query q exactly when
k <= q < subtree_end[k]. An option's last token is only ever predicted, nothing is predicted from it: it is a target,
and not in the tree. So a one-token label costs no branch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int32

from ilpjax.data import OptionTokens

SHORTEST = 32  # tokens


@dataclass(frozen=True)
class Tree:
    """`target[j]` is to be predicted from the hidden state at token `places[at[j]]`, and counts for option `option[j]`.

    Several targets may be predicted from one place, whose logits are then computed once. Options are numbered through
    all roots: 0..K-1 behind the first prompt, K..2K-1 behind the next.
    """

    tokens: Int32[np.ndarray, " seq"]
    positions: Int32[np.ndarray, " seq"]
    subtree_end: Int32[np.ndarray, " seq"]
    places: Int32[np.ndarray, " places"]
    at: Int32[np.ndarray, " targets"]
    target: Int32[np.ndarray, " targets"]
    option: Int32[np.ndarray, " targets"]
    options: int

    @property
    def need(self) -> tuple[int, int, int]:
        """(tokens, places, targets) it takes of a sequence; an option without a target takes a target's room."""
        return len(self.tokens), len(self.places), max(len(self.target), self.options)


def grow(roots: Sequence[OptionTokens]) -> Tree:
    """The forest of some prompts, each with its options: sequences that begin alike share those tokens.

    The first token of an option is predicted from the last shared token; one that still belongs to the prompt (an
    option whose tokenisation changes the prompt's tail) stands in the option's branch and is no target.
    """
    whole = [(np.concatenate([root.shared, option]), len(root.shared) + tail) for root, option, tail in _options(roots)]
    # In lexicographic order each sequence shares most with the one before it: big-endian bytes compare as the ids do.
    order = sorted(range(len(whole)), key=lambda n: whole[n][0].astype(">i4").tobytes())
    tokens, positions, scored = [], [], []
    line = np.zeros(0, np.int64)  # the nodes of the path just laid down
    size, before = 0, np.zeros(0, np.int32)
    closed: list[tuple[np.ndarray, int]] = []
    for number in order:
        sequence, first = whole[number]
        path = sequence[:-1]
        common = _common(path, before)
        closed.append((line[common:], size))
        tokens.append(path[common:])
        positions.append(np.arange(common, len(path)))
        line = np.concatenate([line[:common], np.arange(size, size + len(path) - common)])
        size, before = size + len(path) - common, path
        scored.append((line[first - 1 : len(path)], sequence[first:], np.full(len(sequence) - first, number)))
    closed.append((line, size))
    ends = np.zeros(size, np.int32)
    for nodes, end in closed:
        ends[nodes] = end
    index, target, option_of = (_join([part[n] for part in scored]) for n in range(3))
    places, at = np.unique(index, return_inverse=True)
    return Tree(_join(tokens), _join(positions), ends, places, at.astype(np.int32), target, option_of, len(whole))


def _options(roots: Sequence[OptionTokens]):
    return ((root, option, tail) for root in roots for option, tail in zip(root.options, root.prompt_tail, strict=True))


def _common(one: np.ndarray, other: np.ndarray) -> int:
    """Tokens in which two sequences begin alike."""
    shorter = min(len(one), len(other))
    differ = one[:shorter] != other[:shorter]
    return int(differ.argmax()) if differ.any() else shorter


def _join(parts: list[np.ndarray]) -> Int32[np.ndarray, " n"]:
    return np.concatenate(parts).astype(np.int32)


def cut_left(tokens: OptionTokens, limit: int) -> tuple[OptionTokens, int]:
    """(what fits, tokens cut): prompt tokens beyond `limit` go, from the left, as lm-eval does it.

    At least one prompt token stays, to predict the first response token from; an option that does not fit behind it
    raises ValueError.
    """
    longest = max(len(option) for option in tokens.options)
    excess = max(0, len(tokens.shared) + longest - 1 - limit)
    if excess >= len(tokens.shared):
        raise ValueError(f"an option has {longest} tokens, and the model sees at most {limit}")
    return replace(tokens, shared=tokens.shared[excess:]), excess


def next_power(value: int, least: int) -> int:
    return max(least, 1 << (value - 1).bit_length())
