"""Answers that keep to structures, and calls of tools, for tests/golden/answers.json: ids show that masks agree."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mimo_mobile.runtime import GenerationConfig, Message, Model, Structure, load

Case = dict[str, Any]

QUESTION = "What is 25 + 17 * 3?"

RESULT = {"type": "object", "properties": {"result": {"type": "integer", "minimum": 0, "maximum": 9999}},
          "required": ["result"], "additionalProperties": False}  # fmt: skip
FIXED = {"enum": ["the result of it is written below", "the result of it is known to nobody"]}
CODE = {"type": "string", "pattern": "^[A-F][0-9]{2} (é|計)[a-z]{3,6}$"}
NOTE = {"anyOf": [{"type": "string", "maxLength": 12}, {"type": "null"}]}

ADD = {"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": {"type": "object",
       "properties": {"first": {"type": "integer", "minimum": 0, "maximum": 99}, "second": {"type": "boolean"}},
       "required": ["first", "second"], "additionalProperties": False}}}  # fmt: skip
ASK = {"type": "function", "function": {"name": "ask_somebody", "parameters": {"type": "object", "properties": {
       "topic": {"enum": ["sums", "products"]}}, "required": ["topic"], "additionalProperties": False}}}  # fmt: skip

SAMPLED = {"temperature": 1.0, "top_p": 0.95, "thinking": False}

# Seeds and budgets with which each token stays the same when all logits get noise, of 0.025 where white space is
# chosen and of 0.05 else: `python -m tools.answer_noise`. Builds and CPUs round otherwise where int4 weights meet
# inputs of 8 bits.
REQUESTS: list[dict[str, Any]] = [
    {"structure": Structure.schema(RESULT), "thinking_budget": 42},
    {"structure": Structure.schema(RESULT), **SAMPLED, "seed": 9},
    {"structure": Structure.schema(FIXED), **SAMPLED, "seed": 34},
    {"structure": Structure.schema(CODE), "thinking_budget": 4},
    {"structure": Structure.schema(NOTE), **SAMPLED, "seed": 0},
    {"structure": Structure.regex(r"(the |an )?answer is (\w+ )?\d{1,4}\."), "thinking_budget": 12},
    {"structure": Structure.regex(r"[^\d\s]{3,9}( \w+){2}"), "temperature": 1.3, "top_k": 5, "seed": 40,
     "thinking": False},
    {"structure": Structure.regex("It is certain, 计算 é 🙂, that 25 \\+ 17 \\* 3 = \\d\\d and no more(!|\\.)")},
    {"structure": Structure.choice(["seventy-six", "76 exactly", "I do not know"]), "thinking_budget": 12},
    {"structure": Structure.choice(["🙂🙂", "🙂🙃", "计", "许多"]), **SAMPLED, "seed": 7},
    {"structure": Structure.grammar('root ::= [0-9]{2} ( " = " [0-9]{2} " + " [0-9]{1,2} ){1,2} "."'),
     "temperature": 0.7, "thinking_budget": 6, "seed": 144},
    {"structure": Structure.grammar('root ::= step ("\\n\\n" step)* "\\n    done"\n'
                                    'step ::= "  Step " [1-9] ": add the numbers"'),
     **SAMPLED, "seed": 9},
    {"tools": [ADD], "tool_choice": "required", "thinking_budget": 4},
    {"tools": [ADD, ASK], "tool_choice": "required", **SAMPLED, "seed": 13, "max_tokens": 60},
    {"tools": [ADD, ASK], "tool_choice": "ask_somebody", **SAMPLED, "seed": 11},
]  # fmt: skip


def answers(model: str, folder: Path, recipe: str, speculate: Literal["off", "mtp"] = "off") -> list[Case]:
    """What MiMo-nano, here called ``model``, answers to a question, without drafts, which change nothing."""
    with load(folder, recipe=recipe, cache=False, threads=1, speculate=speculate) as session:
        return [{"model": model, **answered(session, changed)} for changed in REQUESTS]


def answered(session: Model, changed: dict[str, Any]) -> Case:
    """What a model answers to one of ``REQUESTS``, without its name."""
    config = GenerationConfig(**{"temperature": 0.0, "max_tokens": 140, **changed})
    records = list(session.generate([Message("user", QUESTION)], config))
    ids = [record.token_id for record in records if record.token_id is not None]
    uniforms = np.random.Generator(np.random.PCG64(config.seed)).random(len(ids) + 1).tolist()
    names = ("temperature", "top_p", "top_k", "max_tokens", "thinking", "thinking_budget", "tool_choice")
    changed = {name: getattr(config, name) for name in names}
    structure = config.structure
    return {
        "question": QUESTION,
        "kind": structure.kind if structure else None,
        "structure": structure.text if structure else None,
        "config": {**changed, "tools": [json.dumps(tool) for tool in config.tools]},
        "uniforms": uniforms if config.temperature else [],
        "ids": ids,
        "answer": "".join(record.text for record in records if record.channel == "answer"),
        "reason": records[-1].finish_reason,
    }
