"""Option log-probs on the token tree; N samples from one prefill."""

from ilpjax.scoring.forward import Scorer, batch_shapes, option_scores, option_scores_reference, score_batch
from ilpjax.scoring.generate import SampleShape, decode, prefill
from ilpjax.scoring.matching import match, named_option
from ilpjax.scoring.pack import Packer, Shape, choose_base, fill, stack, unstack
from ilpjax.scoring.protocols import LABELS, Ask, ask, option_probabilities, permutation
from ilpjax.scoring.sample import run_sample, sample_rows, stop_ids
from ilpjax.scoring.sampler import Answer, Prompt, Sampler, sample_specs
from ilpjax.scoring.score import run_score, score_items, score_with
from ilpjax.scoring.tree import Tree, cut_left, grow

__all__ = [
    "LABELS",
    "Answer",
    "Ask",
    "Packer",
    "Prompt",
    "SampleShape",
    "Sampler",
    "Scorer",
    "Shape",
    "Tree",
    "ask",
    "batch_shapes",
    "choose_base",
    "cut_left",
    "decode",
    "fill",
    "grow",
    "match",
    "named_option",
    "option_probabilities",
    "option_scores",
    "option_scores_reference",
    "permutation",
    "prefill",
    "run_sample",
    "run_score",
    "sample_rows",
    "sample_specs",
    "score_batch",
    "score_items",
    "score_with",
    "stack",
    "stop_ids",
    "unstack",
]
