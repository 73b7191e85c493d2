"""Option log-probs on the token tree."""

from ilpjax.scoring.forward import Scorer, batch_shapes, option_scores, option_scores_reference, score_batch
from ilpjax.scoring.pack import Packer, Shape, choose_base, fill, stack, unstack
from ilpjax.scoring.protocols import Ask, ask, option_probabilities, permutation
from ilpjax.scoring.score import run_score, score_items
from ilpjax.scoring.tree import Tree, cut_left, grow

__all__ = [
    "Ask",
    "Packer",
    "Scorer",
    "Shape",
    "Tree",
    "ask",
    "batch_shapes",
    "choose_base",
    "cut_left",
    "fill",
    "grow",
    "option_probabilities",
    "option_scores",
    "option_scores_reference",
    "permutation",
    "run_score",
    "score_batch",
    "score_items",
    "stack",
    "unstack",
]
