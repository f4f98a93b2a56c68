"""A GGUF file's metadata, read by ggml's own parser; every access checks the type, so that no file can abort us.

Source: gguf.h, https://github.com/ggml-org/llama.cpp/blob/0c1e57098/ggml/include/gguf.h
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mimo_mobile import ggml_library
from mimo_mobile.errors import ModelLoadError

# enum gguf_type → (name of the getter, its C type)
_SCALARS: dict[int, tuple[str, Any]] = {
    0: ("gguf_get_val_u8", ctypes.c_uint8), 1: ("gguf_get_val_i8", ctypes.c_int8),
    2: ("gguf_get_val_u16", ctypes.c_uint16), 3: ("gguf_get_val_i16", ctypes.c_int16),
    4: ("gguf_get_val_u32", ctypes.c_uint32), 5: ("gguf_get_val_i32", ctypes.c_int32),
    6: ("gguf_get_val_f32", ctypes.c_float), 7: ("gguf_get_val_bool", ctypes.c_bool),
    8: ("gguf_get_val_str", ctypes.c_char_p), 10: ("gguf_get_val_u64", ctypes.c_uint64),
    11: ("gguf_get_val_i64", ctypes.c_int64), 12: ("gguf_get_val_f64", ctypes.c_double),
}  # fmt: skip
_INT32, _BOOL, _STRING, _ARRAY = 5, 7, 8, 9


class _InitParams(ctypes.Structure):
    _fields_ = (("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p))


class GgufHeader:
    """Metadata of one file, as a context manager.

    Raises:
        ModelLoadError: The file is no GGUF or damaged.
    """

    def __init__(self, path: Path) -> None:
        """Read the header of ``path``; weights are not touched."""
        self.path = path
        self._library = ggml_library.load()
        read = self._function("gguf_init_from_file", ctypes.c_void_p, ctypes.c_char_p, _InitParams)
        self._context = read(str(path).encode(), _InitParams(True, None))
        if not self._context:
            raise ModelLoadError(f"{path}: no valid GGUF file; download or convert it again")

    def __enter__(self) -> GgufHeader:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._function("gguf_free", None, ctypes.c_void_p)(self._context)
        self._context = None

    def value(self, key: str) -> Any:
        """A number, truth value or text; None when the key is not there or holds an array."""
        index, kind = self._find(key)
        if kind not in _SCALARS:
            return None
        name, result = _SCALARS[kind]
        found = self._function(name, result, ctypes.c_void_p, ctypes.c_int64)(self._context, index)
        return found.decode("utf-8", errors="replace") if isinstance(found, bytes) else found

    def strings(self, key: str) -> list[str]:
        """An array of texts.

        Raises:
            ModelLoadError: The key is not there or holds something else.
        """
        index, count = self._array(key, _STRING)
        get = self._function("gguf_get_arr_str", ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_size_t)
        return [get(self._context, index, number).decode("utf-8", errors="replace") for number in range(count)]

    def integers(self, key: str) -> list[int]:
        """An array of 32-bit integers.

        Raises:
            ModelLoadError: The key is not there or holds something else.
        """
        index, count = self._array(key, _INT32)
        get = self._function("gguf_get_arr_data", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)
        return list((ctypes.c_int32 * count).from_address(get(self._context, index))) if count else []

    def truths(self, key: str) -> list[bool]:
        """An array of truth values; empty when the key is not there or holds something else."""
        index, kind = self._find(key)
        signature = ctypes.c_void_p, ctypes.c_int64
        if (
            kind != _ARRAY
            or self._function("gguf_get_arr_type", ctypes.c_int, *signature)(self._context, index) != _BOOL
        ):
            return []
        count = self._function("gguf_get_arr_n", ctypes.c_size_t, *signature)(self._context, index)
        data = self._function("gguf_get_arr_data", ctypes.c_void_p, *signature)(self._context, index)
        return list((ctypes.c_bool * count).from_address(data)) if count else []

    def float32(self, name: str) -> NDArray[np.float32]:
        """A tensor of float32 numbers, flat.

        Raises:
            ModelLoadError: It is not there, of another type, or beyond the file's end.
        """
        signature = ctypes.c_void_p, ctypes.c_int64
        index = self._tensor(name)
        kind = (
            self._function("gguf_get_tensor_type", ctypes.c_int, *signature)(self._context, index) if index >= 0 else -1
        )
        if kind != 0:
            raise ModelLoadError(f"{self.path}: {name} in float32 expected; convert the checkpoint again")
        start = self._function("gguf_get_data_offset", ctypes.c_size_t, ctypes.c_void_p)(self._context)
        offset = start + self._function("gguf_get_tensor_offset", ctypes.c_size_t, *signature)(self._context, index)
        count = self.tensor_bytes(name) // 4
        found = np.fromfile(self.path, np.float32, count, offset=offset)
        if len(found) != count:
            raise ModelLoadError(f"{self.path}: ends before {name}; download it again")
        return found

    def tensor_bytes(self, name: str) -> int:
        """Size of a tensor; 0 when it is not there."""
        index = self._tensor(name)
        size = self._function("gguf_get_tensor_size", ctypes.c_size_t, ctypes.c_void_p, ctypes.c_int64)
        return int(size(self._context, index)) if index >= 0 else 0

    def _tensor(self, name: str) -> int:
        find = self._function("gguf_find_tensor", ctypes.c_int64, ctypes.c_void_p, ctypes.c_char_p)
        return int(find(self._context, name.encode()))

    def _array(self, key: str, expected: int) -> tuple[int, int]:
        index, kind = self._find(key)
        signature = ctypes.c_void_p, ctypes.c_int64
        if (
            kind == _ARRAY
            and self._function("gguf_get_arr_type", ctypes.c_int, *signature)(self._context, index) == expected
        ):
            return index, self._function("gguf_get_arr_n", ctypes.c_size_t, *signature)(self._context, index)
        raise ModelLoadError(f"{self.path}: {key} is missing or of another type; convert the checkpoint again")

    def _find(self, key: str) -> tuple[int, int]:
        find = self._function("gguf_find_key", ctypes.c_int64, ctypes.c_void_p, ctypes.c_char_p)
        index = find(self._context, key.encode())
        if index < 0:
            return index, -1
        return index, self._function("gguf_get_kv_type", ctypes.c_int, ctypes.c_void_p, ctypes.c_int64)(
            self._context, index
        )

    def _function(self, name: str, result: Any, *arguments: Any) -> Any:
        return ctypes.CFUNCTYPE(result, *arguments)((name, self._library))
