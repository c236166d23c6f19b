from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from tests.training.small_models import tiny_checkpoint, tiny_tokenizer
from training.chat import DEFAULT_TEMPLATE, load_template, read_source

TEMPLATE = "{{ bos_token }}{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"


def test_what_transformers_saves_is_read(tmp_path: Path) -> None:
    for one_file in (True, False):
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=tiny_tokenizer(), chat_template=TEMPLATE)
        folder = tmp_path / str(one_file)
        tokenizer.save_pretrained(folder, save_jinja_files=not one_file)
        assert (folder / "chat_template.jinja").exists() != one_file
        assert read_source(folder) == TEMPLATE
    named = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": TEMPLATE}]
    (folder / "chat_template.jinja").unlink()
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
    assert read_source(folder) == TEMPLATE
    assert read_source(tmp_path) is None


def test_a_checkpoint_names_its_template_or_gets_the_default(tmp_path: Path) -> None:
    template = load_template(tiny_checkpoint(tmp_path / "plain"))
    assert template.source == DEFAULT_TEMPLATE
    template = load_template(tiny_checkpoint(tmp_path / "tuned", chat_template=TEMPLATE))
    assert template.render([{"role": "user", "content": "a"}]) == "<|endoftext|>a<|endoftext|>"


def test_damage_is_named(tmp_path: Path) -> None:
    for name, content, message in (
        ("tokenizer_config.json", "{", "tokenizer_config.json: cannot be read"),
        ("tokenizer_config.json", '{"chat_template": 3}', "chat_template: expected the text"),
        ("chat_template.json", "[]", "chat_template.json: expected a JSON object"),
        ("chat_template.jinja", "{% if %}", "chat_template.jinja: the chat template is not valid, line 1"),
        ("chat_template.jinja", "x" * (1 << 21), "larger than"),
    ):
        (tmp_path / name).write_text(content)
        with pytest.raises(ValueError, match=message):
            read_source(tmp_path)
