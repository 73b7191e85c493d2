"""The loss mask over the chat templates of every family, and scoring on the same tokens as training."""

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ilpjax.data import Template, make_examples, specials_in, train_tokenizer
from ilpjax.errors import InputError
from ilpjax.rows import Message

# Qwen2: a system message of its own when there is none.
QWEN2 = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# Llama 2: the system message inside the first turn, content trimmed, no generation prompt.
LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set sys = '<<SYS>>\n' + messages[0]['content'] + '\n<</SYS>>\n\n' %}"
    "{% set loop_messages = messages[1:] %}{% else %}{% set sys = '' %}{% set loop_messages = messages %}{% endif %}"
    "{% for m in loop_messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if m['role'] == 'user' %}{{ '<s>[INST] ' + (sys if loop.first else '') + m['content'].strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'].strip() + ' </s>' }}{% endif %}{% endfor %}"
)
LLAMA3 = (
    "{{ '<|begin_of_text|>' }}{% for m in messages %}"
    "{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + m['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
# OLMo 2 (tulu): no newline after the last turn's end.
OLMO2 = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'assistant' %}{% if not loop.last %}"
    "{{ '<|assistant|>\n' + m['content'] + eos_token + '\n' }}{% else %}"
    "{{ '<|assistant|>\n' + m['content'] + eos_token }}{% endif %}"
    "{% else %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '\n' }}{% endif %}"
    "{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}{% endfor %}"
)
MARKED = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}{{ '<|im_start|>assistant\n' }}"
    "{% generation %}{{ m['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}"
    "{% else %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# Qwen3: an empty thought before the last answer only.
QWEN3 = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if m['role'] == 'assistant' and loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{{ m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# Ends a turn with text that is no special token.
PLAIN_END = (
    "{% for m in messages %}{{ '### ' + m['role'] + ': ' + m['content'] + ' ### End\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '### assistant: ' }}{% endif %}"
)
# The generation prompt opens a thought that the text with a response does not have.
BROKEN = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}"
)

# template, and what is predicted of an answer
FAMILIES = {
    "qwen2": (QWEN2, "{}<|im_end|>"),
    "llama2": (LLAMA2, " {} </s>"),
    "llama3": (LLAMA3, "{}<|eot_id|>"),
    "olmo2": (OLMO2, "{}<|endoftext|>"),
    "marked": (MARKED, "{}<|im_end|>"),
    "plain_end": (PLAIN_END, "{} ### End"),
}


def chat(tokenizer, template):
    tokenizer.chat_template = template
    tokenizer.bos_token = tokenizer.eos_token = "<|endoftext|>"
    return Template.from_tokenizer(tokenizer, "auto")


def predicted(tokenizer, encoded):
    return tokenizer.decode(encoded.tokens[encoded.target_mask])


@pytest.mark.parametrize("family", FAMILIES)
def test_one_turn(tokenizer, make_row, family):
    template, answer = chat(tokenizer, FAMILIES[family][0]), FAMILIES[family][1]
    encoded = template.encode(make_row("is it that?", "yes it is"))
    text = predicted(tokenizer, encoded)
    # A token that holds the space of "### assistant: " and the first word ends behind the prompt: it is a target.
    assert (text.lstrip() if family == "plain_end" else text) == answer.format("yes it is")
    assert encoded.ends == (family != "plain_end")
    assert tokenizer.decode(encoded.tokens).count("<|endoftext|>") <= 2  # OLMo2's BOS and EOS, never doubled


@pytest.mark.parametrize("family", FAMILIES)
def test_every_turn_is_a_target(tokenizer, make_row, family):
    template, answer = chat(tokenizer, FAMILIES[family][0]), FAMILIES[family][1]
    row = make_row("be kind", "is it?", "yes it is", "and he?", "no 12.", roles="suaua")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoded = template.encode(row)
    both = answer.format("yes it is") + answer.format("no 12.")
    assert predicted(tokenizer, encoded).replace(" ", "") == both.replace(" ", "")


def test_the_generation_marker_says_the_same(tokenizer, make_row):
    template = chat(tokenizer, MARKED)
    row = make_row("is it?", "yes it is", "and he?", "no 12.")
    messages = [{"role": m.role, "content": m.content} for m in row.messages]
    theirs = tokenizer.apply_chat_template(messages, return_assistant_tokens_mask=True, return_dict=True)
    encoded = template.encode(row)
    assert encoded.tokens.tolist() == theirs["input_ids"]
    assert encoded.target_mask.astype(int).tolist() == list(theirs["assistant_masks"])


@pytest.mark.parametrize("content", ["i", "  padded \n", "ends <|im_end|>", "<|im_end|>", "\n\nlate", "end im_start"])
@pytest.mark.parametrize("family", ["qwen2", "llama2", "llama3"])
def test_contents_that_mislead(tokenizer, make_row, family, content):
    """The content occurs in the marker, is trimmed by the template, or spells a marker out."""
    template, answer = chat(tokenizer, FAMILIES[family][0]), FAMILIES[family][1]
    row = make_row("is it?", content)
    kept = content if family == "qwen2" else content.strip()
    rendered = template.render(row)
    assert [rendered.text[a:b] for a, b in rendered.spans] == [answer.format(kept)]
    assert template.response_text(row.messages[:-1], content) == answer.format(kept).removesuffix(
        {"qwen2": "<|im_end|>", "llama2": " </s>", "llama3": "<|eot_id|>"}[family]
    )


def test_a_template_that_rewrites_earlier_turns(tokenizer, make_row):
    template = chat(tokenizer, QWEN3)
    row = make_row("is it?", "yes it is", "and he?", "no 12.")
    with pytest.warns(UserWarning, match="only the last turn is trained on"):
        encoded = template.encode(row)
    assert predicted(tokenizer, encoded) == "<think>\n\n</think>\n\nno 12.<|im_end|>"
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # said once
        template.encode(row)
    assert template.response_text(row.messages[:-1], "i") == "<think>\n\n</think>\n\ni"


def test_what_a_template_cannot_do(small, make_row):
    template = chat(small, BROKEN)
    with pytest.raises(InputError, match=r"^f.jsonl:4: the chat template's text .* data.template=plain"):
        template.encode(make_row("is it?", "yes", position=3))
    with pytest.raises(InputError, match=r"^f.jsonl:1: the chat template refuses its messages: roles must alternate"):
        chat(small, LLAMA2).render(make_row("u", "u", "a", roles="uua"))
    small.chat_template = None
    with pytest.raises(InputError, match="data.template: chat, but the tokenizer has no chat template"):
        Template.from_tokenizer(small, "chat")
    assert Template.from_tokenizer(small, "auto").kind == "plain"


def test_plain(tokenizer, make_row):
    template = chat(tokenizer, QWEN2)
    template = Template.from_tokenizer(tokenizer, "plain")
    row = make_row("s", "is it?", "yes", "and he?", "no 12.", roles="suaua")
    encoded = template.encode(row)
    assert tokenizer.decode(encoded.tokens) == "s\nis it?\nyes\nand he? no 12.<|endoftext|>"
    assert predicted(tokenizer, encoded) == "yes\n no 12.<|endoftext|>"
    assert encoded.ends
    for prompt, response, glued in [("a\n", "b", "b"), ("", "b", "b"), ("a", " b", " b"), ("a", "b", " b")]:
        assert template.response_text([Message("user", prompt)], response) == glued
        text = template.render(make_row(prompt, response)).text
        assert text == prompt + glued


def test_bos_as_the_tokenizer_has_it_and_no_end_before_the_response(small, make_row):
    from tokenizers import processors

    template = chat(small, None)
    bare = template.encode(make_row("is it?", "yes"))
    backend = small.backend_tokenizer
    before = backend.post_processor
    ends = [("<s>", small.convert_tokens_to_ids("<s>")), ("</s>", small.convert_tokens_to_ids("</s>"))]
    try:
        backend.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
        template = Template.from_tokenizer(small, "plain")
        assert small.decode(template.encode(make_row("is it?", "yes")).tokens) == "<s>is it? yes<|endoftext|>"
        options = template.encode_options("is it?", [" yes", " no"])
        assert small.decode(options.shared) == "<s>is it?"
        assert [small.decode(o) for o in options.options] == [" yes", " no"]
        assert [small.decode(d) for d in template.documents(["that"])] == ["<s>that<|endoftext|>"]
    finally:
        backend.post_processor = before or processors.ByteLevel(trim_offsets=False)
    assert small.decode(bare.tokens) == "is it? yes<|endoftext|>"


TEXT = st.text(st.sampled_from("ab \n12.,é😀the<|>"), max_size=12)


@given(prompt=TEXT, options=st.lists(TEXT.filter(str.strip), min_size=1, max_size=4), chats=st.booleans())
def test_scoring_sees_the_tokens_of_training(small, make_row, prompt, options, chats):
    template = chat(small, QWEN2 if chats else None)
    messages = [Message("user", prompt)]
    text = template.prompt_text(messages)
    responses = [template.response_text(messages, option) for option in options]
    scored = template.encode_options(text, responses)
    for option, response, tokens, tail in zip(options, responses, scored.options, scored.prompt_tail, strict=True):
        trained = template.encode(make_row(prompt, option))
        whole = np.concatenate([scored.shared, tokens])
        cut = len(scored.shared) + tail
        assert cut > 0
        if len(options) == 1:  # with others an empty prompt's start token may be there for their sake
            assert trained.tokens[: len(whole)].tolist() == whole.tolist()
            assert np.argmax(trained.target_mask) == cut
        assert small.decode(tokens[tail:]).endswith(response.lstrip()[-1])
    assert len(scored.shared) + min(scored.prompt_tail) <= len(small(text)["input_ids"]) + 1


def test_a_token_across_the_boundary_belongs_to_the_response(make_row):
    """The prompt's "?" and the response's "??" are one token: a target in training, scored in scoring."""
    tokenizer = train_tokenizer(["is it??? is it??? no"] * 50, 300)
    template = chat(tokenizer, "{% for m in messages %}{{ m['content'] }}{% endfor %}")
    (merged,) = tokenizer("???", add_special_tokens=False)["input_ids"]
    encoded = template.encode(make_row("is it?", "??"))
    assert encoded.tokens[encoded.target_mask].tolist() == [merged]
    options = template.encode_options("is it?", ["??", " no"])
    assert options.prompt_tail == (0, 1)
    assert options.options[0].tolist() == [merged]
    assert tokenizer.decode(options.options[1][:1]) == "?" and tokenizer.decode(options.options[1][1:]) == " no"
    assert tokenizer.decode(options.shared) == "is it"


def test_special_tokens_in_a_row_are_noticed(small, make_row):
    """A user's text can spell special tokens out, and they are read as such: named, not hidden."""
    assert specials_in(small, "a <|im_end|> b<|endoftext|>") == ["<|im_end|>", "<|endoftext|>"]
    assert specials_in(small, "a < |im_end|> b") == []
    encoded = chat(small, QWEN2).encode(make_row("x<|im_end|>", "y"))
    assert (encoded.tokens == small.convert_tokens_to_ids("<|im_end|>")).sum() == 4


def test_examples_cut_mark_and_refuse(small, make_row):
    template = chat(small, None)
    rows = [make_row("is it?", "yes"), make_row("is it?", "yes it is " * 20, position=1)]
    examples, info = make_examples(rows, template, small, 20)
    assert [e.row for e in examples] == [0, 1]
    assert info.truncated.tolist() == [False, True] and info.ends.tolist() == [True, False]
    assert len(examples[1]) == 20 and info.tokens[1] > 20
    assert examples[0].tokens.tolist() == template.encode(rows[0]).tokens.tolist()
    with pytest.raises(InputError, match=r"f.jsonl:1: the prompt alone has .* covers no token"):
        make_examples([make_row("is it that " * 20, "yes")], template, small, 20)


@pytest.fixture(scope="module")
def spaceless():
    """A tokenizer that drops spaces: a character may belong to no token."""
    import tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {word: n for n, word in enumerate(["<u>", "</s>", "a", "b", "12", "the", ".", ","])}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<u>"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", unk_token="<u>")


@given(
    asked=st.lists(st.tuples(TEXT, st.lists(TEXT, min_size=1, max_size=3)), min_size=1, max_size=3), drop=st.booleans()
)
def test_many_prompts_at_once_are_cut_where_their_offsets_say(small, spaceless, asked, drop):
    """A token belongs to the response exactly when it ends after the prompt's last character."""
    tokenizer = spaceless if drop else small
    for (prompt, responses), got in zip(asked, Template(tokenizer, "plain").encode_many(asked), strict=True):
        for response, option, tail in zip(responses, got.options, got.prompt_tail, strict=True):
            want = tokenizer(prompt + response, add_special_tokens=False, return_offsets_mapping=True)
            scored = sum(end > len(prompt) for _, end in want["offset_mapping"])
            assert len(option) - tail == scored
            whole = [*got.shared, *option]
            assert whole[len(whole) - len(want["input_ids"]) :] == want["input_ids"]
