"""GGUF files say how large q·k gets; where float16 is too coarse for it, attention computes in float32."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import pytest

from mimo_mobile.convert.checkpoint import Checkpoint
from mimo_mobile.convert.formats import F32
from mimo_mobile.convert.model import write_gguf_model
from mimo_mobile.errors import ModelLoadError
from mimo_mobile.gguf_header import GgufHeader
from mimo_mobile.layout import LARGEST_QUERY_KEY, mtp_file
from mimo_mobile.quantize.calibrate import calibrate
from mimo_mobile.ranges import MOST_SCORE, ModelRanges, too_coarse
from mimo_mobile.runtime import Model, load
from mimo_mobile.runtime.backend import KvDtype
from mimo_mobile.runtime.llama.checked import checked
from tests import gguf_parts
from tests.gguf_parts import F64, U32, Change, File, array, drop, number, put, string
from tests.hot import BIAS, write_hot
from tests.tiny import write_tiny_checkpoint

IDS = [320, 72, 101, 5, 5, 300, 17, 322, 1, 319, 208, 64, 33, 90]


def write(folder: Path, checkpoint: Path, *, single_file: bool = False) -> tuple[Path, ModelRanges]:
    """A checkpoint as a GGUF file that was calibrated, and its ranges."""
    opened = Checkpoint.open(checkpoint)
    # Without a reference, so that files without weights pass and caches that are too coarse are not refused.
    found = dataclasses.replace(calibrate(opened.config, opened.tensors, [IDS]).calibrated(), reference_ids=())
    paths, ranges = write_gguf_model(
        opened, folder / "model.gguf", lambda _: F32, "F32", {"name": "tiny"}, single_file=single_file, calibrated=found
    )
    assert ranges is not None
    return paths[0], ranges


@pytest.fixture(scope="module")
def cool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cool")
    return write(folder, write_tiny_checkpoint(folder / "checkpoint"))[0]


@pytest.fixture(scope="module")
def hot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file whose q·k is larger than 160,000."""
    folder = tmp_path_factory.mktemp("hot")
    source = write_hot(folder / "hot", "scores", source=write_tiny_checkpoint(folder / "checkpoint"))
    return write(folder, source.path)[0]


def changed(path: Path, folder: Path, change: Change) -> Path:
    file = File.of(path)
    change(file)
    return file.write(folder / "changed.gguf")


def cache_bytes(model: Model) -> int:
    with model.exclusive() as backend:
        return backend.kv_bytes_per_token


@pytest.mark.parametrize("single_file", [False, True])
def test_a_file_says_how_large_q_k_gets_in_any_layer(tmp_path: Path, single_file: bool) -> None:
    path, ranges = write(tmp_path, write_tiny_checkpoint(tmp_path / "checkpoint"), single_file=single_file)
    largest = max(each.query_key for each in ranges.layers)
    assert ranges.layers[-1].layer.startswith("mtp_layers")
    header = GgufHeader(path)
    assert header.kind(LARGEST_QUERY_KEY) == "float32"
    assert header.value(LARGEST_QUERY_KEY) == pytest.approx(largest)
    assert checked(header).largest_query_key == header.value(LARGEST_QUERY_KEY)


def test_a_file_that_nobody_measured_says_nothing(tiny_gguf: Path) -> None:
    assert GgufHeader(tiny_gguf).kind(LARGEST_QUERY_KEY) == "nothing"
    assert checked(GgufHeader(tiny_gguf)).largest_query_key is None


@pytest.mark.parametrize("speculate", ["off", "mtp"])
def test_scores_too_large_for_float16_get_a_float32_cache_and_the_log_says_why(
    cool: Path, hot: Path, speculate: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with load(cool, speculate=speculate) as model:
        usual = cache_bytes(model)
    assert "q·k" not in caplog.text
    assert mtp_file(hot).is_file()
    assert GgufHeader(hot).value(LARGEST_QUERY_KEY) > 0.99 * BIAS**2
    with load(hot, speculate=speculate) as model:
        assert cache_bytes(model) == 2 * usual
        found = model.logits(IDS)
    (said,) = [each.getMessage() for each in caplog.records if "q·k" in each.getMessage()]
    assert str(hot) in said and "attention computes in float32, and the KV cache takes twice the memory" in said
    with load(hot, speculate=speculate, kv_dtype="f32") as model:
        assert (model.logits(IDS) == found).all()


@pytest.mark.parametrize(("kv_dtype", "warned"), [("f16", True), ("int8", True), ("f32", False)])
def test_what_the_caller_asks_for_is_taken_with_a_warning(
    hot: Path, kv_dtype: KvDtype, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with load(hot, kv_dtype=kv_dtype, speculate="off") as model:
        per_value = {"f16": 2, "int8": 34 / 32, "f32": 4}[kv_dtype]
        found = checked(GgufHeader(hot))
        assert cache_bytes(model) == 2 * found.layers * found.num_key_value_heads * found.head_dim * per_value
    said = [each.getMessage() for each in caplog.records if "q·k" in each.getMessage()]
    assert len(said) == warned
    assert all(f"too large for kv_dtype {kv_dtype}; take f32, or leave kv_dtype out" in each for each in said)


def test_float16_suffices_up_to_the_score_that_onnx_graphs_have_it_for(hot: Path, tmp_path: Path) -> None:
    head = checked(GgufHeader(hot)).head_dim
    edge = MOST_SCORE * head**0.5
    assert not too_coarse(edge, head) and too_coarse(edge * 1.001, head)
    sizes = []
    for value in (edge, edge * 1.001):
        path = changed(hot, tmp_path, put(LARGEST_QUERY_KEY, number(gguf_parts.F32, value)))
        with load(path, speculate="off") as model:
            sizes.append(cache_bytes(model))
    assert sizes[1] == 2 * sizes[0]


LIES: dict[str, Change] = {
    "NaN": put(LARGEST_QUERY_KEY, number(gguf_parts.F32, float("nan"))),
    "infinite": put(LARGEST_QUERY_KEY, number(gguf_parts.F32, float("inf"))),
    "negative": put(LARGEST_QUERY_KEY, number(gguf_parts.F32, -1.0)),
    "a double": put(LARGEST_QUERY_KEY, number(F64, 1.0)),
    "an integer": put(LARGEST_QUERY_KEY, number(U32, 1)),
    "a text": put(LARGEST_QUERY_KEY, string("1\x1b[2J")),
    "an array": put(LARGEST_QUERY_KEY, array(gguf_parts.F32, 1, bytes(4))),
}


@pytest.mark.parametrize("case", LIES)
def test_a_lie_about_q_k_is_refused(cool: Path, tmp_path: Path, case: str) -> None:
    path = changed(cool, tmp_path, LIES[case])
    with pytest.raises(ModelLoadError, match=rf"{LARGEST_QUERY_KEY} .*found, 0…3e\+38 ") as caught:
        load(path)
    assert str(caught.value).isprintable()


def test_a_file_of_an_earlier_version_loads_as_before(hot: Path, tmp_path: Path) -> None:
    with load(changed(hot, tmp_path, drop(LARGEST_QUERY_KEY)), speculate="off") as model:
        found = checked(GgufHeader(hot))
        assert cache_bytes(model) == 4 * found.layers * found.num_key_value_heads * found.head_dim
