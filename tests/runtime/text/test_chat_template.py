"""Chat templates: what Qwen2.5's renders, and what must not get out of the sandbox."""

from __future__ import annotations

import pytest

from mimo_mobile.convert.vocabulary import read_vocabulary
from mimo_mobile.errors import SessionError
from mimo_mobile.hub import Source
from mimo_mobile.runtime.text.chat_template import Message, render


@pytest.fixture(scope="module")
def template(nano: Source) -> str:
    text = read_vocabulary(nano.path, 1088).chat_template
    assert text is not None
    return text


def test_the_system_prompt_is_empty_unless_given(template: str) -> None:
    question = Message("user", "2 + 2?")
    empty = "<|im_start|>system\n<|im_end|>\n<|im_start|>user\n2 + 2?<|im_end|>\n<|im_start|>assistant\n"
    assert render(template, [question]) == empty
    assert render(template, [Message("system", "Be brief."), question]) == empty.replace(
        "system\n", "system\nBe brief."
    )


def test_turns_are_rendered_verbatim(template: str) -> None:
    messages = [Message("user", "a"), Message("assistant", "<think>\nx\n</think>\n\nb"), Message("user", "c {{ 1 }}")]
    assert render(template, messages).endswith(
        "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n<think>\nx\n</think>\n\nb<|im_end|>\n"
        "<|im_start|>user\nc {{ 1 }}<|im_end|>\n<|im_start|>assistant\n"
    )


def test_tool_results_share_a_user_turn(template: str) -> None:
    text = render(template, [Message("user", "q"), Message("tool", "1"), Message("tool", "2")])
    assert (
        "<|im_start|>user\n<tool_response>\n1\n</tool_response>\n<tool_response>\n2\n</tool_response><|im_end|>\n"
        in text
    )


def test_no_thinking_closes_the_block_in_the_prompt(template: str) -> None:
    assert render(template, [Message("user", "q")], thinking=False).endswith("assistant\n<think>\n</think>\n\n")


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
    ],
)
def test_a_hostile_or_broken_template_is_an_error(attack: str) -> None:
    with pytest.raises(SessionError, match=r"^chat template: .*; convert the checkpoint again or use a raw prompt$"):
        render(attack, [Message("user", "q")])
