"""The strings that were scored, scored again by transformers and by lm-eval's rule."""

import numpy as np
import pandas as pd
import pytest

from ilpjax.config import ScoreConfig
from ilpjax.models import save_model
from ilpjax.scoring import score_items

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("protocol", ["cloze", "letter"])
def test_prompt_text_plus_option_text_gives_the_logprob(tmp_path, tiny, plain, items, mesh, protocol):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model, params = tiny
    save_model(tmp_path / "model", model, params, tokenizer=plain.tokenizer)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    peer = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    cfg = ScoreConfig(texts=True, protocol=protocol, orders=2)
    score_items(model, params, plain, items[:20], cfg, mesh=mesh, seed=0, out=tmp_path / "s.parquet")
    for line in pd.read_parquet(tmp_path / "s.parquet").itertuples():
        for logprob, tokens, text in zip(line.option_logprob, line.option_tokens, line.option_texts, strict=True):
            # lm-eval: the continuation is what the joint string has beyond as many tokens as the context alone has.
            context, whole = tokenizer(line.prompt_text).input_ids, tokenizer(line.prompt_text + text).input_ids
            with torch.no_grad():
                logits = peer(torch.tensor([whole])).logits[0].log_softmax(-1)
            want = sum(float(logits[n - 1, whole[n]]) for n in range(len(context), len(whole)))
            assert tokens == len(whole) - len(context)
            np.testing.assert_allclose(logprob, want, rtol=1e-5, atol=1e-4)
