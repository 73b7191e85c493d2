"""Rows from files and hub sets, templates, choices, packing, loaders."""

from ilpjax.data.examples import Example, RowTokens, make_examples, text_examples
from ilpjax.data.loader import Loader
from ilpjax.data.packing import Batch, pack, plan_epoch
from ilpjax.data.template import Encoded, OptionTokens, Rendered, Template
from ilpjax.data.tokenizer import check_tokenizer, load_tokenizer, special_tokens, specials_in, train_tokenizer

__all__ = [
    "Batch",
    "Encoded",
    "Example",
    "Loader",
    "OptionTokens",
    "Rendered",
    "RowTokens",
    "Template",
    "check_tokenizer",
    "load_tokenizer",
    "make_examples",
    "pack",
    "plan_epoch",
    "special_tokens",
    "specials_in",
    "text_examples",
    "train_tokenizer",
]
