"""Chat templates: what Qwen2.5's renders, and what must not get out of the sandbox."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import jinja2
import pytest

from mimo_mobile.convert.vocabulary import read_vocabulary
from mimo_mobile.errors import SessionError
from mimo_mobile.hub import Source
from mimo_mobile.runtime.text import chat_template
from mimo_mobile.runtime.text.chat_template import ChatTemplate as kind
from mimo_mobile.runtime.text.chat_template import Message, encode_messages, messages_of, render
from mimo_mobile.runtime.text.tokenizer import TextTokenizer
from mimo_mobile.tokenizer_file import read_tokenizer

Prompt = Callable[..., str]


@pytest.fixture(scope="module")
def tokenizer(nano: Source) -> TextTokenizer:
    return TextTokenizer.from_file(nano.path / "tokenizer.json")


@pytest.fixture(scope="module")
def template(nano: Source) -> str:
    text = read_vocabulary(nano.path, 1088).chat_template
    assert text is not None
    return text


@pytest.fixture(scope="module")
def prompt(template: str, tokenizer: TextTokenizer) -> Prompt:
    """The prompt as a text."""

    def prompt(*messages: Message, thinking: bool = True) -> str:
        return "".join(segment.text for segment in render(template, messages, tokenizer, thinking=thinking))

    return prompt


def test_the_system_prompt_is_empty_unless_given(prompt: Prompt) -> None:
    question = Message("user", "2 + 2?")
    empty = "<|im_start|>system\n<|im_end|>\n<|im_start|>user\n2 + 2?<|im_end|>\n<|im_start|>assistant\n"
    assert prompt(question) == empty
    assert prompt(Message("system", "Be brief."), question) == empty.replace("system\n", "system\nBe brief.")


def test_turns_are_rendered_verbatim(prompt: Prompt) -> None:
    messages = [Message("user", "a"), Message("assistant", "<think>\nx\n</think>\n\nb"), Message("user", "c {{ 1 }}")]
    assert prompt(*messages).endswith(
        "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n<think>\nx\n</think>\n\nb<|im_end|>\n"
        "<|im_start|>user\nc {{ 1 }}<|im_end|>\n<|im_start|>assistant\n"
    )


def test_tool_results_share_a_user_turn(prompt: Prompt) -> None:
    text = prompt(Message("user", "q"), Message("tool", "1"), Message("tool", "2"))
    assert (
        "<|im_start|>user\n<tool_response>\n1\n</tool_response>\n<tool_response>\n2\n</tool_response><|im_end|>\n"
        in text
    )


def test_no_thinking_closes_the_block_in_the_prompt(prompt: Prompt) -> None:
    assert prompt(Message("user", "q"), thinking=False).endswith("assistant\n<think>\n</think>\n\n")


def test_messages_in_openais_form_are_the_same(template: str, tokenizer: TextTokenizer) -> None:
    parts = [{"type": "text", "text": "2 + "}, {"type": "text", "text": "2?"}]
    ours = [Message("system", "Be brief."), Message("user", "2 + 2?"), Message("assistant", "4"), Message("tool", "")]
    given = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": parts},
        ours[2],
        {"role": "tool", "content": []},
    ]
    assert messages_of(given) == ours
    assert encode_messages(template, given, tokenizer) == encode_messages(template, ours, tokenizer)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ("hi", "str found, a Message or a dict with role and content expected"),
        (17, "int found, a Message or a dict with role and content expected"),
        ({}, "nothing found, role and content expected"),
        ({"role": "user"}, "role found, role and content expected"),
        ({"role": "user", "content": "", "name": "Ana"}, "role, content, name found, role and content expected"),
        ({"role": "bot", "content": ""}, "role 'bot' found, one of system, user, assistant, tool expected"),
        ({"role": ["user"], "content": ""}, r"role \['user'\] found, one of system, user, assistant, tool expected"),
        (Message("User", "a"), "role 'User' found, one of system, user, assistant, tool expected"),  # type: ignore[arg-type]
        ({"role": "user", "content": None}, "content of NoneType found, a text or a list of text parts expected"),
        (Message("user", b"a"), "content of bytes found, a text or a list of text parts expected"),  # type: ignore[arg-type]
        ({"role": "user", "content": {"text": "a"}}, "content of dict found, a text or a list of text parts expected"),
        ({"role": "user", "content": ["a"]}, r"part 'a' found, \{'type': 'text', 'text': '…'\} expected$"),
        ({"role": "user", "content": [{"type": "text"}]}, r"part \{'type': 'text'\} found, "),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": "x" * 99}]},
            r"part \{'type': 'image_.{44} found",
        ),
    ],
)
def test_what_is_no_message_is_named(given: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=rf"^messages\[1\]: {problem}"):
        messages_of([Message("user", "a"), given])


@pytest.mark.parametrize(
    "attack",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__init__.__globals__ }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{% for i in range(10 ** 9) %}x{% endfor %}",
        "{{ messages.append(1) }}",
        "{% if %}",
        "{{ raise_exception('roles must alternate') }}",
        "{{ 1 / 0 }}",
        "{{ '%c' | format(57343) }}",
        r"{{ '\ud800' }}",
    ],
)
def test_a_hostile_or_broken_template_is_an_error(attack: str, tokenizer: TextTokenizer) -> None:
    with pytest.raises(SessionError, match=r"^chat template: .*; convert the checkpoint again or use a raw prompt$"):
        render(attack, [Message("user", "q")], tokenizer)


def test_a_tokenizers_template_is_compiled_once_and_each_prompt_has_a_budget_of_its_own(
    template: str, tokenizer: TextTokenizer, nano: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    monkeypatch.setattr(chat_template, "ChatTemplate", lambda source, text: made.append(source) or kind(source, text))
    monkeypatch.setattr(jinja2.Environment, "_compile", lambda _, *code: made.append("code") or compile(*code, "exec"))
    asked = [Message("user", "What is 2 + 2?")]
    other = TextTokenizer.from_file(nano.path / "tokenizer.json")
    expected = encode_messages(template, asked, other)
    assert made == [template, "code"]
    for _ in range(3):
        assert encode_messages(template, asked, other) == expected
    assert made == [template, "code"]
    endless = "{% for each in messages[0].content * 300000 %}{{ 1 }}{% endfor %}"
    for _ in range(2):
        with pytest.raises(SessionError, match="steps"):
            render(endless, [Message("system", "a")], other)
    assert encode_messages(template, asked, other) == expected
    assert [each for each in made if each != "code"] == [template, endless, template]


def test_a_template_is_no_other_tokenizers(template: str, tokenizer: TextTokenizer, nano: Source) -> None:
    data = json.loads((nano.path / "tokenizer.json").read_text())
    data["added_tokens"].reverse()
    other = TextTokenizer(read_tokenizer(data))
    assert list(other.special_tokens) != list(tokenizer.special_tokens)
    asked = [Message("user", "What is 2 + 2?")]
    for each in tokenizer, other, tokenizer:
        assert "".join(part.text for part in render(template, asked, each) if part.special) == (
            "<|im_start|><|im_end|><|im_start|><|im_end|><|im_start|>"
        )
