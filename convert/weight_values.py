"""Looks at every weight of a checkpoint before any of them is converted: all must be numbers that our formats can hold.

Memory and disk limit its speed, not the processor: 16 GB/s on two cores when the files are in memory.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import numpy as np

from mimo_mobile.convert.formats import LARGEST
from mimo_mobile.convert.shards import BLOCK_WEIGHTS, TensorView
from mimo_mobile.errors import CheckpointError
from mimo_mobile.progress import Progress, ProgressCallback, ignore

_LARGEST_BITS = int(np.float32(LARGEST).view(np.uint32))

# Without its sign bit, a number's bits grow with its magnitude; infinity and NaN come last.
_MOST_BITS = {"BF16": _LARGEST_BITS >> 16, "F16": int(np.float16(LARGEST).view(np.uint16)), "F32": _LARGEST_BITS}
_BITS = {"BF16": np.uint16, "F16": np.uint16, "F32": np.uint32}


def check_values(tensors: Iterable[TensorView], progress: ProgressCallback = ignore) -> None:
    """See that every weight is finite and small enough for all of our formats.

    Args:
        tensors: The tensors to look at.
        progress: A function that is called often.

    Raises:
        CheckpointError: A weight is NaN, infinite or too large; the message names the first one.
    """
    views = list(tensors)
    done, total = 0, sum(view.nbytes for view in views)
    wrong: dict[str, str] = {}
    threads = os.cpu_count() or 2
    with ThreadPoolExecutor(threads) as pool:
        blocks = _blocks(views)
        while some := list(islice(blocks, 8 * threads)):  # no more at a time, so that Ctrl-C ends it soon
            for (view, _, _), (found, size) in zip(some, pool.map(_checked, some), strict=True):
                if found:
                    wrong.setdefault(view.name, f"{view.path}: tensor {view.name} holds {found}")
                done += size
                progress(Progress("check weights", done, total, view.name))
    if wrong:
        more = f" (and {len(wrong) - 1} more tensors)" if len(wrong) > 1 else ""
        raise CheckpointError(
            f"{next(iter(wrong.values()))}{more}; finite numbers up to {LARGEST:g} expected, which all formats can"
            " hold. The checkpoint is damaged: download it again"
        )


_Block = tuple[TensorView, int, int]


def _blocks(views: Iterable[TensorView]) -> Iterator[_Block]:
    """All rows of all tensors, in pieces: (tensor, first row, row after the last)."""
    for view in views:
        rows = view.shape[0]
        step = max(1, BLOCK_WEIGHTS * rows // view.size)
        yield from ((view, start, min(start + step, rows)) for start in range(0, rows, step))


def _checked(block: _Block) -> tuple[str, int]:
    """The first weight of a block that cannot be stored, with its place, or an empty text; and the block's bytes."""
    view, start, stop = block
    stored = view.array(start, stop)
    bits = stored.reshape(-1).view(_BITS[view.dtype])
    without_sign = bits & np.array(np.iinfo(bits.dtype).max >> 1, bits.dtype)
    if without_sign.max() <= _MOST_BITS[view.dtype]:
        return "", stored.nbytes
    index = int((without_sign > _MOST_BITS[view.dtype]).argmax())
    place = np.unravel_index(index + start * (view.size // view.shape[0]), view.shape)
    return f"{float(stored.reshape(-1)[index]):.3g} at {[int(each) for each in place]}", stored.nbytes
