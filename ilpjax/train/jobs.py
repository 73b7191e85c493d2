"""The stages: SFT on rows, pre-training on text."""

import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import pandas as pd
from transformers import PreTrainedTokenizerBase

from ilpjax.config import CPTJob, NewModel, SFTJob, TrainConfig
from ilpjax.data import (
    Template,
    check_tokenizer,
    load_tokenizer,
    make_examples,
    read_rows,
    read_texts,
    text_examples,
    train_tokenizer,
)
from ilpjax.errors import InputError
from ilpjax.models import ModelSpec, init_model, load_model, read_spec, resolve, save_model
from ilpjax.parallel import make_mesh
from ilpjax.rundir import RunDir, read_table
from ilpjax.train.loop import check_batch, fit


def run_sft(job: SFTJob) -> None:
    """Fine-tunes `base` on the responses of `rows`; OUT/tuned is a Hugging Face folder.

    Raises InputError for whatever does not fit (the tokenizer, a row, the batch) and what `fit` raises.
    """
    out, mesh = RunDir(job.out), make_mesh(job.mesh)
    check_batch(job.sft, mesh)
    check_conflicts(job.sft)
    base = resolve(job.base)
    tokenizer = load_tokenizer(str(base))
    check_tokenizer(tokenizer, read_spec(base).vocab)
    rows = read_rows(job.rows, job.data)
    template = Template.from_tokenizer(tokenizer, job.data.template)
    examples, _ = make_examples(rows, template, tokenizer, job.data.max_tokens)
    ids = [row.row_id for row in rows]
    model, params = load_model(str(base), mesh)
    sets = {name: n for n, name in enumerate(dict.fromkeys(row.dataset for row in rows))}
    blocks = [sets[rows[example.row].dataset] for example in examples]
    common: Any = {"mesh": mesh, "seed": job.seed, "out": out, "name": "sft", "made_from": [base]}
    edges = conflict_edges(job.sft.conflicts, [ids[example.row] for example in examples])
    params = fit(model, params, examples, ids, job.sft, blocks=blocks, edges=edges, **common)
    save_model(out / "tuned", model, params, tokenizer=tokenizer)


def check_conflicts(cfg: TrainConfig) -> None:
    """Before anything is computed. Raises InputError for a file that is no table of pairs, or an order without
    buckets."""
    if cfg.conflicts is None:
        return
    if cfg.order != "shuffle":
        raise InputError(f"sft.order: {cfg.order} with sft.conflicts, whose buckets are shuffled; shuffle is right")
    _read_pairs(cfg.conflicts)


def conflict_edges(file: str | None, ids: Sequence[str]) -> list[tuple[int, int]]:
    """The pairs of a conflicts.parquet as places in `ids`; a line on stderr says how many name rows that are not there.

    Raises InputError where the file is no such table.
    """
    if file is None:
        return []
    table = _read_pairs(file)
    place = {row_id: n for n, row_id in enumerate(ids)}
    pairs = list(zip(table["row_a"], table["row_b"], strict=True))
    here = [(place[a], place[b]) for a, b in pairs if a in place and b in place]
    lost = len(pairs) - len(here)
    if lost and jax.process_index() == 0:
        print(f"conflicts: {lost} of {len(pairs)} pairs name rows that are not trained on", file=sys.stderr, flush=True)
    return sorted({(min(edge), max(edge)) for edge in here})


def _read_pairs(file: str) -> pd.DataFrame:
    table = read_table(file)
    for column in ("row_a", "row_b"):
        if column not in table:
            raise InputError(f"{file}: no column {column}; a conflicts.parquet would be right")
    if len(same := table[table["row_a"] == table["row_b"]]):
        raise InputError(f"{file}: row {same['row_a'].iloc[0]!r} is paired with itself; two rows would be right")
    return table


def run_cpt(job: CPTJob) -> None:
    """Pre-trains on `text`, from `base` or from scratch; OUT/model is a Hugging Face folder.

    Raises InputError unless exactly one of `base` and `new` is given; else as `run_sft`.
    """
    if (job.base is None) == (job.new is None):
        raise InputError("base, new: give one of them, a model to continue from or the config of one to begin")
    if job.new is not None:  # a config that cannot be built is told before any text is read
        ModelSpec.from_config(job.new.config | {"vocab_size": job.new.vocab}, "new.config")
    if job.cpt.conflicts is not None:
        raise InputError("cpt.conflicts: documents have no rows that contradict each other; sft.conflicts is right")
    out, mesh = RunDir(job.out), make_mesh(job.mesh)
    check_batch(job.cpt, mesh)
    base = resolve(job.base) if job.base else None
    texts = read_texts(job.text, job.split, job.limit)
    if base is not None:
        tokenizer = load_tokenizer(str(base))
        check_tokenizer(tokenizer, read_spec(base).vocab)
        model, params = load_model(str(base), mesh)
    else:
        assert job.new is not None
        tokenizer = new_tokenizer(texts, job.new)
        spec = new_spec(job.new, tokenizer)
        model, params = init_model(spec, jax.random.key(job.seed), mesh)
    examples = text_examples(texts, tokenizer, job.cpt.seq_len)
    ids = [f"text-{n}" for n in range(len(texts))]
    made_from = [base] if base else []
    params = fit(
        model, params, examples, ids, job.cpt, mesh=mesh, seed=job.seed, out=out, name="cpt", made_from=made_from
    )
    save_model(out / "model", model, params, tokenizer=tokenizer)


def new_tokenizer(texts: Sequence[str], new: NewModel) -> PreTrainedTokenizerBase:
    """A tokenizer trained on the text, as everyone will load it from the model's folder.

    `transformers` chooses some families' splitting rule by config.json and not by what is saved (Qwen2's), so the one
    that was trained may cut text in other places than the one that is read back.
    """
    with tempfile.TemporaryDirectory() as folder:
        train_tokenizer(texts, new.vocab).save_pretrained(folder)
        (Path(folder) / "config.json").write_text(json.dumps(new.config), encoding="utf-8")
        return load_tokenizer(folder)


def new_spec(new: NewModel, tokenizer: PreTrainedTokenizerBase) -> ModelSpec:
    """The config of a model to begin, with the vocabulary and the special tokens of its tokenizer filled in."""
    filled = {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    return ModelSpec.from_config(new.config | filled, "new.config")
