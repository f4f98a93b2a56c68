"""What this machine is to a language model: CPU features, memory, execution providers, what each does with a model."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mimo_mobile import manifest, onnxruntime_library, providers
from mimo_mobile.errors import MimoMobileError, ModelLoadError, require
from mimo_mobile.layout import MODEL
from mimo_mobile.providers import PROVIDERS, Device
from mimo_mobile.runtime.devices import memory, placement
from mimo_mobile.runtime.devices.threads import physical_cores
from mimo_mobile.runtime.npu import folder as npu_folder
from mimo_mobile.runtime.onnx import ep_choice, graph_check

# Bits of AT_HWCAP and AT_HWCAP2, which tell what the kernel lets programs use.
# https://github.com/torvalds/linux/blob/v6.6/arch/arm64/include/uapi/asm/hwcap.h
_AT_HWCAP, _AT_HWCAP2 = 16, 26
_ARM = {
    "fp16": (_AT_HWCAP, 10),
    "dotprod": (_AT_HWCAP, 20),
    "sve": (_AT_HWCAP, 22),
    "sve2": (_AT_HWCAP2, 1),
    "i8mm": (_AT_HWCAP2, 13),
    "bf16": (_AT_HWCAP2, 14),
    "sme": (_AT_HWCAP2, 23),
}
_X86 = {
    "avx2": "avx2",
    "avx512": "avx512f",
    "avx_vnni": "avx_vnni",
    "avx512_vnni": "avx512_vnni",
    "amx_int8": "amx_int8",
}


@dataclass(frozen=True, slots=True)
class Machine:
    """What matters of a machine.

    Attributes:
        architecture: Its name in Python.
        processor: Its name in the system.
        physical_cores: How many of them this process may use.
        features: Whether the CPU has each of the features that int4 kernels look for.
        int4: What int4 weights are computed with in ONNX Runtime on this CPU.
        memory_bytes: All memory of the machine.
        available_bytes: What can be had of it without swapping.
        onnxruntime: Its version, or why it is not here.
        llama_cpp: What llama.cpp was built for and sees here, or why it is not here.
    """

    architecture: str
    processor: str
    physical_cores: int
    features: Mapping[str, bool]
    int4: str
    memory_bytes: int | None
    available_bytes: int | None
    onnxruntime: str
    llama_cpp: str


@dataclass(frozen=True, slots=True)
class ProviderState:
    """What an execution provider is on this machine.

    Attributes:
        ep: Its name as users type it.
        here: Its devices, or why it is not here.
        model: What it does with the model that was asked about.
    """

    ep: str
    here: str
    model: str


def machine() -> Machine:
    """This machine."""
    architecture, info = platform.machine(), _cpuinfo()
    features = _features(architecture, info)
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        version = str(onnxruntime_library.load().__version__)
    except MimoMobileError as error:
        version = str(error)
    return Machine(
        architecture,
        info.get("model name") or info.get("Hardware") or platform.processor() or "unknown",
        physical_cores(),
        features,
        int4_compute(architecture, features),
        total,
        memory.available_bytes(),
        version,
        _llama_cpp(),
    )


def int4_compute(architecture: str, features: Mapping[str, bool]) -> str:
    """What ONNX Runtime's int4 kernels compute with, given a CPU's features.

    Source: what MatMulNBits with accuracy_level 4 did on emulated ARM CPUs, in tests/arm.
    """
    if not features:
        return "unknown"
    if architecture in ("aarch64", "arm64"):
        if not features["dotprod"]:
            return "float32: no dotprod, so int4 saves memory and no time; take GGUF q4_0 on this CPU"
        return "int8 by KleidiAI" + (" (i8mm for prompts)" if features.get("i8mm") else " (dotprod)")
    if architecture in ("x86_64", "AMD64"):
        return "int8 (" + next((name for name in reversed(_X86) if features.get(name)), "no AVX2: slow") + ")"
    return "unknown"


def states(model: Path | None) -> list[ProviderState]:
    """Every provider, and what it does with an ONNX model; none without onnxruntime.

    Raises:
        ModelLoadError: ``model`` is no ONNX folder.
    """
    if find_spec("onnxruntime") is None:
        return []
    ort = onnxruntime_library.load()
    folder = _onnx_folder(model) if model is not None else None
    found = []
    for name, devices in providers.discover(ort).items():
        here = devices if isinstance(devices, str) else ", ".join(map(_told, devices))
        told = "" if folder is None else _on(ort, name, not isinstance(devices, str), folder)
        found.append(ProviderState(name, here, told))
    return found


def _told(device: Device) -> str:
    if device.ep == "qnn" and device.kind != "NPU":
        return f"the simulator of a PC, no NPU ({device.version})"
    return " ".join(filter(None, (device.kind, device.vendor, device.version)))


def _on(ort: Any, name: str, here: bool, folder: Path) -> str:
    """What a provider does with a model, known from its binaries, by loading it, or from the list of its kernels."""
    if name == "cpu":
        return f"all of it ({ep_choice.remembered(ort, folder)})"
    if name == "qnn":
        compiled = npu_folder.compiled_for(folder)
        if not compiled:
            return "nothing: not compiled; mimo quantize … --target qnn --soc …"
        return f"compiled for {', '.join(compiled)}" + ("" if here else "; not here")
    model, provider = folder / MODEL, PROVIDERS[name]
    graph_check.check(model, "trunk")
    if here:
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.add_session_config_entry(providers.RECORD, "1")
        options.add_session_config_entry("session.disable_prepacking", "1")
        try:
            providers.attach(ort, options, name, provider.options())
            session = ort.InferenceSession(str(model), options)
        except Exception as error:  # ONNX Runtime's exceptions share no public base
            return f"cannot be loaded: {str(error).splitlines()[0]}"
        return str(placement.placement({model: session}, name))
    if not provider.lacks:
        return "not tried: not here"
    weights = placement.weights_by_operator(model)
    total = max(1, sum(weights.values()))
    taken = sum(size for operator, size in weights.items() if operator not in provider.lacks)
    operators = ", ".join(sorted(provider.lacks & set(weights)))
    return f"at most {taken / total:.0%} of the weights, no kernels for {operators}: it does not help"


def _onnx_folder(path: Path) -> Path:
    """The ONNX folder that is meant: the path itself, or the first one in a quantized folder."""
    if (path / MODEL).is_file():
        return path
    found = manifest.read(path) if path.is_dir() else None
    for entry in found.entries if found else ():
        if entry.format == "onnx":
            return path / entry.path
    raise ModelLoadError(f"{path}: no ONNX model, which execution providers run; an ONNX folder expected")


def _cpuinfo() -> dict[str, str]:
    """The first processor of /proc/cpuinfo, and lines about all of them."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    found: dict[str, str] = {}
    for line in lines:
        key, _, value = line.partition(":")
        found.setdefault(key.strip(), value.strip())
    return found


def _features(architecture: str, info: Mapping[str, str]) -> dict[str, bool]:
    if platform.system() != "Linux":
        return {}
    if architecture in ("aarch64", "arm64"):
        getauxval = ctypes.CDLL(None).getauxval
        getauxval.restype, getauxval.argtypes = ctypes.c_ulong, [ctypes.c_ulong]
        return {name: bool(getauxval(word) >> bit & 1) for name, (word, bit) in _ARM.items()}
    flags = set(info.get("flags", "").split())
    return {name: flag in flags for name, flag in _X86.items()}


def _llama_cpp() -> str:
    try:
        llama = require("llama_cpp", "gguf")
    except MimoMobileError as error:
        return str(error)
    return f"{llama.__version__}: {llama.llama_print_system_info().decode().strip()}"
