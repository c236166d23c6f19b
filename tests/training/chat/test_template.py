"""Chat templates against transformers' apply_chat_template."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from tests.training.small_models import tiny_tokenizer
from training.chat import DEFAULT_TEMPLATE, ChatTemplate, answer_ends, fit_history, render

CHATML = """{% for message in messages %}
{% if loop.first and message.role != 'system' %}{{ '<|im_start|>system\\nBe kind.<|im_end|>\\n' }}{% endif %}
{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
{% endfor %}
{% if add_generation_prompt %}
{{ '<|im_start|>assistant\\n' }}
{%- endif %}"""
MARKED = """{{ bos_token }}{% set names = namespace(last='') -%}
{% for message in messages -%}
{% if message.role == names.last %}{{ raise_exception('roles must alternate') }}{% endif %}
{% if message.role == 'assistant' %}A:{% generation %} {{ message.content | trim }}{{ eos_token }}{% endgeneration %}
{% else %}{{ message.role[0] | upper }}: {{ {'text': message.content} | tojson }}{% endif %}
{% set names.last = message.role %}
{% if loop.index > 20 %}{% break %}{% endif %}
{% endfor %}"""
DIALOGUE = [
    {"role": "user", "content": " 你好 <b>&amp;"},
    {"role": "assistant", "content": "Hello\n there! "},
    {"role": "user", "content": "Bye"},
    {"role": "assistant", "content": "🧡"},
]
MESSAGES = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant"]), "content": st.text(max_size=12)}),
    min_size=1,
    max_size=5,
)


def theirs() -> Any:
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    end = "<|endoftext|>"
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=end, eos_token=end)


THEIRS = theirs()


def ours(source: str) -> ChatTemplate:
    return ChatTemplate(source, "<|endoftext|>", "<|endoftext|>")


@pytest.mark.parametrize("source", [CHATML, DEFAULT_TEMPLATE])
@given(MESSAGES, st.booleans())
def test_text_is_that_of_transformers(source: str, messages: list[dict[str, str]], answer: bool) -> None:
    expected = THEIRS.apply_chat_template(messages, chat_template=source, tokenize=False, add_generation_prompt=answer)
    assert ours(source).render(messages, answer) == expected


def test_generation_blocks_are_the_tokens_that_transformers_masks() -> None:
    expected = THEIRS.apply_chat_template(
        DIALOGUE, chat_template=MARKED, return_dict=True, return_assistant_tokens_mask=True
    )
    text, spans = ours(MARKED).answers(DIALOGUE)
    assert text == ours(MARKED).render(DIALOGUE)
    encoding = tiny_encoding(text)
    inside = [int(any(a <= start < b for a, b in spans)) for start, _ in encoding.offsets]
    assert encoding.ids == expected["input_ids"]
    assert inside == expected["assistant_masks"]
    assert [text[a:b] for a, b in spans] == [" Hello\n there!<|endoftext|>", " 🧡<|endoftext|>"]


def tiny_encoding(text: str) -> Any:
    return THEIRS.backend_tokenizer.encode(text, add_special_tokens=False)


def test_answers_are_what_a_template_adds_to_the_question() -> None:
    text, spans = ours(CHATML).answers(DIALOGUE)
    assert [text[a:b] for a, b in spans] == ["Hello\n there! <|im_end|>", "🧡<|im_end|>"]
    text, spans = ours(DEFAULT_TEMPLATE).answers(DIALOGUE)
    assert [text[a:b] for a, b in spans] == [" Hello\n there!<|endoftext|>", " 🧡<|endoftext|>"]
    assert all(text[:a].endswith("Assistant:") for a, _ in spans)
    forgetful = "{% for m in messages %}{{ m.content if loop.last else m.content | length }};{% endfor %}"
    with pytest.raises(ValueError, match=r"messages\[1\]: the chat template renders this dialogue otherwise"):
        ours(forgetful).answers(DIALOGUE)


def test_ends_of_an_answer() -> None:
    tokenizer = THEIRS.backend_tokenizer
    ends = answer_ends(ours(CHATML), tokenizer)
    assert (ends.ids, ends.strings) == ((tokenizer.token_to_id("<|im_end|>"),), ())
    plain = tiny_tokenizer()
    assert answer_ends(ours(CHATML), plain).strings == ("<|im_end|>",)
    ends = answer_ends(ours(DEFAULT_TEMPLATE), plain)
    assert (ends.ids, ends.strings) == ((0,), ("\n\nUser:",))
    assert answer_ends(ours("{{ raise_exception('no') }}"), plain).strings == ()


@pytest.mark.parametrize(
    "attack",
    [
        "{{ messages.__class__.__mro__ }}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ namespace.__init__.__globals__ }}",
        "{{ raise_exception.__globals__.x }}",
        "{{ messages[0].items.__self__.x }}",
        "{% set n = namespace() %}{% set n.__class__ = 1 %}",
        "{% include '/etc/passwd' %}",
        "{{ 'x' * 10 ** 12 }}",
        "{{ [[1]] * 99999999 }}",
        "{{ 9 ** 9 ** 9 }}",
        "{% for i in range(99999) %}{{ 'x' * 9999 }}{% endfor %}",
        "{% for i in range(999999) %}{% endfor %}",
    ],
)
def test_a_hostile_template_can_do_nothing(attack: str) -> None:
    with pytest.raises(ValueError, match="refuses these messages"):
        render(DIALOGUE, ChatTemplate(attack))


def test_mistakes_are_named() -> None:
    for messages, message in (
        ([], "messages: empty"),
        ("hello", "messages: expected a list"),
        ([{"role": "user"}], r"messages\[0\].content: expected a string"),
        ([{"role": "", "content": "x"}], r"messages\[0\].role: empty"),
        (["x"], r"messages\[0\]: expected an object"),
    ):
        with pytest.raises(ValueError, match=message):
            render(messages)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="roles must alternate"):
        ours(MARKED).render([DIALOGUE[0], DIALOGUE[0]])
    with pytest.raises(ValueError, match=r"not valid, line 2: "):
        ChatTemplate("a\n{% for %}")


def test_history_loses_its_oldest_turns() -> None:
    system = {"role": "system", "content": "S"}
    messages = [system, *DIALOGUE, {"role": "user", "content": "last"}]
    template = ours(DEFAULT_TEMPLATE)
    whole = len(template.render(messages, answer=True))
    assert fit_history(template, messages, len, whole) == (messages, 0)
    assert fit_history(template, messages, len, whole - 1) == ([system, *messages[3:]], 2)
    assert fit_history(template, messages, len, 40) == ([system, messages[-1]], 4)
    with pytest.raises(ValueError, match="the last question takes 33 tokens with all around it; .* room for 30"):
        fit_history(template, messages, len, 30)
