"""Saved conversations: they go on where they were, and files of strangers do no harm."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import struct
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mimo_mobile.errors import BadArgumentError, ContextFullError, ConversationError, OutputExistsError, SessionError
from mimo_mobile.runtime import GenerationConfig, Model, Turn, load
from mimo_mobile.runtime.backend import KvDtype
from mimo_mobile.runtime.decode import conversation_file
from tests.runtime.decode.test_conversation import DIFFERENCE, GREEDY, PRODUCT, SUM, fresh, ids_of, stats_of

Change = Callable[[dict[str, Any], dict[str, bytes]], None]


@pytest.fixture(scope="module")
def saved(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("saved") / "talk.mimo"
    talk = model.conversation(config=GREEDY)
    for question in (SUM, PRODUCT):
        list(talk.send(question))
    talk.save(file)
    return file


def forged(saved: Path, path: Path, change: Change) -> Path:
    """A file whose sizes and checksum are right, with something else in it."""
    content = saved.read_bytes()
    (length,) = struct.unpack("<I", content[8:12])
    header, place = json.loads(content[12 : 12 + length]), 12 + length
    arrays = dict[str, bytes]()
    for each in header["arrays"]:
        size = int(np.prod(each["shape"])) * np.dtype(conversation_file.DTYPES[each["dtype"]]).itemsize
        arrays[each["name"]], place = content[place : place + size], place + size
    change(header, arrays)
    text = json.dumps(header).encode()
    body = content[:8] + struct.pack("<I", len(text)) + text + b"".join(arrays.values())
    path.write_bytes(body + hashlib.sha256(body).digest())
    return path


def test_a_restored_conversation_goes_on_as_the_saved_one_and_recomputes_only_its_last_answer(
    path: Path, tmp_path: Path
) -> None:
    config, file = GenerationConfig(temperature=0.8, seed=5, max_tokens=200), tmp_path / "talk.mimo"
    with load(path, threads=1, speculate="mtp") as first:
        talk = first.conversation("Be brief.", config, when_full="drop")
        for question in (SUM, PRODUCT):
            list(talk.send(question))
        talk.save(file)
        expected = ids_of(list(talk.send(DIFFERENCE)))
    with load(path, threads=1, speculate="mtp") as second:
        restored = second.load_conversation(file, replace(config, seed=None))
        assert (restored.system, restored.seed, restored.draws, restored.when_full) == ("Be brief.", 5, 2, "drop")
        before = restored.turns
        tokens = list(restored.send(DIFFERENCE))
        said = [text for turn in before for text in (turn.question, turn.answer)]
        assert ids_of(tokens) == expected
        assert expected == fresh(second, replace(config, seed=7), *said, DIFFERENCE, system="Be brief.")
        stats = stats_of(tokens)
        assert stats.drafted_tokens > 0
        assert stats.prompt_tokens - stats.cached_tokens < 45, "the last answer and the new question"


def test_two_thousand_tokens_are_not_prefilled_again(path: Path, tmp_path: Path) -> None:
    config, file = replace(GREEDY, max_tokens=8, thinking=False), tmp_path / "long.mimo"
    with load(path, threads=1) as first:
        talk = first.conversation(config=config)
        list(talk.send(" ".join(f"{number} and" for number in range(100, 489))))
        assert len(talk.prompt(SUM)) >= 1985
        talk.save(file)
    with load(path, threads=1) as second:
        stats = stats_of(list(second.load_conversation(file, config).send(SUM)))
        assert stats.cached_tokens >= 1930 and stats.prompt_tokens - stats.cached_tokens < 60


@pytest.mark.parametrize("where", ["thinking", "answer"])
def test_an_answer_that_was_cut_goes_on_after_a_load_without_computing_what_it_had(
    path: Path, tmp_path: Path, where: str
) -> None:
    file = tmp_path / "cut.mimo"
    with load(path, threads=1) as first:
        expected = fresh(first, GREEDY, PRODUCT)
        cut = 9 if where == "thinking" else len(expected) - 1
        talk = first.conversation(config=GREEDY)
        begun = list(talk.send(PRODUCT, replace(GREEDY, max_tokens=cut)))
        assert ids_of(begun) == expected[:cut] and len(talk.turns) == (where == "answer")
        talk.save(file)
    with load(path, threads=1) as second:
        talk = second.load_conversation(file, GREEDY)
        if where == "thinking":  # whose text no file tells
            thought = Turn(PRODUCT, "".join(each.text for each in begun), "")
            talk.restore(talk.turns, talk.dropped, talk.seed, talk.draws, begun=thought)
        rest = list(talk.resume())
        assert ids_of(begun) + ids_of(rest) == expected and len(talk.turns) == 1
        stats = stats_of(rest)
        assert stats.prompt_tokens - stats.cached_tokens <= 3, "the token that was the last is computed, or its text's"


def test_a_file_is_private_replaced_whole_and_no_larger_than_what_it_holds(model: Model, tmp_path: Path) -> None:
    file, talk = tmp_path / "talk.mimo", model.conversation(config=GREEDY)
    list(talk.send(SUM))
    held = len(talk.session.tokens)
    talk.save(file)
    with model.exclusive() as backend:
        both = backend.kv_bytes_per_token * 5 // 4  # nano has four layers, and the MTP layer is one more
    assert stat.S_IMODE(file.stat().st_mode) == 0o600 and file.stat().st_size <= held * both
    assert len(talk.session.tokens) < held, "the thinking is not kept"
    list(talk.send(PRODUCT))
    talk.save(file)
    assert len(model.load_conversation(file).turns) == 2 and os.listdir(tmp_path) == ["talk.mimo"]
    other = tmp_path / "notes.txt"
    other.write_text("mine")
    for strange in (other, tmp_path):
        with pytest.raises(OutputExistsError, match="is no saved conversation; name another file"):
            talk.save(strange)
    assert other.read_text() == "mine"


def test_a_conversation_without_turns_can_be_saved(model: Model, tmp_path: Path) -> None:
    model.conversation("Sums.", GREEDY).save(tmp_path / "new.mimo")
    talk = model.load_conversation(tmp_path / "new.mimo", GREEDY)
    assert talk.turns == () and ids_of(list(talk.send(SUM))) == fresh(model, GREEDY, SUM, system="Sums.")


def test_drafts_may_be_switched_on_and_off_between(path: Path, saved: Path, model: Model, tmp_path: Path) -> None:
    expected = ids_of(list(model.load_conversation(saved, GREEDY).send(DIFFERENCE)))
    with load(path, threads=1, speculate="off") as plain:
        talk = plain.load_conversation(saved, GREEDY)
        talk.save(tmp_path / "plain.mimo")
        tokens = list(talk.send(DIFFERENCE))
        assert ids_of(tokens) == expected and stats_of(tokens).cached_tokens > stats_of(tokens).prompt_tokens / 2
    tokens = list(model.load_conversation(tmp_path / "plain.mimo", GREEDY).send(DIFFERENCE))
    assert ids_of(tokens) == expected and stats_of(tokens).cached_tokens > stats_of(tokens).prompt_tokens / 2
    assert stats_of(tokens).accepted_tokens > 0, "drafts begin anew, without the rows before"


@pytest.mark.parametrize("kv_dtype", ["f32", "f16", "int8"])
def test_each_type_of_cache_goes_on_with_and_without_drafts_and_refuses_the_others(
    kv_dtype: KvDtype, nano_q4: dict[str, Path], tmp_path: Path
) -> None:
    kept, expected, files = 0, list[int](), [tmp_path / "mtp.mimo", tmp_path / "off.mimo"]
    for speculate, file in zip(("mtp", "off"), files, strict=True):
        with load(nano_q4["gguf"], threads=1, speculate=speculate, kv_dtype=kv_dtype) as model:
            talk = model.conversation(config=GREEDY)
            list(talk.send(SUM))
            talk.save(file)
            kept, expected = len(talk.session.tokens), ids_of(list(talk.send(PRODUCT)))
    for speculate, file in zip(("mtp", "off"), reversed(files), strict=True):
        with load(nano_q4["gguf"], threads=1, speculate=speculate, kv_dtype=kv_dtype) as model:
            for each in (file, *files):
                tokens = list(model.load_conversation(each, GREEDY).send(PRODUCT))
                assert ids_of(tokens) == expected
                assert stats_of(tokens).cached_tokens in (kept - 1, kept), "an MTP layer reads the last row again"
    for other in {"f32", "f16", "int8"} - {kv_dtype}:
        with load(nano_q4["gguf"], threads=1, kv_dtype=other) as model:
            for each in files:
                with pytest.raises(ConversationError, match=r"another type of KV cache .*kv_dtype of then"):
                    model.load_conversation(each)


def test_another_model_or_cache_is_refused_and_gets_the_text_alone(
    saved: Path, nano_q4: dict[str, Path], path: Path, tmp_path: Path
) -> None:
    other = next(each for each in nano_q4.values() if each != path)
    with load(other, threads=1) as stranger:
        with pytest.raises(ConversationError, match=r"saved with another model .*text_only=True"):
            stranger.load_conversation(saved)
        talk = stranger.load_conversation(saved, GREEDY, text_only=True)
        said = [text for turn in talk.turns for text in (turn.question, turn.answer)]
        assert ids_of(list(talk.send(DIFFERENCE))) == fresh(stranger, GREEDY, *said, DIFFERENCE)
    if path.suffix == ".gguf":
        with load(path, threads=1, kv_dtype="int8") as int8:
            with pytest.raises(ConversationError, match=r"another type of KV cache .*kv_dtype of then"):
                int8.load_conversation(saved)
    with load(path, threads=1, context_length=32) as small:
        with pytest.raises(ContextFullError, match="the context holds 32; load the model with a larger"):
            small.load_conversation(saved)
    with load(path, threads=1) as closed:
        pass
    with pytest.raises(SessionError, match="the model is closed"):
        closed.load_conversation(saved)


def test_every_cut_and_every_changed_byte_is_noticed(model: Model, saved: Path, tmp_path: Path) -> None:
    content, file = saved.read_bytes(), tmp_path / "damaged"
    drawn = np.random.Generator(np.random.PCG64(1)).integers(0, len(content), 60).tolist()
    for place in [0, 7, 8, 11, 12, 40, *drawn, len(content) - 1]:
        for damaged in (content[:place], content[:place] + bytes([content[place] ^ 16]) + content[place + 1 :]):
            file.write_bytes(damaged)
            for text_only in (False, True):
                with pytest.raises(ConversationError, match=r"damaged, or no conversation|newer|another"):
                    model.load_conversation(file, text_only=text_only)
    file.write_bytes(content + b"x")
    with pytest.raises(ConversationError, match="bytes found"):
        model.load_conversation(file)
    with pytest.raises(ConversationError, match="cannot be read"):
        model.load_conversation(tmp_path)
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(ConversationError, match="a pipe found"):
        model.load_conversation(file)


def shaped(name: str, shape: list[int]) -> Change:
    def change(header: dict[str, Any], _: dict[str, bytes]) -> None:
        next(each for each in header["arrays"] if each["name"] == name)["shape"] = shape

    return change


def lost(name: str) -> Change:
    def change(header: dict[str, Any], arrays: dict[str, bytes]) -> None:
        header["arrays"] = [each for each in header["arrays"] if each["name"] != name]
        arrays.pop(name, None)

    return change


def field(name: str, value: object) -> Change:
    return lambda header, _: header.update({name: value})


def ids(value: int) -> Change:
    def change(_: dict[str, Any], arrays: dict[str, bytes]) -> None:
        arrays["tokens"] = struct.pack("<i", value) + arrays["tokens"][4:]

    return change


def waiting(value: int) -> Change:
    def change(_: dict[str, Any], arrays: dict[str, bytes]) -> None:
        arrays["head.ids"] = struct.pack("<q", value) + arrays["head.ids"][8:]

    return change


@pytest.mark.parametrize(
    "change",
    [
        shaped("tokens", [1 << 40]), shaped("tokens", [0, 1 << 52, 1 << 52]), shaped("tokens", [3]), lost("tokens"),
        field("turns", 3), field("turns", [{"question": 1}]), field("dropped", 9), field("seed", "x"),
        field("when_full", "sometimes"), field("model", "x"), field("conversation_version", 9), field("arrays", []),
        ids(-1), ids(1 << 30), waiting(-1), waiting(1 << 40), field("seed", str(2**64)),
    ],
)  # fmt: skip
def test_a_forged_header_is_refused(model: Model, saved: Path, tmp_path: Path, change: Change) -> None:
    with pytest.raises(ConversationError):
        model.load_conversation(forged(saved, tmp_path / "forged", change))
    talk = model.load_conversation(saved, GREEDY)
    said = [text for turn in talk.turns for text in (turn.question, turn.answer)]
    assert ids_of(list(talk.send(DIFFERENCE))) == fresh(model, GREEDY, *said, DIFFERENCE), "the model is as before"


def test_what_the_writer_takes_the_reader_takes(model: Model, tmp_path: Path) -> None:
    file, strange = tmp_path / "talk.mimo", '\0\x01\x1f\x7f"\\/\b\f\n\r\t\u2028\ufeff\ufffd🙂é\u0301'
    talk = model.conversation(strange, GREEDY)
    turns = [Turn(strange, strange, strange), Turn("x", "y" * 2_000_000, "z")]
    for each in (turns, [Turn(f"{number}", "", "?") for number in range(60_000)]):
        talk.restore(each, len(each), -1, 3)
        talk.save(file)
        again = model.load_conversation(file)
        assert (list(again.turns), again.system, again.seed, again.draws) == (each, strange, 2**64 - 1, 3)
    talk.dropped = 60_001  # another thread may have taken turns away
    talk.save(file)
    assert model.load_conversation(file).dropped == 60_000


def test_what_the_reader_would_not_take_is_not_written(model: Model, tmp_path: Path) -> None:
    talk, file = model.conversation(config=GREEDY), tmp_path / "talk.mimo"
    talk.restore([Turn("", "", "")] * 100_001, 100_001, 0, 0)
    with pytest.raises(SessionError, match="more than 32 MB of text or 100000 turns"):
        talk.save(file)
    talk.restore([Turn("", "é" * 16_000_000, "")], 1, 0, 0)
    with pytest.raises(SessionError, match="more than 32 MB of text or 100000 turns"):
        talk.save(file)
    talk.restore([Turn("", "\ud83d", "")], 1, 0, 0)
    with pytest.raises(BadArgumentError, match="a text of the conversation has half a surrogate pair"):
        talk.save(file)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    ("numbers", "match"),
    [
        ({"dropped": 2}, "dropped 2 found; from 0 to 1 expected"),
        ({"dropped": -1}, "dropped -1 found; from 0 to 1 expected"),
        ({"draws": -1}, "draws -1 found"),
        ({"draws": 2**53}, f"draws {2**53} found"),
        ({"seed": 0.5}, "seed is 0.5"),
    ],
    ids=str,
)
def test_numbers_that_no_reader_would_take_are_not_restored(model: Model, numbers: dict[str, Any], match: str) -> None:
    talk = model.conversation(config=GREEDY)
    talk.restore([Turn("a", "", "b")], seed=5, draws=3)
    with pytest.raises(BadArgumentError, match=match):
        talk.restore([Turn("c", "", "d")], **numbers)
    assert (talk.turns, talk.dropped, talk.seed, talk.draws) == ((Turn("a", "", "b"),), 0, 5, 3)


def test_saving_and_asking_at_once_saves_what_belongs_together_or_is_refused(path: Path, tmp_path: Path) -> None:
    with load(path, threads=1, queue=True) as model:
        talk, file = model.conversation(config=GREEDY), tmp_path / "talk.mimo"
        list(talk.send(SUM))
        other = model.conversation(config=GREEDY)

        def ask() -> None:
            for _ in range(4):
                list(talk.regenerate())
                list(other.send(SUM))

        thread = threading.Thread(target=ask)
        thread.start()
        saves = 0
        while thread.is_alive() or saves < 2:
            talk.save(file)
            loaded, saves = model.load_conversation(file), saves + 1
            assert loaded.turns[0].question == SUM
        thread.join()
        assert saves >= 2


def test_tokens_and_states_of_a_save_are_taken_in_one_turn(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    talk = model.conversation(config=GREEDY)
    list(talk.send(SUM))
    give_back = model.turns.give_back

    def another_thread_is_faster(turn: Any) -> None:
        give_back(turn)
        monkeypatch.undo()
        list(talk.send(PRODUCT))

    monkeypatch.setattr(model.turns, "give_back", another_thread_is_faster)
    tokens, state = talk.session.kept(talk.next_prompt())
    assert state is not None and state.tokens == len(tokens)


def test_a_row_that_waits_for_the_mtp_layer_is_of_a_token(path: Path, tmp_path: Path) -> None:
    def last(_: dict[str, Any], arrays: dict[str, bytes]) -> None:
        assert len(arrays["head.ids"]) > 8, "rows wait"
        arrays["head.ids"] = arrays["head.ids"][:-8] + struct.pack("<q", 1 << 30)

    with load(path, threads=1, speculate="mtp") as model:
        talk = model.conversation(config=replace(GREEDY, max_tokens=1, thinking=False))
        list(talk.send(SUM))
        talk.save(tmp_path / "talk.mimo")
        assert model.load_conversation(tmp_path / "talk.mimo").turns == talk.turns
        with pytest.raises(ConversationError, match="an id found that is no token"):
            model.load_conversation(forged(tmp_path / "talk.mimo", tmp_path / "forged", last))


def overwritten(name: str, place: int, value: int) -> Change:
    def change(_: dict[str, Any], arrays: dict[str, bytes]) -> None:
        blob, at = arrays[name], place % len(arrays[name])
        arrays[name] = blob[:at] + struct.pack("<I", value) + blob[at + 4 :]

    return change


def second_part(blob: bytes, layers: int, count: int) -> int:
    """Where the second of the trunk's caches begins, which llama.cpp makes beside an MTP layer."""
    (row,) = struct.unpack_from("<Q", blob, 16 + 12 * count + 12)
    return 16 + 12 * count + 8 + 2 * layers * (12 + row * count)


def test_forged_positions_do_not_reach_llama(nano_q4: dict[str, Path], tmp_path: Path) -> None:
    file, good = tmp_path / "good", dict[str, bytes]()
    with load(nano_q4["gguf"], threads=1, speculate="mtp") as model:
        talk = model.conversation(config=GREEDY)
        list(talk.send(SUM))
        talk.save(file)
        forged(file, tmp_path / "same", lambda _, arrays: good.update(arrays))
        layers, count = good["trunk"][16 + 12 * len(talk.session.tokens) + 4], len(talk.session.tokens)
        second = second_part(good["trunk"], layers, count)
        assert struct.unpack_from("<II", good["trunk"], second) == (1, count)
        parts = [("trunk", 8), ("trunk", second), ("mtp", 8)]
        wrong = [(0, 2), (4, 1 << 31), (4, count + 1), (8, 1 << 31), (8, 1), (12, 2), (12, 0), (20, 9999)]
        layer = 8 + 12 * count + 4
        sizes = [(layer, 1 << 30), (layer + 8, 1 << 31), (layer + 12, 1 << 31)]
        for name, begin in parts:
            for place, value in [*wrong, *(sizes if name == "trunk" else [])]:
                with pytest.raises(ConversationError, match=r"llama\.cpp does not take the state"):
                    model.load_conversation(forged(file, tmp_path / "forged", overwritten(name, begin + place, value)))
        assert model.load_conversation(file).turns == talk.turns
