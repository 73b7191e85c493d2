import json

import jax
import numpy as np
import pytest
from small import CONFIG, base_and_rows, model_on, one_device, table_of

from ilpjax.config import CPTJob, SFTJob
from ilpjax.data import load_tokenizer
from ilpjax.errors import InputError
from ilpjax.models import read_spec, save_model
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


def test_a_config_that_cannot_be_built_is_told_before_text_is_read(tmp_path):
    new = {"config": NEW | {"model_type": "mamba"}, "vocab": 300}
    with pytest.raises(InputError, match="mamba"):
        run_cpt(CPTJob.make({"new": new, "text": str(tmp_path / "absent.txt"), "out": str(tmp_path / "out")}))
