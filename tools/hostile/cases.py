"""What is tried: all files that the tests' generators (tests/hostile_*.py) make, and good ones with one bit flipped."""

from __future__ import annotations

import importlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from random import Random

from mimo_mobile.convert.model import convert_checkpoint
from mimo_mobile.hub import Source
from mimo_mobile.layout import MODEL
from mimo_mobile.manifest import NAME
from mimo_mobile.quantize.pipeline import quantize_checkpoint
from tests.tiny import write_tiny_checkpoint
from tools.hostile.processes import Batch, Step

ROOT = Path(__file__).parents[2]
CACHES = "hostile_caches"
"""The one generator whose cases are no models: what spoils a cache is tried by the tests of caches."""

ASK = ("hi", "--max-tokens", "2", "--context-length", "64")
PLAINLY = (*ASK, "--speculate", "off")
AT_ONCE = 25
"""So many flips one process tries."""

HEADER_SHARE = 2 / 3
"""Of the flips in a file with weights, so many are in what comes before them."""


def hostile(folder: Path) -> Iterator[Batch]:
    """The files of all generators, each given to the commands that would read it."""
    for file in sorted((ROOT / "tests").rglob("hostile_*.py")):
        if file.stem == CACHES:
            continue
        module = importlib.import_module(".".join(file.relative_to(ROOT).with_suffix("").parts))
        if not hasattr(module, "cases"):  # a part of another generator
            continue
        kind = file.stem.removeprefix("hostile_")
        place = folder / kind
        place.mkdir()
        for number, (case, path) in enumerate(module.cases(place)):
            if path.is_dir():  # generators may take it away before the next one
                path = shutil.copytree(
                    path, folder / f"{kind}-{number}" / path.name, symlinks=True, copy_function=os.link
                )
            for arguments in commands(path, folder / "made"):
                yield Batch(kind, (Step(case, arguments),))


def commands(path: Path, out: Path) -> list[tuple[str, ...]]:
    """What a user would type to read a file or folder."""
    inspect, run = ("inspect", str(path)), ("run", str(path), *ASK)
    if path.is_dir() and not os.path.lexists(path / NAME) and not os.path.lexists(path / MODEL):
        made = out.with_name(f"{out.name}-{abs(hash(path))}.gguf")
        return [inspect, ("convert", str(path), str(made), "--to", "gguf")]
    return [inspect, run]


def good(folder: Path) -> Path:
    """A tiny checkpoint, and what is made of it: all formats that are read."""
    tiny = Source(write_tiny_checkpoint(folder / "checkpoint", layers=1), "tiny")
    quantize_checkpoint(tiny, folder / "quantized", ["q4_0", "int4_b32"], problems=0)
    convert_checkpoint(tiny, folder / "single.gguf", to="gguf", dtype="f16", single_file=True)
    return folder


def flips(base: Path, count: int, seed: int = 0) -> Iterator[Batch]:
    """``count`` flips of single bits for each format, in batches."""
    onnx, gguf = "quantized/tiny-int4_b32-onnx", "quantized/tiny-q4_0.gguf"
    convert = ("convert", "{}/checkpoint", "{}/made.gguf", "--to", "gguf", "--force")
    formats: dict[str, tuple[str, tuple[str, ...]]] = {
        "GGUF, trunk": (gguf, ("run", "{}/" + gguf, *PLAINLY)),
        "GGUF, MTP layer": ("quantized/tiny-q4_0-mtp.gguf", ("run", "{}/" + gguf, *ASK)),
        "GGUF, both": ("single.gguf", ("run", "{}/single.gguf", *ASK)),
        "GGUF, inspected": (gguf, ("inspect", "{}/" + gguf, "--tensors")),
        "safetensors": ("checkpoint/model-00001-of-00002.safetensors", convert),
        "config.json": ("checkpoint/config.json", convert),
        "index": ("checkpoint/model.safetensors.index.json", convert),
        "tokenizer.json, converted": ("checkpoint/tokenizer.json", convert),
        "tokenizer_config.json": ("checkpoint/tokenizer_config.json", convert),
        "manifest.json": ("quantized/manifest.json", ("inspect", "{}/quantized", "--verify")),
        "ONNX, trunk": (f"{onnx}/model.onnx", ("run", "{}/" + onnx, *PLAINLY)),
        "ONNX, MTP layer": (f"{onnx}/mtp.onnx", ("run", "{}/" + onnx, *ASK)),
        "tokenizer.json, run": (f"{onnx}/tokenizer.json", ("run", "{}/" + onnx, *PLAINLY)),
        "chat template": (f"{onnx}/tokenizer_config.json", ("run", "{}/" + onnx, *PLAINLY)),
        "config.json, run": (f"{onnx}/config.json", ("run", "{}/" + onnx, *PLAINLY)),
        "genai_config.json": (f"{onnx}/genai_config.json", ("inspect", "{}/" + onnx)),
    }
    for kind, (name, arguments) in formats.items():
        random = Random(f"{seed} {kind}")
        data = (base / name).read_bytes()
        header = max(data.rfind(b".weight"), data.rfind(b".bias"), 0) + 64 if name.endswith((".gguf", "tensors")) else 0
        steps = []
        for _ in range(count):
            end = header if header and random.random() < HEADER_SHARE else len(data)
            place, bit = random.randrange(min(end, len(data))), random.randrange(8)
            steps.append(Step(f"bit {bit} of byte {place} of {name}", arguments, (name, place, bit)))
        for first in range(0, count, AT_ONCE):
            yield Batch(kind, tuple(steps[first : first + AT_ONCE]), base)
