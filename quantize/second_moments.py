"""How the inputs of a matrix go together, `[K, K]`, so that some weights can make good what others lost.

They are too many to be kept for every matrix. So calibration keeps on disk what each layer reads, and the layer is run
again when its turn comes. MTP layers are left out, whose weights have 8 bits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mimo_mobile.errors import QuantizationError
from mimo_mobile.mimo7b import MimoConfig
from mimo_mobile.quantize import forward
from mimo_mobile.quantize.calibrate import layout_of
from mimo_mobile.quantize.forward import Array, Tensors
from mimo_mobile.quantize.kept_work import KeptLayers

HEAD = "lm_head"

_SAME = {"k_proj": "q_proj", "v_proj": "q_proj", "up_proj": "gate_proj"}
"""Matrices that read the same as another one."""


@dataclass(frozen=True, slots=True)
class States:
    """The residual stream before each layer, and before the last norm, as calibration has kept it.

    Attributes:
        kept: What was kept of every layer.
        config: The model's configuration.
        lengths: How many tokens each text has.
    """

    kept: KeptLayers
    config: MimoConfig
    lengths: tuple[int, ...]

    def of(self, layer: str) -> list[Array]:
        """What a layer of the trunk reads `[T, E]`, for each text; of ``HEAD`` what the last norm reads.

        Raises:
            QuantizationError: It was changed or removed meanwhile.
        """
        count = self.config.num_hidden_layers
        step = count if layer == HEAD else forward.layer_names(count, 0).index(layer)
        try:
            whole = self.kept.read(step, layout_of(self.config, step, self.lengths))[-1]
        except (OSError, ValueError) as error:
            raise QuantizationError(f"{self.kept.work.path(step)}: changed while it was used: {error}") from error
        return np.split(whole, np.cumsum(self.lengths)[:-1])


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
        weights = {
            end: forward.Held(each.float32()) for end, each in forward.of_layer(config, self._tensors, layer).items()
        }
        made: dict[str, list[Array]] = {}
        for x in self._states.of(layer):
            inputs = forward.layer(config, weights, x).inputs()
            for end in {group_of(f"model.{layer}.{end}")[1] for end in inputs}:
                made.setdefault(end, []).append(inputs[end])
        return made
