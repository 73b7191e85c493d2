"""Option log-probs on the token tree."""

from ilpjax.scoring.forward import Scorer, option_scores, option_scores_reference
from ilpjax.scoring.protocols import Ask, ask, option_probabilities, permutation
from ilpjax.scoring.score import run_score, score_items
from ilpjax.scoring.tree import Tree, cut_left, grow, stack

__all__ = [
    "Ask",
    "Scorer",
    "Tree",
    "ask",
    "cut_left",
    "grow",
    "option_probabilities",
    "option_scores",
    "option_scores_reference",
    "permutation",
    "run_score",
    "score_items",
    "stack",
]
