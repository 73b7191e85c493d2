"""The real files: each is read whole, or refused for what is really wrong with it."""

import numpy as np
import pytest

from ilpjax.config import DataConfig
from ilpjax.data import Loader, Template, make_examples, make_items, normalise, read_rows, specials_in
from ilpjax.errors import InputError

pytestmark = pytest.mark.shared

FREE = {"dolly_3k": 1900, "lima": 688, "gsm8k_train": 2000, "llms_from_scratch": 700, "gpteacher_codegen": 1000}
NATIVE = {
    "arc_challenge_train": 735,
    "arc_challenge_test": 781,
    "arc_challenge_val": 188,
    "arc_easy_train": 1000,
    "arc_easy_test": 1000,
    "arc_easy_val": 355,
    "commonsenseqa_train": 2000,
    "commonsenseqa_dev": 800,
    "openbookqa_train": 1500,
    "openbookqa_val": 330,
    "medmcqa_dev": 2000,
    "medqa_us_4opt_test": 800,
    "medqa_en_5opt_test": 800,
    "mmlu_val": 1000,
    "social_i_qa_val": 1200,
    "piqa_val": 1000,
    "sciq_val": 647,
}


def read(shared, name, **settings):
    return read_rows(str(shared / f"{name}.jsonl.gz"), DataConfig(**settings))


@pytest.mark.parametrize("name", NATIVE)
def test_native_sets(shared, name):
    rows = read(shared, name)
    assert len(rows) == NATIVE[name] == len({row.row_id for row in rows})
    for row in rows:
        assert row.prompt.startswith("Question: ") and row.prompt.endswith("\nAnswer:")
        assert row.options[row.answer] == row.response and len(row.options) >= 2
    assert {row.answer for row in rows} >= {0, 1}


def test_answers_of_known_records(shared):
    """Spot checks by hand: an off-by-one base would give the neighbouring option."""
    texts = {name: read(shared, name, limit=2000) for name in ("medqa_us_4opt_test", "mmlu_val", "medmcqa_dev")}
    rhone = next(r for r in texts["mmlu_val"] if "Rhone River" in r.prompt)
    assert rhone.response == "Mediterranean Sea"
    graft = next(r for r in texts["medmcqa_dev"] if r.row_id == "04c8a800-af32-40fb-b60e-45d64d189679")
    assert graft.response == "Class IV"
    assert all(row.options.index(row.response) == row.answer for row in texts["medqa_us_4opt_test"])


@pytest.mark.parametrize("name", FREE)
def test_free_form_sets_become_items(shared, name):
    rows = read(shared, name, limit=700)
    items = make_items(rows, 4, 0)
    assert len(items) == min(700, FREE[name])
    by_id = {row.row_id: row for row in rows}
    for item in items:
        assert item.options[item.answer] == by_id[item.row_id].response
        assert len({normalise(option) for option in item.options}) == len(item.options) >= 2
    assert np.mean([len(item.options) == 4 for item in items]) > 0.98
    places = np.bincount([item.answer for item in items], minlength=4) / len(items)
    assert places.min() > 0.18


def test_alpaca_has_an_empty_response_and_says_where(shared):
    with pytest.raises(InputError, match=r"alpaca_9k.jsonl.gz, line 2171: the response is empty; remove the record"):
        read(shared, "alpaca_9k")
    assert len(read(shared, "alpaca_9k", limit=2000)) == 2000  # what stands before it can be used


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nq_open_dev", '"answer" is a list; text is right'),
        ("boolq_val", '"answer" is a boolean; text is right'),
        ("bbh", "no known format; accepted are"),
        ("xsum_test_1000", "no known format; accepted are"),
    ],
)
def test_sets_of_another_kind_are_refused(shared, name, words):
    with pytest.raises(InputError) as raised:
        read(shared, name)
    assert words in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize("kind", ["chat", "plain"])
def test_the_whole_way_to_batches(shared, qwen, kind):
    rows = [row for name in ("dolly_3k", "commonsenseqa_dev", "lima") for row in read(shared, name, limit=300)]
    template = Template.from_tokenizer(qwen, kind)
    with pytest.raises(InputError, match=r"dolly_3k.jsonl.gz:123: the prompt alone has 8\d\d tokens"):
        make_examples(rows, template, qwen, 512)
    examples, info = make_examples(rows, template, qwen, 2048)
    assert info.ends[~info.truncated].all() and 0 < info.truncated.sum() < 300
    for row, example, cut in zip(rows, examples, info.truncated, strict=True):
        text = qwen.decode(example.tokens[example.target_mask])
        if not cut and len(row.messages) == 2:
            text = text.removesuffix(qwen.eos_token).strip()
            # One token may hold the end of the prompt and the beginning of the response ("?" and a newline): a target.
            assert text.endswith(row.response.strip()) and len(text) <= len(row.response.strip()) + 2
    visited = [
        int(r) for batch in Loader(examples, seq_len=2048, batch=8, epochs=1, seed=0) for r in batch["rows"].ravel()
    ]
    assert sorted(r for r in visited if r >= 0) == list(range(len(rows)))


def test_ready_made_end_markers_are_noticed(shared, qwen):
    rows = read(shared, "t0_p3", limit=200)
    assert sum(bool(specials_in(qwen, row.response)) for row in rows) > 150
