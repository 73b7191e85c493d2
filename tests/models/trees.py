"""Random token trees, for the tests of everything that reads `subtree_end`."""

from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st


@dataclass(frozen=True)
class Tree:
    """A forest in depth-first order: each token's parent (-1 for a root), depth and subtree end."""

    parents: tuple[int, ...]

    @property
    def size(self) -> int:
        return len(self.parents)

    @property
    def positions(self) -> np.ndarray:
        depth: list[int] = []
        for parent in self.parents:
            depth.append(0 if parent < 0 else depth[parent] + 1)
        return np.array(depth, np.int32)

    @property
    def subtree_end(self) -> np.ndarray:
        end = np.arange(1, self.size + 1)
        for child in reversed(range(self.size)):
            if self.parents[child] >= 0:
                end[self.parents[child]] = max(end[self.parents[child]], end[child])
        return end.astype(np.int32)

    def padded(self, size: int) -> tuple[np.ndarray, np.ndarray]:
        """(positions, subtree_end), int32[1, size]; a padding token sees only itself."""
        padding = np.arange(self.size, size)
        positions = np.concatenate([self.positions, 0 * padding])
        ends = np.concatenate([self.subtree_end, padding + 1])
        return positions[None].astype(np.int32), ends[None].astype(np.int32)

    def path(self, token: int) -> list[int]:
        """The token's ancestors and itself, root first: what it may see."""
        found = []
        while token >= 0:
            found.append(token)
            token = self.parents[token]
        return found[::-1]

    @property
    def leaves(self) -> list[int]:
        return [token for token in range(self.size) if token not in self.parents]


@st.composite
def trees(draw: st.DrawFn, largest: int = 24) -> Tree:
    """In depth-first order a token's parent is the one before it or one of that one's ancestors, or none."""
    parents = [-1]
    for token in range(1, draw(st.integers(2, largest))):
        line = Tree(tuple(parents)).path(token - 1)
        # Mostly chains, as in text.
        parents.append(draw(st.sampled_from([token - 1, token - 1, token - 1, *line, -1])))
    return Tree(tuple(parents))
