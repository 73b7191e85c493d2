"""Rows that contradict each other: near in meaning, and their answers differ."""

from ilpjax.conflicts.answers import KINDS, OPEN, SAME, compare
from ilpjax.conflicts.approximate import approximate_pairs
from ilpjax.conflicts.encode import Encoder, default_encoder, encode_to, load_encoder
from ilpjax.conflicts.graph import STEPS, contradictions
from ilpjax.conflicts.lexical import lexical_vectors
from ilpjax.conflicts.pairs import similar_pairs, similar_pairs_reference
from ilpjax.conflicts.stage import (
    LEXICAL_THRESHOLD,
    OUTPUTS,
    Likeness,
    check_settings,
    find_pairs,
    judge_pairs,
    tell,
)

__all__ = [
    "KINDS",
    "LEXICAL_THRESHOLD",
    "OPEN",
    "OUTPUTS",
    "SAME",
    "STEPS",
    "Encoder",
    "Likeness",
    "approximate_pairs",
    "check_settings",
    "compare",
    "contradictions",
    "default_encoder",
    "encode_to",
    "find_pairs",
    "judge_pairs",
    "lexical_vectors",
    "load_encoder",
    "similar_pairs",
    "similar_pairs_reference",
    "tell",
]
