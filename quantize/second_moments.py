"""How the inputs of a matrix go together, `[K, K]`, so that some weights can make good what others lost.

They are too many to be kept for every matrix. So what each layer reads is kept on disk, and the layer is run again when
its turn comes. MTP layers are left out, whose weights have 8 bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mimo_mobile.mimo7b import MimoConfig
from mimo_mobile.progress import ProgressCallback, ignore
from mimo_mobile.quantize import forward
from mimo_mobile.quantize.forward import Array, Tensors, Trace

HEAD = "lm_head"

_SAME = {"k_proj": "q_proj", "v_proj": "q_proj", "up_proj": "gate_proj"}
"""Matrices that read the same as another one."""


@dataclass(frozen=True, slots=True)
class States:
    """The residual stream before each layer, and before the last norm, in files of a folder.

    Attributes:
        folder: The folder.
        lengths: How many tokens each text has.
    """

    folder: Path
    lengths: tuple[int, ...]

    def of(self, layer: str) -> list[Array]:
        """What a layer reads `[T, E]`, for each text; of ``HEAD`` what the last norm reads."""
        whole = np.load(self.folder / f"{layer}.npy", mmap_mode="r")
        return [np.array(part) for part in np.split(whole, np.cumsum(self.lengths)[:-1])]


def keep_states(
    config: MimoConfig,
    tensors: Tensors,
    texts: Sequence[Sequence[int]],
    folder: Path,
    progress: ProgressCallback = ignore,
) -> States:
    """Run the trunk over texts, and keep what every layer reads in a folder that is made for it."""
    folder.mkdir()
    kept: dict[str, list[Array]] = {}

    def keep(layer: str, trace: Trace) -> None:
        kept.setdefault(layer, []).append(trace.x)
        if len(kept[layer]) == len(texts):
            np.save(folder / f"{layer}.npy", np.concatenate(kept.pop(layer)))

    last = forward.run(config, tensors, texts, keep, stage="keep what layers read", progress=progress)
    np.save(folder / f"{HEAD}.npy", np.concatenate(last))
    return States(folder, tuple(map(len, texts)))


def group_of(name: str) -> tuple[str, str]:
    """The layer of a matrix by its tensor's name, and the first of those matrices that read the same.

    >>> group_of("model.layers.3.self_attn.v_proj.weight")
    ('layers.3', 'self_attn.q_proj.weight')
    """
    if name.startswith(HEAD):
        return HEAD, ""
    _, kind, number, end = name.split(".", 3)
    return f"{kind}.{number}", ".".join(_SAME.get(part, part) for part in end.split("."))


class SecondMoments:
    """The second moments of matrices' inputs; the inputs of one layer are in memory."""

    def __init__(self, config: MimoConfig, tensors: Tensors, states: States) -> None:
        """Compute with ``tensors``, which may have other channel scales than those that ``states`` came from."""
        self._config, self._tensors, self._states = config, tensors, states
        self._layer: str | None = None
        self._inputs: dict[str, list[Array]] = {}

    @property
    def tokens(self) -> int:
        """How many inputs they are the mean of."""
        return sum(self._states.lengths)

    def of(self, name: str) -> NDArray[np.float32]:
        """The mean of x xᵀ `[K, K]` over the inputs x of the matrix with a tensor's name."""
        layer, end = group_of(name)
        if layer != self._layer:
            self._layer, self._inputs = layer, {}  # those of the layer before go first
            self._inputs = self._read(layer)
        total: NDArray[np.float32] | None = None
        for values in self._inputs[end]:
            product = values.T @ values
            total = product if total is None else np.add(total, product, out=total)
        assert total is not None
        total /= np.float32(self.tokens)
        return total

    def _read(self, layer: str) -> dict[str, list[Array]]:
        """What the matrices of a layer read, for each text."""
        config = self._config
        if layer == HEAD:
            norm = self._tensors["model.norm.weight"].float32()
            return {"": [forward.rms_norm(x, norm, config.rms_norm_eps) for x in self._states.of(layer)]}
        weights = forward.layer_weights(config, self._tensors, layer)
        made: dict[str, list[Array]] = {}
        for x in self._states.of(layer):
            inputs = forward.layer(config, weights, x).inputs()
            for end in {group_of(f"model.{layer}.{end}")[1] for end in inputs}:
                made.setdefault(end, []).append(inputs[end])
        return made
