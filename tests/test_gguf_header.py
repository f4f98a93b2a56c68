"""Our reader of GGUF headers against ggml's own numbers and the gguf package's reading, and against files that lie."""

from __future__ import annotations

import ctypes
import os
import struct
import time
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest

from mimo_mobile import ggml_library
from mimo_mobile.errors import ModelLoadError
from mimo_mobile.gguf_header import TYPES, GgufHeader
from mimo_mobile.inspection import inspect
from tests.gguf_parts import STRING, File, array, put, string, text


def test_types_have_ggml_s_blocks() -> None:
    library = ggml_library.load()
    library.ggml_type_size.restype, library.ggml_type_name.restype = ctypes.c_size_t, ctypes.c_char_p
    library.ggml_blck_size.restype = ctypes.c_int64
    found = {
        number: (library.ggml_type_name(number).decode().upper(), library.ggml_blck_size(number), size)
        for number in range(43)
        if (size := library.ggml_type_size(number))
    }
    assert found == TYPES


def test_all_is_read_as_the_gguf_package_reads_it(tiny_gguf: Path) -> None:
    ours, theirs = GgufHeader(tiny_gguf), gguf.GGUFReader(tiny_gguf)
    fields = {name: field for name, field in theirs.fields.items() if not name.startswith("GGUF.")}
    assert list(ours.keys()) == list(fields)
    for name, field in fields.items():
        is_array = ours.kind(name).startswith("array")
        assert (ours.array(name) if is_array else ours.value(name)) == field.contents(), name
    for tensor in theirs.tensors:
        found = ours.tensors[tensor.name]
        shape = tuple(int(size) for size in tensor.shape)[::-1]
        assert (found.type, found.shape) == (tensor.tensor_type.name, shape)
        assert (found.offset, found.bytes) == (tensor.data_offset, tensor.n_bytes)
    norm = next(tensor for tensor in theirs.tensors if tensor.name == "output_norm.weight")
    np.testing.assert_array_equal(ours.float32("output_norm.weight"), norm.data)


def test_the_digest_is_of_the_header_and_the_size(tiny_gguf: Path, tmp_path: Path) -> None:
    data = bytearray(tiny_gguf.read_bytes())
    path = tmp_path / "x.gguf"
    found = [GgufHeader(tiny_gguf).digest]
    data[-1] ^= 1
    for content in (data, data + b"\0", data.replace(b"general.name", b"general.nome")):
        path.write_bytes(content)
        found.append(GgufHeader(path).digest)
    assert found[0] == found[1]
    assert len(set(found)) == 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (os.mkfifo, "a pipe found, a file expected"),
        (lambda path: path.symlink_to("/dev/zero"), "a device found, a file expected"),
        (lambda path: path.mkdir(), "a folder found, a file expected"),
        (lambda path: path.symlink_to(path.name), "cannot be read: Too many levels of symbolic links"),
        (lambda path: None, "cannot be read: No such file or directory"),
    ],
)
def test_only_files_are_read(make: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    make(path)
    with pytest.raises(ModelLoadError, match=message):
        GgufHeader(path)


def test_a_header_that_never_ends_is_given_up_soon(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    element = array(STRING, 1_900_000, bytes(8 * 1_900_000))
    with path.open("wb") as file:
        file.write(b"GGUF" + struct.pack("<IQQ", 3, 0, 4000) + text("x") + element)
        file.truncate(1 << 40)  # a hole
    begin = time.process_time()
    with pytest.raises(ModelLoadError, match="a key without a name"):
        GgufHeader(path)
    assert time.process_time() - begin < 5


def test_inspect_shows_any_architecture(tiny_gguf: Path, tmp_path: Path) -> None:
    file = File.of(tiny_gguf)
    put("general.architecture", string("llama"))(file)
    found = inspect(file.write(tmp_path / "x.gguf"), tensors=True)
    assert found.facts["general.architecture"] == "llama"
    assert found.facts["tokenizer.ggml.tokens"].startswith("352 values, ")
    assert found.parameters == sum(int(np.prod(tensor.ne)) for tensor in file.tensors)
    assert found.tensors[0].name == file.tensors[0].name.decode()


def test_inspect_shows_the_beginning_of_a_long_token(tiny_gguf: Path, tmp_path: Path) -> None:
    file = File.of(tiny_gguf)
    tokens = [text("x" * 10_000)] * 352
    put("tokenizer.ggml.tokens", array(STRING, 352, b"".join(tokens)))(file)
    assert len(inspect(file.write(tmp_path / "x.gguf")).facts["tokenizer.ggml.tokens"]) < 250
