"""What is in a binary for an NPU, by QNN's own System library: its graphs, their tensors, and the chip.

This is how binaries are seen to be what was asked for that no simulator can load. The structures are those of QAIRT's
headers ``QnnTypes.h``, ``System/QnnSystemContext.h`` and ``System/QnnSystemInterface.h``, system API 1.x.
"""

from __future__ import annotations

import ctypes
import importlib
import mmap
from collections.abc import Mapping
from ctypes import CFUNCTYPE, POINTER, Structure, byref, c_char_p, c_uint8, c_uint32, c_uint64, c_void_p
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mimo_mobile.errors import BackendUnavailableError
from mimo_mobile.providers import PROVIDERS

LIBRARY = "libQnnSystem.so"

TYPES = {0x0232: "FLOAT", 0x0216: "FLOAT16", 0x0032: "INT32"}
"""ONNX's names of the types that our pieces read and give, by QNN's numbers."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """What a graph reads or gives: ONNX's name of its type, and its shape."""

    type: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Graph:
    """One graph in a binary, with the tensors that it reads and gives, by name."""

    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class ContextBinary:
    """What a binary says of itself.

    Attributes:
        soc_model: QNN's number of the chip that it is for.
        blob_bytes: The size of what the NPU loads of it.
        graphs: Its graphs, by name.
    """

    soc_model: int
    blob_bytes: int
    graphs: Mapping[str, Graph]


class _Version(Structure):
    _fields_ = (("major", c_uint32), ("minor", c_uint32), ("patch", c_uint32))


class _System(Structure):
    """``QnnSystemInterface_t``, as far as it is needed."""

    _fields_ = (
        ("backend_id", c_uint32),
        ("name", c_char_p),
        ("version", _Version),
        ("create", c_void_p),
        ("get_binary_info", c_void_p),
        ("get_metadata", c_void_p),
        ("free", c_void_p),
    )


class _TensorV1(Structure):
    """``Qnn_TensorV1_t``, with which version 2 begins."""

    _fields_ = (
        ("id", c_uint32),
        ("name", c_char_p),
        ("kind", c_uint32),
        ("format", c_uint32),
        ("type", c_uint32),
        ("quantization", c_uint64 * 5),
        ("rank", c_uint32),
        ("dimensions", POINTER(c_uint32)),
        ("memory_kind", c_uint32),
        ("memory", c_uint64 * 2),
    )


class _Tensor(Structure):
    """``Qnn_Tensor_t``; what follows version 1 is only there for its size."""

    _fields_ = (
        ("version", c_uint32),
        ("first", _TensorV1),
        ("is_dynamic", c_void_p),
        ("sparse", c_uint32 * 3),
        ("is_produced", c_uint8),
    )


class _Graph(Structure):
    """``QnnSystemContext_GraphInfo_t``, whose three versions begin alike; the size is that of the third."""

    _fields_ = (
        ("version", c_uint32),
        ("name", c_char_p),
        ("input_count", c_uint32),
        ("inputs", POINTER(_Tensor)),
        ("output_count", c_uint32),
        ("outputs", POINTER(_Tensor)),
        ("updatable_count", c_uint32),
        ("updatables", c_void_p),
        ("blob_size", c_uint32),
        ("blob", c_void_p),
        ("first_op", c_uint32),
        ("last_op", c_uint32),
    )


class _Info(Structure):
    """``QnnSystemContext_BinaryInfo_t`` of version 3, which alone has the chip's number."""

    _fields_ = (
        ("version", c_uint32),
        ("backend_id", c_uint64),  # 32 bits, aligned like the pointer behind it
        ("build_id", c_char_p),
        ("core_version", _Version),
        ("backend_version", _Version),
        ("soc_version", c_char_p),
        ("blob_version", _Version),
        ("blob_bytes", c_uint64),
        ("tensor_count", c_uint32),
        ("tensors", c_void_p),
        ("graph_count", c_uint32),
        ("graphs", POINTER(_Graph)),
        ("platform", c_void_p),
        ("metadata_size", c_uint32),
        ("metadata", c_void_p),
        ("soc_model", c_uint32),
    )


def read(path: Path) -> ContextBinary:
    """What a binary that was just compiled here says of itself.

    Raises:
        BackendUnavailableError: QNN's System library is not there, cannot read it, or is of another version than is
            known here.
    """
    system = _load()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as data:
        view = (ctypes.c_char * len(data)).from_buffer(data)
        handle, info = c_void_p(), POINTER(_Info)()
        create = CFUNCTYPE(c_uint64, POINTER(c_void_p))(system.create)
        get = CFUNCTYPE(c_uint64, c_void_p, c_void_p, c_uint64, POINTER(POINTER(_Info)), POINTER(c_uint64))(
            system.get_binary_info
        )
        free = CFUNCTYPE(c_uint64, c_void_p)(system.free)
        try:
            error = create(byref(handle))
            error = error or get(handle, ctypes.addressof(view), len(data), byref(info), byref(c_uint64()))
            if error:
                raise BackendUnavailableError(f"{path}: QNN cannot read what it compiled: error {error:#x}")
            if info.contents.version != 3:
                raise BackendUnavailableError(
                    f"{path}: QNN describes it by version {info.contents.version}, 3 expected; install the"
                    " onnxruntime-qnn that mimo-mobile names"
                )
            return _read(info.contents)
        finally:
            if handle:
                free(handle)
            del view


def _load() -> _System:
    module = PROVIDERS["qnn"].module
    path = Path(importlib.import_module(module).__file__ or "").with_name(LIBRARY)
    try:
        get = ctypes.CDLL(str(path)).QnnSystemInterface_getProviders
    except (OSError, AttributeError) as error:
        raise BackendUnavailableError(f"{path}: QNN's System library cannot be loaded: {error}") from error
    get.argtypes, get.restype = (POINTER(POINTER(POINTER(_System))), POINTER(c_uint32)), c_uint64
    found, count = POINTER(POINTER(_System))(), c_uint32()
    if get(byref(found), byref(count)) or not count.value or found[0].contents.version.major != 1:
        raise BackendUnavailableError(f"{path}: QNN's system API of version 1 expected")
    system: _System = found[0].contents
    return system


def _read(info: Any) -> ContextBinary:
    graphs = [info.graphs[index] for index in range(info.graph_count)]
    return ContextBinary(
        info.soc_model,
        info.blob_bytes,
        {
            each.name.decode(): Graph(
                _tensors(each.inputs, each.input_count), _tensors(each.outputs, each.output_count)
            )
            for each in graphs
        },
    )


def _tensors(found: Any, count: int) -> dict[str, Tensor]:
    return {
        tensor.name.decode(): Tensor(
            TYPES.get(tensor.type, f"{tensor.type:#06x}"), tuple(tensor.dimensions[: tensor.rank])
        )
        for tensor in (found[index].first for index in range(count))
    }
