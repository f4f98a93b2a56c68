"""Writes GGUF files that are damaged or lie, and what Python says of each, for Kotlin to be held to.

`python -m tools.gguf_fixture MODEL FOLDER`; MODEL is what `mimo quantize nano` wrote. Weights are holes, so that the
files take little room. What a model needs of memory is told of MODEL's files, and of one with MiMo-7B's shapes.
"""

from __future__ import annotations

import itertools
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from mimo_mobile.errors import ModelLoadError
from mimo_mobile.gguf_header import GgufHeader
from mimo_mobile.mimo7b import MIMO_7B
from mimo_mobile.runtime import LoadConfig
from mimo_mobile.runtime.llama.checked import checked
from mimo_mobile.runtime.llama.needs import GgufNeeds
from mimo_mobile.runtime.text.tokenizer import TextTokenizer
from tests.gguf_parts import I32, U32, File, Tensor, array, number, strings
from tests.hostile_gguf import Maker

FLIPS = 300

Q4_0, Q6_K = 2, 14

KV_CACHES = {"FLOAT32": "f32", "FLOAT16": "f16", "INT8": "int8"}
"""Kotlin's names and ours."""


def cases(maker: Maker) -> Iterator[tuple[str, Path, bool]]:
    """Every file by its name, and whether it is a MiMo-7B."""
    for name, path in (*maker.bad(), *maker.good(), *maker.flips(FLIPS, seed=5)):
        try:
            header = GgufHeader(path)
            checked(header)
            TextTokenizer.from_gguf(header)
        except ModelLoadError:
            yield name, path, False
        else:
            yield name, path, True


def large(maker: Maker) -> Path:
    """A file with MiMo-7B's shapes, in which only the vocabulary's texts and the weights are not real."""
    config = MIMO_7B
    file = File.of(maker.trunk)
    for key, value in {
        "block_count": config.num_hidden_layers, "context_length": 32768, "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size, "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads, "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim, "rope.dimension_count": config.head_dim,
    }.items():  # fmt: skip
        file.values[f"qwen2.{key}"] = number(U32, value)
    size = config.vocab_size
    file.values["tokenizer.ggml.tokens"] = strings([f"t{index}" for index in range(size)])
    file.values["tokenizer.ggml.token_type"] = array(I32, size, struct.pack("<i", 1) * size)
    shapes: dict[str, tuple[int, ...]] = {}
    width, ffn = config.hidden_size, config.intermediate_size
    keys = config.num_key_value_heads * config.head_dim
    for layer in range(config.num_hidden_layers):
        for name, shape in {
            "attn_norm.weight": (width,), "ffn_norm.weight": (width,), "attn_q.weight": (width, width),
            "attn_q.bias": (width,), "attn_k.weight": (width, keys), "attn_k.bias": (keys,),
            "attn_v.weight": (width, keys), "attn_v.bias": (keys,), "attn_output.weight": (width, width),
            "ffn_gate.weight": (width, ffn), "ffn_up.weight": (width, ffn), "ffn_down.weight": (ffn, width),
        }.items():  # fmt: skip
            shapes[f"blk.{layer}.{name}"] = shape
    shapes |= {"token_embd.weight": (width, size), "output_norm.weight": (width,), "output.weight": (width, size)}
    file.tensors = [
        Tensor(name.encode(), ne, 0 if len(ne) == 1 else Q6_K if name == "output.weight" else Q4_0)
        for name, ne in shapes.items()
    ]
    return file.write(maker.folder / "mimo-7b-shapes.gguf")


def needs(paths: list[Path]) -> Iterator[dict[str, Any]]:
    """What each file takes of memory, in every way."""
    for path, kv, speculate, arm in itertools.product(paths, KV_CACHES, ("AUTO", "MTP", "OFF"), (True, False)):
        if speculate == "MTP" and "shapes" in path.name:
            continue
        config = LoadConfig(kv_dtype=KV_CACHES[kv], speculate=speculate.lower())  # type: ignore[arg-type]
        found = GgufNeeds.of(path, config, arm=arm)
        for context in (300, 4096):
            ways = [
                [each.copied_bytes, each.kv_bytes, each.activation_bytes, each.mapped_bytes]
                for each in found.ways(context)
            ]
            yield {
                "file": str(path.absolute()), "kv_cache": kv, "speculation": speculate, "arm": arm, "context": context,
                "ways": ways,
            }  # fmt: skip


@click.command()
@click.argument("model", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
def main(model: Path, folder: Path) -> None:
    """Write the files, verdicts.json and needs.json into FOLDER."""
    maker = Maker(folder)
    found = [{"name": name, "file": path.name, "good": good} for name, path, good in cases(maker)]
    (folder / "verdicts.json").write_text(json.dumps(found, indent=0), encoding="utf-8")
    trunks = [path for path in sorted(model.glob("*.gguf")) if not path.stem.endswith("-mtp")]
    (folder / "needs.json").write_text(json.dumps(list(needs([*trunks, large(maker)]))), encoding="utf-8")
    click.echo(f"{folder}: {len(found)} files, {sum(each['good'] is True for each in found)} of them good")


if __name__ == "__main__":
    main()
