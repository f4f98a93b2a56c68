"""QNN compiles graphs for one chip: each to a binary of its own, or all of a piece to one with one copy of the weights.

Every binary is read back (``context_binary``), and must hold what was asked for.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import onnx_ir as ir

from mimo_mobile import files, graph_file, providers
from mimo_mobile.convert.npu import context_binary
from mimo_mobile.convert.npu.context_binary import Graph, Tensor
from mimo_mobile.errors import BackendUnavailableError, MimoMobileError
from mimo_mobile.onnxruntime_library import first_line
from mimo_mobile.socs import Soc

Builders = Mapping[str, Callable[[], ir.Model]]


@dataclass(frozen=True, slots=True)
class Compiled:
    """What compiling one graph took.

    Attributes:
        name: The graph's name, with its window.
        seconds: How long it took to compile.
        size_bytes: The size of its binary; a shared one counts for the last graph in it.
        peak_rss_bytes: The largest resident memory of this process so far.
    """

    name: str
    seconds: float
    size_bytes: int
    peak_rss_bytes: int


class Compiler:
    """Compiles the pieces of one ONNX folder for one chip."""

    def __init__(self, ort: Any, folder: Path, out: Path, soc: Soc, *, quantized: bool) -> None:
        """Write to ``out`` what the weights in ``folder`` come to; ``quantized`` graphs have weights of their own."""
        self._ort, self._folder, self._out, self._soc, self._quantized = ort, folder, out, soc, quantized

    @staticmethod
    def groups(graphs: Builders, shared: bool) -> list[Builders]:
        """The graphs that go into one binary each: all windows of a piece, or one."""
        if not shared:
            return [{name: graphs[name]} for name in graphs]
        pieces = groupby(graphs, key=lambda name: name.partition(".")[0])
        return [{name: graphs[name] for name in names} for _, names in pieces]

    def compiled(self, group: Builders) -> Iterator[Compiled]:
        """Compile graphs into one binary, one after the other.

        Raises:
            BackendUnavailableError: QNN does not take a graph, or the binary is another than was asked for.
        """
        asked = {}
        for index, (name, build) in enumerate(group.items()):
            started, graph = time.perf_counter(), build()
            asked[name] = _asked(graph)
            self._compile(name, graph, alone=len(group) == 1, last=index + 1 == len(group))
            size = (self._out / f"{name}.onnx").stat().st_size
            if index + 1 == len(group):
                size += self._check(asked).stat().st_size
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            yield Compiled(name, round(time.perf_counter() - started, 2), size, peak)

    def _compile(self, name: str, graph: ir.Model, *, alone: bool, last: bool) -> None:
        source = self._folder / f".{name}.onnx{files.PARTIAL}"  # beside the weights: ONNX finds them nowhere else
        weights = self._folder / f".{name}.onnx.data{files.PARTIAL}"
        try:
            if self._quantized:  # what the integers were made of is not needed any more
                for unused in [each for each, value in graph.graph.initializers.items() if not value.uses()]:
                    del graph.graph.initializers[unused]
            ir.save(graph, source, external_data=weights.name if self._quantized else None)
            options = self._ort.SessionOptions()
            options.log_severity_level = 4
            options.add_session_config_entry(providers.NO_FALLBACK, "1")
            if not alone:
                # All sessions with SHARE compile into the first one's context, with HTP's weight sharing; the one with
                # STOP_SHARING writes the binary, by the first one's name, and ends the group:
                # https://github.com/onnxruntime/onnxruntime-qnn/blob/cee6c0d91e583d43f5ecef6391e93c19b4042c0f/onnxruntime/core/providers/qnn/qnn_execution_provider.cc#L836
                options.add_session_config_entry(providers.SHARE, "1")
                if last:
                    options.add_session_config_entry(providers.STOP_SHARING, "1")
            settings = {"soc_model": str(self._soc.model), "htp_graph_finalization_optimization_mode": "3"}
            settings["offload_graph_io_quantization"] = "0"  # inputs and outputs are quantized on the NPU, too
            providers.attach(self._ort, options, "qnn", providers.QnnOptions(), **settings)
            self._ort.ModelCompiler(options, str(source)).compile_to_file(str(self._out / f"{name}.onnx"))
        except (OSError, MimoMobileError):
            raise
        except Exception as error:  # ONNX Runtime's exceptions share no public base
            message = first_line(error)
            raise BackendUnavailableError(f"{name}: QNN does not take it for {self._soc.name}: {message}") from error
        finally:
            files.remove(source)
            files.remove(weights)

    def _check(self, asked: Mapping[str, Graph]) -> Path:
        """The binary of graphs, which holds them and nothing else, for the chip.

        A group that failed half-way leaves its graphs to the next one of this process; here that is an error, too.
        """
        nodes = {name: graph_file.read(self._out / f"{name}.onnx").nodes[0] for name in asked}
        (file,) = {str(node.attributes["ep_cache_context"]) for node in nodes.values()}
        found = context_binary.read(self._out / file)
        if found.soc_model != self._soc.model:
            raise BackendUnavailableError(f"{file}: compiled for chip {found.soc_model}, {self._soc.model} asked for")
        expected = {nodes[name].name: graph for name, graph in asked.items()}
        if found.graphs != expected:
            raise BackendUnavailableError(
                f"{file}: QNN compiled {len(found.graphs)} graphs, of which {len(expected)} were asked for with these"
                f" inputs and outputs: {', '.join(asked)}; compile in a new process, and report it if it happens again"
            )
        return self._out / file


def shares_weights(model: Path) -> bool:
    """Whether a compiled graph lies in one binary with others, whose name that binary has.

    Raises:
        ModelLoadError: It is no graph.
    """
    (node,) = graph_file.read(model).nodes
    return node.attributes.get("ep_cache_context") != f"{model.stem}_qnn.bin"


def _asked(model: ir.Model) -> Graph:
    def tensors(values: Any) -> dict[str, Tensor]:
        return {each.name: Tensor(each.dtype.name, tuple(int(size) for size in each.shape)) for each in values}

    return Graph(tensors(model.graph.inputs), tensors(model.graph.outputs))
