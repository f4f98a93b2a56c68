"""What a saved conversation's errors say is what is wrong, and nothing that can be saved is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from mimo_mobile.errors import ConversationError, SessionError
from mimo_mobile.runtime import Model, Turn, load
from tests.runtime.decode.test_conversation import GREEDY, SUM


def test_a_busy_model_is_no_fault_of_the_file(model: Model, tmp_path: Path) -> None:
    talk, file = model.conversation(config=GREEDY), tmp_path / "talk.mimo"
    list(talk.send(SUM))
    talk.save(file)
    busy = model.generate("1 + 1")
    next(busy)
    with pytest.raises(SessionError, match="the model is busy") as caught:
        model.load_conversation(file)
    assert not isinstance(caught.value, ConversationError) and "text_only" not in str(caught.value)
    busy.close()
    assert model.load_conversation(file).turns == talk.turns


def test_turns_that_no_prompt_has_room_for_are_saved_all_the_same(nano_q4: dict[str, Path], tmp_path: Path) -> None:
    with load(nano_q4["gguf"], threads=1, context_length=128) as small:
        talk, file = small.conversation(config=GREEDY), tmp_path / "talk.mimo"
        talk.restore([Turn(SUM, "", "1 2 " * 4000)])
        talk.save(file)
        assert small.load_conversation(file).turns == talk.turns
