import json

import jax
import numpy as np
import pandas as pd
import pytest
from small import CONFIG, base_and_rows, model_on, one_device, table_of

from ilpjax import pipeline
from ilpjax.config import CPTJob, RunJob, SFTJob
from ilpjax.data import load_tokenizer
from ilpjax.errors import InputError
from ilpjax.models import read_spec, save_model
from ilpjax.rundir import write_table
from ilpjax.train import run_cpt, run_sft

NEW = {key: value for key, value in CONFIG.items() if key != "vocab_size"}
CPT = dict(epochs=1, seq_len=32, batch=8, lr=1e-3, remat=False)


@pytest.mark.slow
def test_pre_trains_from_scratch_and_goes_on(tmp_path):
    texts = [f"The {n}th day was a day of {'rain and ' * (n % 5)}sun." for n in range(40)]
    (tmp_path / "text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    job = dict(text=str(tmp_path / "text.jsonl"), cpt=CPT)
    run_cpt(CPTJob.make(job | {"new": {"config": NEW, "vocab": 300}, "out": str(tmp_path / "a")}))
    model = tmp_path / "a" / "model"
    tokenizer = load_tokenizer(model)
    assert read_spec(model).vocab == len(tokenizer)
    config = json.loads((model / "config.json").read_text())
    assert config["eos_token_id"] == tokenizer.eos_token_id

    dynamics = table_of(tmp_path / "a", "dynamics")
    targets = sum(len(tokenizer(text)["input_ids"]) for text in texts)  # each but its first, and EOS
    assert dynamics["tokens"].sum() == targets
    assert set(dynamics["row_id"]) == {f"text-{n}" for n in range(40)}

    run_cpt(CPTJob.make(job | {"base": str(model), "out": str(tmp_path / "b")}))
    first, second = (table_of(tmp_path / run, "train_log")["loss"] for run in "ab")
    assert second.iloc[0] < first.iloc[0]
    assert np.isclose(second.iloc[0], first.iloc[-1], rtol=0.2)


@pytest.mark.parametrize("given", [{}, {"base": "a", "new": {"config": NEW, "vocab": 300}}])
def test_pre_training_begins_somewhere(tmp_path, given):
    with pytest.raises(InputError, match="base, new: give one of them"):
        run_cpt(CPTJob.make(given | {"text": "x.txt", "out": str(tmp_path / "out")}))
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_of_another_model_is_refused(tmp_path):
    base, rows = base_and_rows(tmp_path)
    tokenizer = load_tokenizer(base)
    model, params = model_on(one_device(), vocab_size=64)
    save_model(tmp_path / "mixed", model, params, tokenizer=tokenizer)
    job = dict(base=str(tmp_path / "mixed"), rows=str(rows), out=str(tmp_path / "out"))
    with pytest.raises(InputError, match="tokenizer: its highest id is"):
        run_sft(SFTJob.make(job))
    with pytest.raises(InputError, match=r"batch: 3 sequences .* 8 devices"):
        run_sft(SFTJob.make(job | {"base": str(base), "sft": {"batch": 3}}))
    assert jax.device_count() == 8
    assert not (tmp_path / "out").exists()


def conflicts(path, *pairs):
    write_table(path, pd.DataFrame(pairs, columns=["row_a", "row_b"]))
    return str(path)


def test_rows_that_contradict_each_other_never_share_a_step(tmp_path, capsys):
    base, rows = base_and_rows(tmp_path, 40)
    pairs = [("r0", "r1"), ("r1", "r2"), ("r2", "r0"), ("r1", "r0"), ("r7", "r9"), ("r3", "elsewhere")]
    file = conflicts(tmp_path / "conflicts.parquet", *pairs)
    sft = {"epochs": 3, "seq_len": 64, "batch": 8, "remat": False, "conflicts": file}
    run_sft(SFTJob.make({"base": str(base), "rows": str(rows), "out": str(tmp_path / "out"), "sft": sft}))
    told = capsys.readouterr().err
    dynamics = table_of(tmp_path / "out", "dynamics")
    steps = dynamics.groupby("row_id")["step"].agg(set)
    assert (dynamics.groupby("epoch")["row_id"].nunique() == 40).all()
    assert all(not steps[a] & steps[b] for a, b in pairs[:-1])
    assert "conflicts: 1 of 6 pairs name rows that are not trained on" in told
    assert f"conflicts: 4 pairs in 3 buckets; checked: none of {dynamics['step'].max()} steps holds both rows" in told


@pytest.mark.parametrize(
    ("sft", "message"),
    [
        ({"conflicts": "nowhere.parquet"}, "nowhere.parquet: no such table"),
        ({"conflicts": "rows.jsonl"}, "rows.jsonl: not a Parquet table"),
        ({"conflicts": "other.parquet"}, "other.parquet: no column row_b; a conflicts.parquet would be right"),
        ({"conflicts": "self.parquet"}, "self.parquet: row 'r1' is paired with itself"),
        ({"conflicts": "good.parquet", "order": "file"}, "sft.order: file with sft.conflicts"),
    ],
)
def test_conflicts_that_cannot_be_kept_apart_are_told_before_training(tmp_path, sft, message):
    base, rows = base_and_rows(tmp_path, 8)
    conflicts(tmp_path / "self.parquet", ("r1", "r1"))
    conflicts(tmp_path / "good.parquet", ("r1", "r2"))
    write_table(tmp_path / "other.parquet", pd.DataFrame({"row_a": ["r1"]}))
    job = {"base": str(base), "rows": str(rows), "out": str(tmp_path / "out")}
    job["sft"] = {"batch": 8} | sft | {"conflicts": str(tmp_path / sft["conflicts"])}
    for entry in (pipeline.run_sft, lambda job: pipeline.run(RunJob.make(job.model_dump()))):
        with pytest.raises(InputError, match=message):
            entry(SFTJob.make(job))
        assert not (tmp_path / "out").exists()


def test_documents_have_no_conflicts(tmp_path):
    job = {"base": "b", "text": "x.txt", "out": str(tmp_path / "out"), "cpt": {"conflicts": "c.parquet"}}
    with pytest.raises(InputError, match="cpt.conflicts: documents have no rows"):
        run_cpt(CPTJob.make(job))


def test_a_config_that_cannot_be_built_is_told_before_text_is_read(tmp_path):
    new = {"config": NEW | {"model_type": "mamba"}, "vocab": 300}
    with pytest.raises(InputError, match="mamba"):
        run_cpt(CPTJob.make({"new": new, "text": str(tmp_path / "absent.txt"), "out": str(tmp_path / "out")}))
