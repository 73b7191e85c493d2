"""Rows from files and hub sets, templates, choices, packing, loaders."""

from ilpjax.data.buckets import buckets, colour, together
from ilpjax.data.choices import answer_type, make_items, normalise
from ilpjax.data.examples import Example, RowTokens, make_examples, text_examples
from ilpjax.data.items import Items, read_items
from ilpjax.data.loader import Loader
from ilpjax.data.packing import Batch, Order, pack, plan_epoch
from ilpjax.data.sources import read_rows, read_texts
from ilpjax.data.tables import items_from_table, items_table, rows_from_table, rows_table
from ilpjax.data.template import Encoded, OptionTokens, Rendered, Template
from ilpjax.data.tokenizer import check_tokenizer, load_tokenizer, special_tokens, specials_in, train_tokenizer

__all__ = [
    "Batch",
    "Encoded",
    "Example",
    "Items",
    "Loader",
    "OptionTokens",
    "Order",
    "Rendered",
    "RowTokens",
    "Template",
    "answer_type",
    "buckets",
    "check_tokenizer",
    "colour",
    "items_from_table",
    "items_table",
    "load_tokenizer",
    "make_examples",
    "make_items",
    "normalise",
    "pack",
    "plan_epoch",
    "read_items",
    "read_rows",
    "read_texts",
    "rows_from_table",
    "rows_table",
    "special_tokens",
    "specials_in",
    "text_examples",
    "together",
    "train_tokenizer",
]
