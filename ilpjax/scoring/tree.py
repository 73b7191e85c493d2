"""An item's options as one forest of tokens: what they share is computed once.

Tokens stand in depth-first order: the prompt, then each option's branch; the control prompt, where there is one, is a
second root. Key k is visible to query q exactly when k <= q < subtree_end[k]. An option's last token is only ever
predicted, nothing is predicted from it: it is a target, and not in the tree. So a one-token label costs no branch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int32

from ilpjax.data import OptionTokens

SHORTEST = 32  # tokens
FEWEST = 16  # targets


@dataclass(frozen=True)
class Tree:
    """`target[j]` is to be predicted from the hidden state at token `index[j]`, and counts for option `option[j]`.

    Options are numbered through all roots: 0..K-1 behind the prompt, K..2K-1 behind the control prompt.
    """

    tokens: Int32[np.ndarray, " seq"]
    positions: Int32[np.ndarray, " seq"]
    subtree_end: Int32[np.ndarray, " seq"]
    index: Int32[np.ndarray, " targets"]
    target: Int32[np.ndarray, " targets"]
    option: Int32[np.ndarray, " targets"]
    options: int

    @property
    def shape(self) -> tuple[int, int]:
        """(tokens, targets) after padding. It depends on this tree only, so a row's score cannot depend on others.

        Tokens: 32, 48, 64, 96, 128, ...: at most a third is padding. Targets: 16, 32, 64, ...
        A run compiles once a shape it meets: two lengths a doubling, and few target counts at each.
        """
        length = next_power(len(self.tokens), SHORTEST)
        if length > SHORTEST and len(self.tokens) <= length * 3 // 4:
            length = length * 3 // 4
        return length, next_power(max(len(self.target), self.options), FEWEST)


def grow(roots: Sequence[OptionTokens]) -> Tree:
    """The forest of some prompts, each with its options.

    The first token of an option is predicted from the last shared token; one that still belongs to the prompt (an
    option whose tokenisation changes the prompt's tail) stands in the option's branch and is no target.
    """
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    scored: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    at, number = 0, 0
    for root in roots:
        depth = len(root.shared)
        size = depth + sum(max(len(option) - 1, 0) for option in root.options)
        parts.append((root.shared, np.arange(depth), np.full(depth, at + size)))
        last, at = at + depth - 1, at + depth
        for option, tail in zip(root.options, root.prompt_tail, strict=True):
            branch = option[:-1]
            places = np.arange(at, at + len(branch))
            parts.append((branch, depth + np.arange(len(branch)), np.full(len(branch), at + len(branch))))
            predictors = np.concatenate([[last], places])[tail : len(option)]
            scored.append((predictors, option[tail:], np.full(len(predictors), number)))
            at, number = at + len(branch), number + 1
    tokens, positions, ends = (_join([part[n] for part in parts]) for n in range(3))
    index, target, option_of = (_join([part[n] for part in scored]) for n in range(3))
    return Tree(tokens, positions, ends, index, target, option_of, number)


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


def stack(trees: Sequence[Tree], batch: int, shape: tuple[int, int]) -> dict[str, np.ndarray]:
    """Trees of one shape as arrays [batch, shape]. Padding sees only itself; a padded target counts for no option."""
    length, targets = shape
    out = {
        "tokens": np.zeros((batch, length), np.int32),
        "positions": np.zeros((batch, length), np.int32),
        "subtree_end": np.tile(np.arange(1, length + 1, dtype=np.int32), (batch, 1)),
        "index": np.zeros((batch, targets), np.int32),
        "target": np.zeros((batch, targets), np.int32),
        "option": np.full((batch, targets), targets, np.int32),
    }
    for n, tree in enumerate(trees):
        for name, array in out.items():
            value = getattr(tree, name)
            array[n, : len(value)] = value
    return out


def next_power(value: int, least: int) -> int:
    return max(least, 1 << (value - 1).bit_length())
