"""Importance matrices: what llama.cpp's tools write and read, and what blocks make of them."""

from __future__ import annotations

import logging
import os
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

from mimo_mobile.convert.checkpoint import Checkpoint
from mimo_mobile.convert.model import convert_checkpoint
from mimo_mobile.errors import OutputExistsError, QuantizationError
from mimo_mobile.hub import Source
from mimo_mobile.quantize.evaluate import read_problems
from mimo_mobile.quantize.formats import GgmlFormat
from mimo_mobile.quantize.importance import matrices, positive, read_importance, write_importance
from mimo_mobile.quantize.recipe_file import write_model
from mimo_mobile.quantize.recipes import RECIPES
from tests.calibrations import calibration
from tests.tiny import tiny_config

CONFIG = tiny_config()

Means = dict[str, NDArray[np.float32]]


@pytest.fixture
def means() -> Means:
    draw = np.random.Generator(np.random.PCG64(1))
    return {name: draw.lognormal(0, 3, columns).astype(np.float32) for name, (_, columns) in matrices(CONFIG).items()}


def test_what_is_written_is_llama_cpps_form(means: Means, tmp_path: Path) -> None:
    file = write_importance(tmp_path / "x.gguf", means, CONFIG, tokens=700, datasets=["some texts", "more"])
    reader = gguf.GGUFReader(file)
    fields = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    assert fields == {
        "general.type": "imatrix",
        "imatrix.datasets": ["some texts", "more"],
        "imatrix.chunk_count": 2,
        "imatrix.chunk_size": 512,
    }
    tensors = {tensor.name: tensor.data for tensor in reader.tensors}
    names = [name.removesuffix(".in_sum2") for name in tensors if name.endswith(".in_sum2")]
    assert names == sorted(names) and len(tensors) == 2 * len(names) == 2 * len(means)
    assert all(tensors[f"{name}.counts"].tolist() == [700] for name in names)
    np.testing.assert_allclose(
        tensors["blk.1.ffn_down.weight.in_sum2"], 700 * means["model.layers.1.mlp.down_proj.weight"], rtol=1e-6
    )
    np.testing.assert_allclose(tensors["output.weight.in_sum2"], 700 * means["lm_head.weight"], rtol=1e-6)
    # llama.cpp multiplies by [embedding, hidden], MiMo by [hidden, embedding].
    hidden, embedding = np.split(means["model.mtp_layers.0.input_proj.weight"], 2)
    np.testing.assert_allclose(
        tensors["blk.2.nextn.eh_proj.weight.in_sum2"], 700 * np.concatenate([embedding, hidden]), rtol=1e-6
    )
    with pytest.raises(OutputExistsError):
        write_importance(file, means, CONFIG, tokens=1, datasets=[])


def test_what_is_written_is_read_again(means: Means, tmp_path: Path) -> None:
    file = write_importance(tmp_path / "x.gguf", means, CONFIG, tokens=700, datasets=[])
    found = read_importance(file, CONFIG)
    assert found.keys() == means.keys()
    for name, expected in means.items():
        np.testing.assert_allclose(found[name], expected, rtol=2e-7, err_msg=name)


def old_form(entries: list[tuple[str, int, list[float]]], end: bytes = b"") -> bytes:
    """As llama-imatrix wrote it until 2025: count, then name, calls and sums of each; chunks and a name at the end."""
    data = struct.pack("<i", len(entries))
    for name, calls, sums in entries:
        data += struct.pack("<i", len(name)) + name.encode() + struct.pack("<ii", calls, len(sums))
        data += struct.pack(f"<{len(sums)}f", *sums)
    return data + end


@pytest.mark.parametrize("end", [b"", struct.pack("<ii", 3, 5) + b"a.txt"])
def test_the_old_form_is_read_too(end: bytes, tmp_path: Path) -> None:
    sums = [float(number) for number in range(256)]
    (tmp_path / "x.dat").write_bytes(old_form([("blk.0.attn_q.weight", 4, sums), ("output.weight", 0, sums)], end))
    found = read_importance(tmp_path / "x.dat", CONFIG)
    assert found.keys() == {"model.layers.0.self_attn.q_proj.weight", "lm_head.weight"}
    assert found["model.layers.0.self_attn.q_proj.weight"].tolist() == [each / 4 for each in sums]
    assert found["lm_head.weight"].tolist() == sums


def write_tensors(path: Path, tensors: dict[str, NDArray[np.generic]], kind: str = "imatrix") -> Path:
    writer = gguf.GGUFWriter(path, "")
    writer.add_type(kind)
    for name, values in tensors.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_matrix_that_no_token_reached_matters_evenly_and_the_embedding_is_left_out(tmp_path: Path) -> None:
    sums, count = np.arange(256, dtype=np.float32), np.ones(1, np.float32)
    file = write_tensors(tmp_path / "x.gguf", {
        "token_embd.weight.in_sum2": sums, "token_embd.weight.counts": count,
        "blk.0.attn_q.weight.in_sum2": sums, "blk.0.attn_q.weight.counts": count - 1,
    })  # fmt: skip
    found = read_importance(file, CONFIG)
    assert found.keys() == {"model.layers.0.self_attn.q_proj.weight"}
    assert (found["model.layers.0.self_attn.q_proj.weight"] == 1).all()


def test_missing_matrices_are_named_unless_llama_imatrix_measures_none_of_their_kind(
    means: Means, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    usual = {name: each for name, each in means.items() if "mtp_layers" not in name and name != "lm_head.weight"}
    with caplog.at_level(logging.WARNING):
        read_importance(write_importance(tmp_path / "a", usual, CONFIG, tokens=9, datasets=[]), CONFIG)
    assert not caplog.text
    fewer = {name: each for name, each in usual.items() if "layers.1." not in name}
    with caplog.at_level(logging.WARNING):
        found = read_importance(write_importance(tmp_path / "b", fewer, CONFIG, tokens=9, datasets=[]), CONFIG)
    assert found.keys() == fewer.keys()
    assert "says nothing of 8 matrices, model.layers.1.self_attn.q_proj.weight among them" in caplog.text


GOOD = np.ones(256, np.float32)


def one(values: NDArray[np.generic], count: object = 1.0, name: str = "blk.0.attn_q.weight") -> Callable[[Path], Path]:
    counts = np.array(count, np.float32).reshape(-1)
    return lambda path: write_tensors(path, {f"{name}.in_sum2": values, f"{name}.counts": counts})


def content(data: bytes) -> Callable[[Path], Path]:
    def write(path: Path) -> Path:
        path.write_bytes(data)
        return path

    return write


def bad(value: float) -> NDArray[np.float32]:
    return np.array([1.0] * 255 + [value], np.float32)


HOSTILE: dict[str, tuple[Callable[[Path], Path], str]] = {
    "NaN": (one(bad(np.nan)), r"blk\.0\.attn_q\.weight: a number that is negative, NaN or infinite found"),
    "infinite": (one(bad(np.inf)), "negative, NaN or infinite"),
    "negative": (one(bad(-1)), "negative, NaN or infinite"),
    "fewer columns": (one(GOOD[:128]), "128 columns found, 256 expected"),
    "rows": (one(np.ones((2, 256), np.float32)), "512 columns found, 256 expected"),
    "of another model": (one(GOOD, name="blk.7.attn_q.weight"), r"it measures blk\.7\.attn_q\.weight, which this"),
    "a name in colours": (one(GOOD, name="\x1b[31m"), r"it measures \\x1b\[31m, which this"),
    "a count that is none": (one(GOOD, np.nan), "a count of nan found"),
    "a negative count": (one(GOOD, -4), "a count of -4.0 found"),
    "many counts": (one(GOOD, [1, 1]), "one count in float32 beside its sums expected"),
    "no count": (lambda path: write_tensors(path, {"output.weight.in_sum2": GOOD}), "one count in float32"),
    "sums in float16": (one(GOOD.astype(np.float16)), "in float32 expected"),
    "nothing": (lambda path: write_tensors(path, {"x": GOOD}), "no tensor measured"),
    "a model": (lambda path: write_tensors(path, {"x": GOOD}, kind="model"), "general.type 'model' found, 'imatrix'"),
    "a cut GGUF": (content(b"GGUF\3\0\0\0"), "it ends after 8 bytes"),
    "empty": (content(b""), "it ends after 0 bytes, or is no importance matrix at all"),
    "text": (content(b"perplexity " * 99), "it ends after 1,089 bytes, or is no importance matrix at all"),
    "old, cut": (content(old_form([("output.weight", 1, [1.0] * 256)])[:-1]), "it ends after"),
    "old, a negative length": (content(struct.pack("<ii", 1, -9)), "it ends after"),
    "old, two billion entries": (content(struct.pack("<i", 2**31 - 1)), "it ends after"),
    "old, NaN": (content(old_form([("output.weight", 1, [np.nan] * 256)])), "negative, NaN or infinite"),
    "old, signalling NaN": (
        content(old_form([("output.weight", 3, [1.0] * 256)])[:-4] + b"\1\0\x80\x7f"),
        "negative, NaN or infinite",
    ),
    "old, no columns": (content(old_form([("output.weight", 1, [])])), "0 columns found, 256 expected"),
    "old, not UTF-8": (content(struct.pack("<ii", 1, 1) + b"\xff" + struct.pack("<iif", 1, 1, 1)), "it measures �"),
    "a folder": (lambda path: path.mkdir() or path, "cannot be read: a folder found, a file expected"),
    "not there": (lambda path: path, "cannot be read: No such file"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_file_that_is_no_importance_of_this_model_is_one_clear_error(case: str, tmp_path: Path) -> None:
    make, message = HOSTILE[case]
    with pytest.raises(QuantizationError, match=message) as caught:
        read_importance(make(tmp_path / "x"), CONFIG)
    assert str(caught.value).startswith(str(tmp_path / "x")) and str(caught.value).isprintable()


@pytest.mark.parametrize("wrong", [bad(np.nan), bad(np.inf), bad(-1), GOOD[:64]])
@pytest.mark.parametrize("name", ["Q4_0", "Q8_0", "Q4_K"])
def test_blocks_take_no_importance_that_is_none(name: str, wrong: NDArray[np.float32]) -> None:
    made = GgmlFormat(name)
    with pytest.raises(QuantizationError, match="importance"):
        made.encode(np.ones((1, 256), np.float32), np.empty((1, made.row_bytes(256)), np.uint8), wrong)


def encoded(name: str, values: NDArray[np.float32], importance: NDArray[np.float32] | None) -> NDArray[np.float32]:
    made = GgmlFormat(name)
    out = np.empty((len(values), made.row_bytes(values.shape[1])), np.uint8)
    made.encode(values, out, importance)
    decoded: NDArray[np.float32] = gguf.quants.dequantize(out, gguf.GGMLQuantizationType[name])
    return decoded


@pytest.mark.parametrize("name", ["Q4_0", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K"])
def test_weighed_errors_get_smaller(name: str) -> None:
    draw = np.random.Generator(np.random.PCG64(2))
    values = draw.standard_normal((64, 512), np.float32)
    importance = draw.lognormal(0, 2, 512).astype(np.float32)
    plain, weighed = (
        float((((encoded(name, values, each) - values) ** 2) * importance).sum()) for each in (None, importance)
    )
    assert weighed < 0.95 * plain


@pytest.mark.parametrize("name", ["Q4_0", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K", "Q8_0"])
@pytest.mark.parametrize("kind", ["a block of zeros", "all zeros", "a few zeros", "huge", "tiny", "subnormal"])
def test_columns_that_never_mattered_keep_their_weights(name: str, kind: str) -> None:
    """With such an importance ggml itself stores blocks of zeros, or of NaN."""
    draw = np.random.Generator(np.random.PCG64(3))
    values, importance = draw.standard_normal((8, 512), np.float32), draw.lognormal(0, 1, 512).astype(np.float32)
    if kind == "a block of zeros":
        importance[:288] = 0
    elif kind == "a few zeros":
        importance[::3] = 0
    else:
        importance *= np.float32({"all zeros": 0, "huge": 1e37, "tiny": 1e-36, "subnormal": 1e-43}[kind])
    error = np.sqrt(((encoded(name, values, importance) - values) ** 2).mean())
    assert error < 1.2 * np.sqrt(((encoded(name, values, None) - values) ** 2).mean())


def test_an_importance_without_zeros_stays_as_it_is() -> None:
    importance = np.random.Generator(np.random.PCG64(4)).lognormal(0, 9, 512).astype(np.float32)
    np.testing.assert_array_equal(positive(importance, 512), importance)
    scaled = positive(importance * np.float32(2.0**70), 512)
    assert len(np.unique(np.log2(scaled / importance))) == 1 and scaled.max() < 1


@pytest.mark.slow
def test_llama_cpps_tools_take_ours_and_ours_take_theirs(nano: Source, tmp_path: Path) -> None:
    """llama-imatrix measures, we read and write it, and llama-quantize makes of both what we make."""
    tools = Path(os.environ["MIMO_LLAMA_PROGRAMS"])

    def run(tool: str, *options: object) -> None:
        done = subprocess.run(
            [tools / tool, *map(str, options)], capture_output=True, text=True, check=False, timeout=300
        )
        assert done.returncode == 0, done.stderr[-2000:]

    checkpoint = Checkpoint.open(nano.path)
    plain = convert_checkpoint(nano, tmp_path / "bf16.gguf", to="gguf", dtype="bf16")[0]
    text = tmp_path / "text"
    text.write_text("\n".join(each.question for each in read_problems(nano.path)[:400]), encoding="utf-8")
    measured = ["-m", plain, "-f", text, "-c", 256, "--chunks", 8, "-t", 2, "--process-output"]
    for form in ("gguf", "dat"):
        run("llama-imatrix", *measured, "-o", tmp_path / f"theirs.{form}", "--output-format", form)
    theirs, old = (read_importance(tmp_path / f"theirs.{form}", checkpoint.config) for form in ("gguf", "dat"))
    assert len(theirs) == 7 * checkpoint.config.num_hidden_layers + 1
    for name, each in theirs.items():
        np.testing.assert_allclose(old[name], each, rtol=1e-5)
    ours_file = write_importance(tmp_path / "ours.gguf", theirs, checkpoint.config, tokens=2048, datasets=["text"])
    ours = read_importance(ours_file, checkpoint.config)
    for file, importance in ((tmp_path / "theirs.gguf", theirs), (ours_file, ours), (tmp_path / "theirs.dat", old)):
        for name in ("q4_k_m", "q5_k_m", "q6_k"):
            made = write_model(
                checkpoint, tmp_path / "made.gguf", RECIPES[name], {"name": "x"}, calibrated=calibration(importance)
            )[0][0]  # fmt: skip
            run("llama-quantize", "--imatrix", file, plain, tmp_path / "expected.gguf", name)
            assert_equal_tensors(made, tmp_path / "expected.gguf")
    both = ["--in-file", ours_file, "--in-file", tmp_path / "theirs.gguf"]
    run("llama-imatrix", "-m", plain, *both, "-o", tmp_path / "sum.gguf")
    added = read_importance(tmp_path / "sum.gguf", checkpoint.config)
    for name, each in theirs.items():
        np.testing.assert_allclose(added[name], each, rtol=1e-5)


def assert_equal_tensors(made: Path, expected: Path) -> None:
    found, wanted = ({each.name: each for each in gguf.GGUFReader(path).tensors} for path in (made, expected))
    assert found.keys() == wanted.keys()
    for name, tensor in found.items():
        assert tensor.tensor_type == wanted[name].tensor_type, name
        np.testing.assert_array_equal(tensor.data, wanted[name].data, err_msg=name)


def test_a_config_without_mtp_layers_has_no_matrices_of_them() -> None:
    found = matrices(tiny_config(mtp_layers=0))
    assert len(found) == 2 * 7 + 1 and not any("mtp" in name or "embed" in name for name in found)
