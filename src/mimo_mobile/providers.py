"""Which of ONNX Runtime's execution providers are on this machine, and the typed options of each.

It is an error here when a provider cannot do what it was asked for: ONNX Runtime itself would put the work on the CPU
and say nothing. This module knows no model of ours.
"""

from __future__ import annotations

import dataclasses
import importlib
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

from mimo_mobile.errors import BackendUnavailableError, BadArgumentError, MissingDependencyError

Ep = Literal["auto", "cpu", "qnn", "webgpu", "xnnpack", "nnapi", "coreml"]
"""``auto`` takes the NPU when there is one, the model was compiled for it and it passes its test; else the CPU."""

CPU = "CPUExecutionProvider"

NO_FALLBACK = "session.disable_cpu_ep_fallback"
RECORD = "session.record_ep_graph_assignment_info"

SHARE, STOP_SHARING = "ep.share_ep_contexts", "ep.stop_share_ep_contexts"
"""Sessions with the first have one binary in common, of which each takes its graph; the second ends compiling one.
Source: https://onnxruntime.ai/docs/execution-providers/EP-Context-Design.html."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuOptions:
    """The CPU has no options here: it takes its settings as arguments of ``load``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QnnOptions:
    """Options of the Hexagon NPU. Source: https://onnxruntime.ai/docs/execution-providers/QNN-ExecutionProvider.html.

    Attributes:
        soc: The chip whose binaries are taken from a folder; it is needed only when there are binaries for several.
        activations: ``uint16`` takes what ``--target qdq`` compiled, for NPUs that compute with nothing else.
        htp_performance_mode: How fast the NPU runs, and so how hot it gets.
        vtcm_mb: How much of the NPU's own memory may be used; 0 is all.
        profiling_level: ``basic`` or ``detailed`` writes profiling_file_path.
        profiling_file_path: The .csv file for the profile.
    """

    soc: str = ""
    activations: Literal["float", "uint16"] = "float"
    htp_performance_mode: Literal[
        "burst", "balanced", "default", "high_performance", "power_saver", "sustained_high_performance"
    ] = "burst"
    vtcm_mb: int = 0
    profiling_level: Literal["off", "basic", "detailed"] = "off"
    profiling_file_path: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WebGpuOptions:
    """Options of the GPU, which Dawn drives.

    Attributes:
        validation_mode: How much Dawn checks.
        power_preference: Which GPU computes where there are two.
    """

    validation_mode: Literal["disabled", "wgpuOnly", "basic", "full"] = "basic"
    power_preference: Literal["high-performance", "low-power"] = "high-performance"


@dataclass(frozen=True, slots=True, kw_only=True)
class XnnpackOptions:
    """Options of XNNPACK.

    Attributes:
        intra_op_num_threads: How many threads of its own XNNPACK has.
    """

    intra_op_num_threads: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class NnapiOptions:
    """NNAPI, on Android, has no options here, as it takes flags only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CoreMlOptions:
    """Options of Apple's CoreML.

    Attributes:
        ml_compute_units: Which units CoreML may compute on.
    """

    ml_compute_units: Literal["ALL", "CPUAndNeuralEngine", "CPUAndGPU", "CPUOnly"] = "ALL"


Options = CpuOptions | QnnOptions | WebGpuOptions | XnnpackOptions | NnapiOptions | CoreMlOptions


@dataclass(frozen=True, slots=True)
class Provider:
    """One execution provider.

    Attributes:
        name: What users type.
        ort_name: Its name in ONNX Runtime.
        options: The type of its options.
        module: The package that brings it as a plug-in; empty when only a build of ONNX Runtime has it.
        extra: The extra of mimo-mobile that installs the package.
        lacks: The operators of an int4 decoder that it has no kernels for; without them it does not help a language
            model.
        source: The page that documents which operators it has.
    """

    name: str
    ort_name: str
    options: type[Any]
    module: str = ""
    extra: str = ""
    lacks: frozenset[str] = frozenset()
    source: str = ""


_DECODER = frozenset({"MatMulNBits", "GroupQueryAttention", "GatherBlockQuantized"})
_DOCS = "https://onnxruntime.ai/docs/execution-providers/"
_KERNELS = "https://github.com/microsoft/onnxruntime/tree/v1.22.0/"

PROVIDERS = {
    each.name: each
    for each in (
        Provider("cpu", CPU, CpuOptions),
        Provider("qnn", "QNNExecutionProvider", QnnOptions, "onnxruntime_qnn", "qnn"),
        Provider("webgpu", "WebGpuExecutionProvider", WebGpuOptions, "onnxruntime_ep_webgpu", "webgpu"),
        Provider(
            "xnnpack", "XnnpackExecutionProvider", XnnpackOptions,
            lacks=_DECODER | {"SimplifiedLayerNormalization", "SkipSimplifiedLayerNormalization"},
            source=_DOCS + "Xnnpack-ExecutionProvider.html",
        ),
        Provider(
            "nnapi", "NnapiExecutionProvider", NnapiOptions,
            lacks=_DECODER | {"SimplifiedLayerNormalization", "SkipSimplifiedLayerNormalization", "ReduceSum"},
            source=_KERNELS + "tools/ci_build/github/android/nnapi_supported_ops.md",
        ),
        Provider(
            "coreml", "CoreMLExecutionProvider", CoreMlOptions,
            lacks=_DECODER | {"SimplifiedLayerNormalization", "SkipSimplifiedLayerNormalization"},
            source=_KERNELS + "tools/ci_build/github/apple/coreml_supported_mlprogram_ops.md",
        ),
    )
}  # fmt: skip
"""Every provider by its name."""


def parse_options(ep: str, pairs: Sequence[str]) -> Options:
    """``["vtcm_mb=8"]`` as a provider's options.

    Raises:
        BadArgumentError: The provider has no such option, or the option has no such value.
    """
    kind = PROVIDERS["qnn" if ep == "auto" else ep].options  # what auto may take beside the CPU, which has none
    kinds, values = get_type_hints(kind), dict[str, Any]()
    for pair in pairs:
        name, _, text = pair.partition("=")
        if name not in kinds:
            raise BadArgumentError(f"{ep} has no option {name!r}; it has {', '.join(kinds) or 'none'}")
        choices = get_args(kinds[name])
        if (choices and text not in choices) or (kinds[name] is int and not text.isdecimal()):
            raise BadArgumentError(f"{ep}: {name} {text!r}; {', '.join(choices) or 'a whole number'} expected")
        values[name] = int(text) if kinds[name] is int else text
    made: Options = kind(**values)
    return made


@dataclass(frozen=True, slots=True)
class Device:
    """Something that a provider can compute on.

    Attributes:
        ep: The provider, as users type it.
        kind: ``CPU``, ``GPU`` or ``NPU``; QNN's simulator on a PC says CPU.
        vendor: Who made the hardware.
        version: The provider's version.
    """

    ep: str
    kind: str
    vendor: str
    version: str


def register(ort: Any, provider: Provider) -> list[Any]:
    """A provider's ``OrtEpDevice``s, for which its plug-in is loaded if it has one; empty when this build has none.

    Raises:
        MissingDependencyError: The provider's plug-in is not installed.
        BackendUnavailableError: The plug-in cannot be loaded.
    """
    found = [each for each in ort.get_ep_devices() if each.ep_name == provider.ort_name]
    if found or not provider.module or provider.ort_name in ort.get_available_providers():
        return found
    if find_spec(provider.module) is None:
        raise MissingDependencyError(provider.module.replace("_", "-"), provider.extra)
    try:
        plugin = importlib.import_module(provider.module)
        ort.register_execution_provider_library(provider.ort_name, plugin.get_library_path())
    except Exception as error:  # what a foreign library says when it cannot be loaded has no common base
        raise BackendUnavailableError(f"{provider.name}: its plug-in cannot be loaded: {error}") from error
    return [each for each in ort.get_ep_devices() if each.ep_name == provider.ort_name]


def discover(ort: Any) -> dict[str, list[Device] | str]:
    """The devices that each provider can compute on here, or why it is not there, by the provider's name."""
    found: dict[str, list[Device] | str] = {}
    for name, provider in PROVIDERS.items():
        try:
            devices = register(ort, provider)
        except (MissingDependencyError, BackendUnavailableError) as error:
            found[name] = str(error)
            continue
        if devices:
            found[name] = [
                Device(name, each.device.type.name, each.device.vendor or each.ep_vendor, version(each))
                for each in devices
            ]
        elif provider.ort_name in ort.get_available_providers():
            found[name] = [Device(name, "CPU" if name == "xnnpack" else "unknown", "", ort.__version__)]
        elif provider.module:
            found[name] = f"its plug-in is installed and finds no device ({provider.ort_name})"
        else:
            found[name] = f"not in this build of ONNX Runtime {ort.__version__}"
    return found


def version(device: Any) -> str:
    """The version of a device's provider and, where the device tells it, of its driver."""
    parts = {**device.ep_metadata, **device.device.metadata}
    return " ".join(f"{key} {parts[key]}" for key in ("version", "driver_version") if key in parts)


def versions(ort: Any, provider: Provider) -> str:
    """The versions of all that a provider's results depend on: ONNX Runtime, plug-in, drivers, system."""
    plugin = f"{provider.module} {metadata.version(provider.module)}" if _is_plugin(provider) else ""
    devices = [version(device) for device in register(ort, provider)]
    return " ".join(filter(None, [f"onnxruntime {ort.__version__}", plugin, *devices, platform.version()]))


def _is_plugin(provider: Provider) -> bool:
    """Whether the provider comes from a package; some builds of ONNX Runtime have it built in instead."""
    return bool(provider.module) and find_spec(provider.module) is not None


def attach(ort: Any, session_options: Any, ep: str, options: Options, **more: str) -> None:
    """Let sessions with these options compute on a provider first, on the CPU second.

    Args:
        ort: The module onnxruntime.
        session_options: The session options, which are changed.
        ep: The provider, as users type it.
        options: Its typed options.
        more: Further settings for the provider, e.g. those of a compiler.

    Raises:
        MissingDependencyError: The provider's plug-in is not installed.
        BackendUnavailableError: The provider is not here.
    """
    provider = PROVIDERS[ep]
    devices = register(ort, provider)
    settings = _settings(provider, options) | more
    if devices:
        first = min(devices, key=lambda device: ("NPU", "GPU", "CPU").index(device.device.type.name))
        session_options.add_provider_for_devices([first], settings)
    elif provider.ort_name in ort.get_available_providers():
        session_options.add_provider(provider.ort_name, settings)
    else:
        here = ", ".join(name for name, each in discover(ort).items() if not isinstance(each, str))
        raise BackendUnavailableError(f"--ep {ep}: not in this build of ONNX Runtime; here are {here}")


_QNN_AFFINITY = Path(__file__).with_name("qnn-affinity.json")
"""It makes QNN take GroupQueryAttention, which it otherwise leaves to the CPU."""

_NAMES = {
    "validation_mode": "validationMode",
    "power_preference": "powerPreference",
    "ml_compute_units": "MLComputeUnits",
}
"""The providers' own names of options that we name otherwise."""


def _settings(provider: Provider, options: Options) -> dict[str, str]:
    """The settings for ONNX Runtime: options that differ from their defaults, and what a provider always needs."""
    made = {
        _NAMES.get(each.name, each.name): str(value)
        for each in dataclasses.fields(options)
        if (value := getattr(options, each.name)) != each.default and each.name not in ("soc", "activations")
    }
    if provider.name == "qnn":
        if _is_plugin(provider):
            made["backend_path"] = importlib.import_module(provider.module).get_qnn_htp_path()
        else:  # what is built in finds its own library by its kind
            made["backend_type"] = "htp"
        made["op_affinity"] = str(_QNN_AFFINITY)
        made.setdefault("htp_performance_mode", "burst")
    return made
