"""Loading, training and checking tokenizers; documents as examples."""

import pytest

from ilpjax.data import check_tokenizer, load_tokenizer, text_examples, train_tokenizer
from ilpjax.errors import InputError


def test_trained_tokenizers_are_the_same_round_trip_and_reload(tmp_path):
    texts = ["the cat sat on the mat", "a dog, 12 cats"] * 20
    one, two = train_tokenizer(texts, 300), train_tokenizer(texts, 300)
    assert one.get_vocab() == two.get_vocab()
    assert len(one) <= 300
    assert {one.bos_token, one.eos_token, one.pad_token} == {"<|endoftext|>"}
    one.save_pretrained(tmp_path)
    again = load_tokenizer(tmp_path)
    text = "The cat \u00e9 \U0001f600\n\n\t 12 dogs  ."
    assert again(text)["input_ids"] == one(text)["input_ids"]
    assert again.decode(again(text)["input_ids"]) == text
    assert again.eos_token_id == one.eos_token_id
    with pytest.raises(InputError, match="at least 257"):
        train_tokenizer(texts, 200)


@pytest.mark.shared
def test_vocab_and_merges_are_enough(qwen):
    assert qwen.is_fast
    assert qwen("Hello world")["input_ids"] == [9707, 1879]


@pytest.mark.parametrize("files", [{}, {"tokenizer.json": "{"}, {"qwen.tiktoken": "IQ== 0", "config.json": "{}"}])
def test_no_fast_tokenizer(tmp_path, files):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=r"no fast tokenizer could be loaded .* tokenizer.json") as raised:
        load_tokenizer(tmp_path)
    assert "\n" not in str(raised.value)


def test_a_tokenizer_of_another_model(small):
    highest = max(small.get_vocab().values())
    check_tokenizer(small, highest + 1)
    with pytest.raises(InputError, match=f"highest id is {highest}, but the model's vocabulary has {highest} tokens"):
        check_tokenizer(small, highest)


def test_documents_are_cut_so_that_each_token_is_a_target_once(small):
    texts = ["the of and a to in is you that it " * 5, "he was", "is"]
    examples = text_examples(texts, small, 16)
    for n, text in enumerate(texts):
        pieces = [e for e in examples if e.row == n]
        assert all(2 <= len(e) <= 16 and not e.target_mask[0] and e.target_mask[1:].all() for e in pieces)
        targets = [int(t) for e in pieces for t in e.tokens[e.target_mask]]
        whole = [*small(text, add_special_tokens=False)["input_ids"], small.eos_token_id]
        assert [int(pieces[0].tokens[0]), *targets] == whole
