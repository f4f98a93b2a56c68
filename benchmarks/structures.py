"""What it takes to hold an answer to a structure: once for a vocabulary, once for a structure, and at each token.

Run ``python -m benchmarks.structures TOKENIZER``, with a tokenizer.json of MiMo-7B's 151,665 tokens, which Qwen2.5 has,
too. The text is what random logits choose among the tokens that may come, which is harder than what a model writes: it
wanders into long strings and rare tokens. Times are of the CPU, since other work on the machine would disturb others.
The share is that of a decode step of MiMo-7B, all 36 layers, in q4_0 on two cores of our machine (docs/performance.md).
"""

from __future__ import annotations

import json
import os
import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import numpy as np

from mimo_mobile import terminal
from mimo_mobile.runtime import GenerationConfig, Structure
from mimo_mobile.runtime.decode.structured import Structures
from mimo_mobile.runtime.text.tokenizer import TextTokenizer

PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "born": {"type": "string", "format": "date"},
        "friends": {"type": "array", "items": {"$ref": "#"}, "maxItems": 3},
        "kind": {"enum": ["human", "robot", "unknown"]},
    },
    "required": ["name", "age", "friends"],
    "additionalProperties": False,
}

TOOLS: list[dict[str, Any]] = [
    {"type": "function", "function": {"name": name, "parameters": PERSON | {"description": name}}}
    for name in ("find_person", "add_person", "remove_person")
]

LARGE: dict[str, Any] = {
    "type": "object",
    "properties": {f"field_{place}": {"anyOf": [{"type": "string"}, {"type": "number"}]} for place in range(150)},
    "required": [f"field_{place}" for place in range(150)],
}

STRUCTURES: dict[str, Structure] = {
    "any JSON object": Structure.schema({"type": "object"}),
    "a record": Structure.schema(PERSON),
    "150 fields": Structure.schema(LARGE),
    "a regex": Structure.regex(r"[A-Z][a-z]+( [a-z]+)*\."),
    "a long choice": Structure.choice([f"answer number {place}" for place in range(2000)]),
    "arithmetic": Structure.grammar('start: sum\nsum: NUMBER (("+" | "-" | "*") NUMBER)*\nNUMBER: /[0-9]{1,9}/'),
}


@click.command()
@click.argument("tokenizer", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--tokens", default=300, show_default=True, help="Of each text.")
@click.option("--step-ms", default=115.6, show_default=True, help="What a decode step takes.")
def main(tokenizer: Path, tokens: int, step_ms: float) -> None:
    """Print the table."""
    text = TextTokenizer.from_file(tokenizer)
    structures, dice = Structures(text), np.random.default_rng(0)
    started = time.process_time()
    structures.answer(Structure.choice(["yes", "no"]), thinks=True)
    once_s = time.process_time() - started
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, llguidance {version('llguidance')}")
    print(f"{text.size:,} tokens: {once_s:.2f} s for the first structure of a model")
    rows = []
    tools = GenerationConfig(tools=TOOLS, tool_choice="required").restriction
    assert tools is not None
    for name, structure in {**STRUCTURES, "calls of 3 tools": tools}.items():
        started = time.process_time()  # a structure is compiled in a thread of its own
        answer = structures.answer(structure, thinks=False)
        compiled_s = time.process_time() - started
        taken = list[float]()
        while len(taken) < tokens:
            logits = dice.standard_normal(text.size, np.float32)
            started = time.thread_time()
            logits = answer.mask(logits)
            masked_s = time.thread_time() - started
            token = int(logits.argmax())
            if token in text.stop_ids:
                answer = structures.answer(structure, thinks=False)
                continue
            started = time.thread_time()
            answer.accept(token)
            answer.certain()  # which drafts ask for
            taken.append(masked_s + time.thread_time() - started)
            if answer.over:
                answer = structures.answer(structure, thinks=False)
        milliseconds = 1e3 * np.array(taken)
        mean, slow, most = milliseconds.mean(), np.percentile(milliseconds, 99), milliseconds.max()
        size = len(json.dumps(structure.text))
        rows.append(
            (name, f"{size:,}", f"{1e3 * compiled_s:.1f} ms", f"{mean:.2f} ms", f"{slow:.2f} ms", f"{most:.2f} ms",
             f"{mean / step_ms:.2%}")
        )  # fmt: skip
    columns = ("structure", "characters", "compiled", "a token", "99th percentile", "slowest", "of a 7B step")
    terminal.table("what a structure takes", columns, rows)


if __name__ == "__main__":
    main()
