"""Opens an ONNX folder's graphs on one execution provider: session options, prepacked weights, memory."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mimo_mobile import providers
from mimo_mobile.errors import BackendUnavailableError, MimoMobileError, ModelLoadError
from mimo_mobile.layout import DATA, MODEL, MTP
from mimo_mobile.onnxruntime_library import first_line
from mimo_mobile.providers import Options
from mimo_mobile.runtime.decode.mtp_head import MtpHead
from mimo_mobile.runtime.devices import memory
from mimo_mobile.runtime.devices.memory import MemoryNeed, Ways
from mimo_mobile.runtime.devices.placement import Placement, placement
from mimo_mobile.runtime.load_config import LoadConfig
from mimo_mobile.runtime.mapped_files import MappedFiles
from mimo_mobile.runtime.onnx import prepacked
from mimo_mobile.runtime.onnx.backend import OrtBackend, OrtMtp
from mimo_mobile.runtime.onnx.cached_graph import CachedGraph
from mimo_mobile.runtime.onnx.kv_cache import KvCache
from mimo_mobile.runtime.shared import Shared, Use, file_key

logger = logging.getLogger(__name__)

_KV_TYPES = {"f32": "tensor(float)", "f16": "tensor(float16)", "int8": "tensor(int8)"}


@dataclass(slots=True)
class _Opened:
    """An InferenceSession, and the file that it maps."""

    session: Any
    data: Path | None

    def free(self) -> None:
        """Drop the session."""
        self.session = None


_sessions = Shared[_Opened](_Opened.free)


@dataclass(frozen=True, slots=True)
class OnnxOpening:
    """How a folder's graphs are opened.

    Attributes:
        ort: The module onnxruntime.
        folder: The ONNX folder.
        model: The graph of its trunk.
        config: What was asked for.
        context_length: How many tokens the KV caches hold.
        threads: How many CPU threads compute.
        ways: What it takes of memory, the preferred way first.
        reads_normed_states: Whether the MTP layer wants hidden states after the trunk's last norm.
        files: It watches what is mapped.
        kernels: Settings of sessions that say which of the CPU's kernels compute; none by default.
    """

    ort: Any
    folder: Path
    model: Path
    config: LoadConfig
    context_length: int
    threads: int
    ways: Ways
    reads_normed_states: bool = False
    files: MappedFiles = field(default_factory=MappedFiles)
    kernels: Mapping[str, str] = field(default_factory=dict)

    def backend(
        self, ep: str = "cpu", options: Options | None = None, cache: KvCache | None = None
    ) -> tuple[OrtBackend, Placement]:
        """The trunk and the MTP layer on a provider, and the placement of the trunk's nodes.

        The CPU computes what the provider leaves.

        Raises:
            MemoryFullError: There is no room.
            ModelLoadError: A graph cannot be loaded.
            BackendUnavailableError: The provider is not here, or the KV cache is not of the type that was asked for.
        """
        needs = self.ways(self.context_length)
        if ep == "cpu" and _sessions.has(self._key(self.model)):
            needs = [each.sharing_weights() for each in needs]
        need = memory.choose(self.folder, needs if cache is None else [each.sharing_kv() for each in needs])
        if needs[0].drafts and not need.drafts:
            logger.warning("%s: no memory for the MTP layer; going on without its drafts", self.folder)
        uses: list[Use[_Opened]] = []
        try:
            return self._backend(ep, options, cache, need, uses)
        except BaseException:
            for use in uses:
                use.end()
            raise

    def _backend(
        self, ep: str, options: Options | None, cache: KvCache | None, need: MemoryNeed, uses: list[Use[_Opened]]
    ) -> tuple[OrtBackend, Placement]:
        trunk = self._shared(self.model, ep, options, uses)
        graph = CachedGraph(self.ort, trunk, self.model, self.context_length, cache=cache)
        if self.config.kv_dtype is not None and graph.kv_type != _KV_TYPES[self.config.kv_dtype]:
            built = next((name for name, each in _KV_TYPES.items() if each == graph.kv_type), graph.kv_type)
            raise BackendUnavailableError(
                f"{self.model}: its KV cache is {built}, {self.config.kv_dtype} was asked for; leave it out"
            )
        sessions, head, mtp = {self.model: trunk}, None, self.folder / MTP
        if need.drafts:
            sessions[mtp] = layer = self._shared(mtp, ep, options, uses)
            head = MtpHead(OrtMtp(CachedGraph(self.ort, layer, mtp, self.context_length, ["hidden_states"])))
        return OrtBackend(graph, head, uses), placement(sessions, ep)

    def _shared(self, model: Path, ep: str, options: Options | None, uses: list[Use[_Opened]]) -> Any:
        """The InferenceSession of a graph; on the CPU all models that are loaded in the same way use one."""
        if ep != "cpu":
            return self._open(model, ep, options).session
        uses.append(_sessions.use(self._key(model), lambda: self._open(model, ep, options)))
        if (mapped := uses[-1].thing.data) is not None:
            self.files.add(mapped)
        return uses[-1].thing.session

    def _key(self, model: Path) -> Hashable:
        """What decides how a session of a graph on the CPU comes out."""
        files = [each for each in (model, model.with_name(DATA)) if each.is_file()]
        return file_key(*files), self.threads, self.config.spins, self.config.cache, *sorted(self.kernels.items())

    def _session_options(self) -> Any:
        made = self.ort.SessionOptions()
        made.intra_op_num_threads = self.threads
        made.inter_op_num_threads = 1
        made.log_severity_level = 4
        made.enable_mem_pattern = False  # it would keep a plan for each length of the text
        made.add_session_config_entry("session.intra_op.allow_spinning", "1" if self.config.spins else "0")
        # Trunk and MTP layer have threads of their own, which would take the cores from each other between two runs.
        made.add_session_config_entry("session.force_spinning_stop", "1")
        made.add_session_config_entry(providers.RECORD, "1")
        for key, value in self.kernels.items():
            made.add_session_config_entry(key, value)
        return made

    def _open(self, model: Path, ep: str, options: Options | None) -> _Opened:
        """A session of a graph; on the CPU it reads prepacked weights when there is a prepack cache."""
        ort, cache = self.ort, self.config.cache and ep == "cpu"

        def start(model: Path) -> _Opened:
            data = model.with_name(DATA)
            if mapped := data.is_file():
                self.files.add(data)
            made = self._session_options()
            if ep != "cpu":
                providers.attach(ort, made, ep, options or providers.PROVIDERS[ep].options())
                return _Opened(ort.InferenceSession(str(model), made), data if mapped else None)
            return _Opened(ort.InferenceSession(str(model), made, providers=[providers.CPU]), data if mapped else None)

        try:
            weights = prepacked.weight_bytes(model)
            place = prepacked.place(ort, model, self.kernels) if cache and weights >= prepacked.LEAST_BYTES else None
            found = prepacked.ready(place) if place else None
            if place and not found:
                needed = int(prepacked.GROWTH * weights)
                found = prepacked.make(ort, place, needed, self._session_options())
            if place and found:
                try:
                    return start(found / MODEL)
                except Exception as error:  # whatever is wrong with it, the model itself is there
                    logger.warning("%s: cannot be loaded, made anew next time: %s", found, first_line(error))
                    prepacked.discard(place)
            return start(model)
        except MimoMobileError:
            raise
        except Exception as error:  # its exceptions share no public base
            raise ModelLoadError(f"{model}: ONNX Runtime cannot load it: {first_line(error)}") from error
