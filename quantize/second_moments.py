"""How the inputs of a matrix go together, `[K, K]`, so that some weights can make good what others lost.

They are too many to be kept for every matrix. So what a layer reads is kept, and it is run again when its turn comes.
MTP layers are left out, whose weights have 8 bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mimo_mobile.mimo7b import MimoConfig
from mimo_mobile.progress import ProgressCallback, ignore
from mimo_mobile.quantize import forward
from mimo_mobile.quantize.forward import Array, Tensors, Trace

HEAD = "lm_head.weight"


class SecondMoments:
    """The second moments of a checkpoint's matrices over texts; those of one group of matrices are in memory."""

    def __init__(
        self,
        config: MimoConfig,
        tensors: Tensors,
        texts: Sequence[Sequence[int]],
        folder: Path,
        progress: ProgressCallback = ignore,
    ) -> None:
        """Run the checkpoint over ``texts``; what every layer reads goes to files in ``folder``."""
        self._config, self._tensors, self._folder = config, tensors, folder
        self._count = sum(map(len, texts))
        kept: dict[str, list[Array]] = {}

        def keep(layer: str, trace: Trace) -> None:
            kept.setdefault(layer, []).append(trace.x)
            if len(kept[layer]) == len(texts):
                np.save(self._file(layer), np.concatenate(kept.pop(layer)))

        states = forward.run(config, tensors, texts, keep, stage="keep what layers read", progress=progress)
        np.save(self._file(HEAD), np.concatenate(states))
        self._lengths = [len(text) for text in texts]
        self._known: tuple[tuple[str, str], NDArray[np.float32]] | None = None

    def of(self, name: str) -> NDArray[np.float32]:
        """The mean of x xᵀ `[K, K]` over the inputs x of the matrix with a tensor's name."""
        key = self._group(name)
        if self._known is None or self._known[0] != key:
            self._known = None  # before the next one takes its place
            self._known = key, self._computed(*key)
        return self._known[1]

    def _group(self, name: str) -> tuple[str, str]:
        """The layer, and the first of the matrices that read the same."""
        if name == HEAD:
            return HEAD, ""
        _, kind, number, end = name.split(".", 3)
        same = {"k_proj": "q_proj", "v_proj": "q_proj", "up_proj": "gate_proj"}
        parts = [same.get(part, part) for part in end.split(".")]
        return f"{kind}.{number}", ".".join(parts)

    def _computed(self, layer: str, end: str) -> NDArray[np.float32]:
        config, total = self._config, None
        weights = forward.layer_weights(config, self._tensors, layer) if layer != HEAD else {}
        norm = self._tensors["model.norm.weight"].float32()
        for x in self._texts(layer):
            if weights:
                values = forward.layer(config, weights, x).inputs()[end]
            else:
                values = forward.rms_norm(x, norm, config.rms_norm_eps)
            product = values.T @ values
            total = product if total is None else np.add(total, product, out=total)
        assert total is not None
        total /= np.float32(self._count)
        return total

    def _texts(self, name: str) -> list[Array]:
        whole = np.load(self._file(name), mmap_mode="r")
        return [np.array(part) for part in np.split(whole, np.cumsum(self._lengths)[:-1])]

    def _file(self, name: str) -> Path:
        return self._folder / f"{name}.npy"
