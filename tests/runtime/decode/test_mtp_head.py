"""The MTP layer beside a trunk: it reads each row once, with its true hidden state and its true next token."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from mimo_mobile.convert.checkpoint import Checkpoint
from mimo_mobile.convert.model import convert_checkpoint
from mimo_mobile.errors import BackendUnavailableError, MemoryFullError, ModelLoadError
from mimo_mobile.hub import Source
from mimo_mobile.runtime import GenerationConfig, load
from mimo_mobile.runtime.decode.mtp_head import WAITING_ROWS, MtpHead
from mimo_mobile.runtime.devices import memory
from mimo_mobile.runtime.devices.memory import MemoryNeed
from mimo_mobile.runtime.llama.backend import OUTPUT_ROWS
from tests import reference

IDS = [3, 50, 99, 200, 17, 41, 8, 301]
NEVER = threading.Event()


class Notes:
    """A layer that writes down its rows: position → (hidden state, next token)."""

    draft_ids = np.arange(5)

    def __init__(self) -> None:
        self.rows: dict[int, tuple[float, int]] = {}
        self.runs = 0

    def begin(self) -> None:
        self.rows = {}

    def read(
        self, hidden: NDArray[np.float32], ids: Sequence[int], position: int
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        assert len(hidden) == len(ids) and position <= len(self.rows), "a gap in the cache"
        self.rows = {at: row for at, row in self.rows.items() if at < position}
        self.rows |= {position + at: (float(hidden[at, 0]), token) for at, token in enumerate(ids)}
        self.runs += 1
        return np.zeros(5, np.float32), hidden[-1] + 0.5

    def close(self) -> None:
        pass


def states(tokens: Sequence[int], start: int) -> NDArray[np.float32]:
    """Hidden states that say which token and position they are of."""
    return np.array([[1000 * (start + at) + token] for at, token in enumerate(tokens)], np.float32)


def expected(tokens: Sequence[int], following: int) -> dict[int, tuple[float, int]]:
    after = [*tokens[1:], following]
    return {at: (1000.0 * at + token, after[at]) for at, token in enumerate(tokens)}


def test_a_prompt_is_read_in_few_runs_with_the_tokens_that_follow() -> None:
    layer, tokens = Notes(), [at % 7 for at in range(300)]
    head = MtpHead(layer)
    for start in range(0, 300, 100):
        head.observe(start, tokens[start : start + 100], states(tokens[start : start + 100], start))
    head.draft(300, 4)
    assert layer.rows == expected(tokens, 4) and layer.runs == 2


def test_rejected_drafts_leave_no_trace() -> None:
    layer = Notes()
    head = MtpHead(layer)
    head.observe(0, [1, 2, 3], states([1, 2, 3], 0))
    head.draft(3, 4)
    head.observe(3, [4, 9, 9], states([4, 9, 9], 3))  # 4 is certain; of two drafts none is right
    head.draft(4, 5)
    assert layer.rows == expected([1, 2, 3, 4], 5)
    head.observe(4, [5, 6, 9], states([5, 6, 9], 4))  # the first is right
    head.draft(6, 7)
    assert layer.rows == expected([1, 2, 3, 4, 5, 6], 7)


def test_a_second_draft_reads_the_layers_own_state_and_is_forgotten() -> None:
    layer = Notes()
    head = MtpHead(layer)
    head.observe(0, [1, 2], states([1, 2], 0))
    head.draft(2, 3)
    head.draft_more(3, 8)
    assert layer.rows[2] == (1002.5, 8)
    head.observe(2, [3], states([3], 2))
    head.draft(3, 4)
    assert layer.rows == expected([1, 2, 3], 4)


def test_rows_wait_while_nothing_is_drafted_and_are_read_together() -> None:
    layer, tokens = Notes(), list(range(1, WAITING_ROWS + 12))
    head = MtpHead(layer)
    for at, token in enumerate(tokens):
        head.observe(at, [token], states([token], at))
    assert layer.runs == 1
    head.draft(len(tokens), 4)
    assert layer.rows == expected(tokens, 4) and layer.runs == 2


@pytest.mark.parametrize("kept", range(7))
def test_another_turn_makes_the_rows_anew_that_were_read_with_another_token(kept: int) -> None:
    layer, tokens = Notes(), [1, 2, 3, 4, 5, 6]
    head = MtpHead(layer)
    head.observe(0, tokens[:4], states(tokens[:4], 0))
    head.draft(4, 5)
    head.observe(4, tokens[4:], states(tokens[4:], 4))
    new = [*tokens[:kept], 8, 9]
    start = head.resume(kept)
    assert kept - 1 <= start <= kept
    head.observe(start, new[start:], states(new[start:], start))
    head.draft(len(new), 7)
    assert layer.rows == expected(new, 7)


@pytest.fixture(scope="module")
def tiny_single(tiny: Source, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("single") / "single.gguf"
    return convert_checkpoint(tiny, out, to="gguf", dtype="f32", single_file=True)[0]


@pytest.mark.parametrize(("kind", "tolerance"), [("onnx", 1e-3), ("gguf", 0.02), ("single", 0.02)])
def test_drafts_are_the_references_at_every_step(
    kind: str, tolerance: float, tiny_onnx: Path, tiny_gguf: Path, tiny_single: Path, tiny_checkpoint: Checkpoint
) -> None:
    weights, config = reference.load_weights(tiny_checkpoint), tiny_checkpoint.config
    model = {"onnx": tiny_onnx, "gguf": tiny_gguf, "single": tiny_single}[kind]
    with load(model, speculate="mtp") as session, session.exclusive() as backend:
        head = backend.mtp
        assert head is not None
        assert head.resume(0) == 0
        tokens = list(IDS)
        backend.decode(tokens, 0, NEVER)
        for token in (5, 77, 300, 12):
            logits = head.draft(len(tokens), token)
            wanted = reference.mtp(weights, config, tokens, token)[-1, head.draft_ids]
            assert np.abs(logits - wanted).max() < tolerance
            rows = backend.decode([token, 9], len(tokens), NEVER, rows=2, padding=2)  # 9 will not stay
            verified = reference.trunk(weights, config, [*tokens, token, 9]).logits[-2:]
            assert np.abs(rows - verified).max() < 0.02
            tokens.append(token)


def test_a_prompt_longer_than_llama_cpp_shows_hidden_states_of_drafts_from_its_end(
    tiny_gguf: Path, tiny_checkpoint: Checkpoint
) -> None:
    weights, config = reference.load_weights(tiny_checkpoint), tiny_checkpoint.config
    tokens = np.random.Generator(np.random.PCG64(3)).integers(0, 340, 150).tolist()
    hidden = reference.trunk(weights, config, tokens).hidden
    with load(tiny_gguf, speculate="mtp") as session, session.exclusive() as backend:
        rows = backend.decode(tokens, 0, NEVER)
        assert np.abs(rows[0] - reference.trunk(weights, config, tokens).logits[-1]).max() < 0.02
        assert backend.mtp is not None
        logits = backend.mtp.draft(len(tokens), 7).copy()
    wanted = reference.mtp_layer(weights, config, hidden[-OUTPUT_ROWS:], [*tokens[1 - OUTPUT_ROWS :], 7])
    assert np.abs(logits - wanted[-1, : len(logits)]).max() < 0.02


def test_a_single_file_answers_as_the_trunk_alone(tiny_gguf: Path, tiny_single: Path) -> None:
    config = GenerationConfig(temperature=0, max_tokens=24)
    found = []
    for model, mode in ((tiny_gguf, "off"), (tiny_single, "off"), (tiny_single, "mtp"), (tiny_gguf, "mtp")):
        with load(model, speculate=mode, cache=False) as session:  # type: ignore[arg-type]
            found.append([token.token_id for token in session.generate(IDS, config)])
    assert found[0] and all(each == found[0] for each in found)


def test_an_mtp_file_of_another_model_is_refused(tiny_gguf: Path, nano_gguf: Path, tmp_path: Path) -> None:
    shutil.copyfile(tiny_gguf, tmp_path / "x.gguf")
    shutil.copyfile(nano_gguf.with_name("nano-mtp.gguf"), tmp_path / "x-mtp.gguf")
    with pytest.raises(ModelLoadError, match=r"x-mtp\.gguf: belongs to another model than x\.gguf"):
        load(tmp_path / "x.gguf")
    with load(tmp_path / "x.gguf", speculate="off") as session:
        assert session.context_length


def test_without_memory_for_the_mtp_layer_auto_does_without(tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[MemoryNeed]] = []
    choose = memory.choose
    monkeypatch.setattr(memory, "choose", lambda path, needs: asked.append(needs) or choose(path, needs))
    with load(tiny_gguf) as session, session.exclusive() as backend:
        assert backend.mtp is not None
    both, alone = asked[0][0].total_bytes, asked[0][1].total_bytes
    assert both > alone + tiny_gguf.with_name("tiny-mtp.gguf").stat().st_size / 2
    monkeypatch.setattr(memory, "available_bytes", lambda: alone)
    with load(tiny_gguf) as session, session.exclusive() as backend:
        assert backend.mtp is None
    with pytest.raises(MemoryFullError, match="with its MTP layer"):
        load(tiny_gguf, speculate="mtp")


def test_mtp_is_refused_where_there_is_none(tiny_onnx: Path, tiny_gguf: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_onnx, tmp_path / "x"))
    (folder / "mtp.onnx").unlink()
    with pytest.raises(BackendUnavailableError, match="no MTP layer"):
        load(folder, speculate="mtp")
    with load(folder) as session, session.exclusive() as backend:
        assert backend.mtp is None
    alone = Path(shutil.copyfile(tiny_gguf, tmp_path / "alone.gguf"))
    with pytest.raises(BackendUnavailableError, match="no MTP layer"):
        load(alone, speculate="mtp")
    with load(alone) as session, session.exclusive() as backend:
        assert backend.mtp is None
