"""Documents of our JSON formats, good and bad: what the schemas, the Python and the Kotlin readers have to say of each.

tests/golden/formats.json is made of them (`python -m tools.golden`), so that readers in all languages are held to the
same table.
"""

from __future__ import annotations

import copy
import json
from typing import Any

from tools.format_documents import DOCUMENTS, GGUF, LOST, MANIFEST, MANIFEST_1, SCORE, SHA, Document, entry

KOTLIN = ("manifest", "npu", "reference")
"""What the Kotlin library reads."""

GONE = object()
"""In place of a value: the field is not there."""

Change = tuple[str, Any]
"""A place in a document, as in ``graphs.0.name``, and what stands there instead."""

GOOD: dict[str, list[Change]] = {
    "manifest": [
        ("manifest_version", GONE), ("added_later", 1), ("entries.0.added_later", {}), ("baseline", SCORE),
        ("baseline", GONE), ("entries.0.score", None), ("entries.0.score", GONE), ("entries.0.parts", []),
        ("entries.0", entry("a/..b/.c", "a/..b/.c/model.onnx")), ("entries.0", entry("计算 1", "计算 1/ä/x")),
        ("entries", [entry("a", "a/x"), entry("ab", "ab/x", recipe="int8"), GGUF]),
        ("source", {}), ("entries.0.tools", {}),
        ("entries.0.score.same_top", 1), ("entries.0.score.perplexity", None), ("entries.0.score.problem_set", GONE),
        ("entries.0.score.drafts", None), ("entries.0.score.drafts", GONE), ("entries.0.score.drafts.added_later", 1),
        ("entries.0.effort", GONE), ("entries.0.effort", "none"), ("entries.0.effort", "high"),
        ("entries.0.calibrated_by", {"text": SHA, "scales": "units"}), ("entries.0.calibrated_by", {}),
        ("entries.0.on_npu", None), ("entries.0.on_npu", {}), ("entries.0.on_npu", {"score": SCORE}),
        ("order", GONE), ("order", []), ("entries.0.ranges", None), ("entries.0.ranges", GONE),
        ("entries.0.ranges.layers", []), ("entries.0.ranges.layers.0.added_later", 1),
        ("entries.0.divergence", GONE), ("entries.0.divergence", None), ("entries.0.divergence.mean_kld", GONE),
        ("entries.0.divergence.p99_kld", None), ("entries.0.divergence.added_later", 1),
        ("rejected", None), ("rejected", []), ("rejected", [LOST]), ("rejected", [LOST | {"added_later": 1}]),
        ("rejected", [LOST | {"reasons": []}]),
    ],
    "npu": [
        ("npu_version", GONE), ("npu_version", 1.0), ("added_later", {"x": 1}), ("graphs.0.added_later", None),
        ("mtp", False), ("windows", [1]), ("graphs", []), ("graphs.0.seconds", GONE), ("activations", "uint16"),
        ("context_length", 64), ("context_length", 2048.0),
    ],
    "ranges": [
        ("ranges_version", GONE), ("added_later", 1), ("centers", {}), ("layers.1", []), ("head", []),
        ("mtp", [[0, 0]]),
    ],
    "reference": [("reference_version", GONE), ("added_later", []), ("logits", [1e30, 0])],
    "costs": [("costs_version", GONE), ("added_later", 1), ("draft_s", 0.01), ("rows_s", [1])],
    "selftest": [
        ("selftest_version", GONE), ("added_later", 1), ("difference", None), ("speed", None), ("error", "it failed"),
        ("cpu", {"prompt_s": 1, "token_s": 2}), ("cpu", GONE), ("difference", GONE),
    ],
    "draft_vocabulary": [("", [7]), ("", [7, 7, 2])],
    "replies": [("replies_version", GONE), ("added_later", 1)],
    "calibrated_on": [("calibrated_on_version", GONE), ("added_later", 1), ("hashes", [])],
    "prepacked": [("added_later", 1)],
    "report": [
        ("report_version", GONE), ("added_later", 1), ("baseline", None), ("recipes", []), ("shown", []),
        ("ranges", None), ("recipes.0.score", None), ("recipes.0.divergence", GONE), ("recipes.0.histogram", None),
        ("recipes.0.errors", []), ("recipes.0.errors.0.error", None), ("recipes.0.checks", []),
        ("recipes.0.checks.0.found", GONE), ("shown.0.expected", None), ("shown.0.answers", {}),
    ],
}  # fmt: skip
"""Readers take these, which do not ask for what they do not need."""

BAD: dict[str, list[Change]] = {
    "manifest": [
        ("manifest_version", 9), ("manifest_version", 0), ("manifest_version", "1"), ("", []), ("model", GONE),
        ("model", 3), ("entries", GONE), ("entries", {}), ("entries.0", "int4_b32"), ("entries.0.recipe", GONE),
        ("entries.0.format", GONE), ("entries.0.format", 1), ("entries.0.parts", GONE), ("entries.0.parts.0", "x"),
        ("entries.0.path", "../x"), ("entries.0.path", "/etc"), ("entries.0.path", ""), ("entries.0.path", "."),
        ("entries.0.path", "a/../../x"), ("entries.0.path", "a//b"), ("entries.0.path", "a/"),
        ("entries.0.path", "a/./b"), ("entries.0.path", "..\\x"), ("entries.0.path", "a\0b"), ("entries.0.path", 3),
        ("entries.0.path", GONE), ("entries.0.parts.0.path", "../../.bashrc"), ("entries.0.parts.0.path", "/x"),
        ("entries.0.parts.0.path", ".."), ("entries.0.parts.0.path", GONE),
        ("entries.0.parts.0.size_bytes", GONE), ("entries.0.parts.0.size_bytes", -1),
        ("entries.0.parts.0.size_bytes", 2.5), ("entries.0.parts.0.size_bytes", "3"),
        ("entries.0.parts.0.size_bytes", 2**53), ("entries.0.parts.0.sha256", GONE),
        ("entries.0.parts.0.sha256", "abc"), ("entries.0.parts.0.sha256", SHA.upper()),
    ],
    "npu": [
        ("npu_version", 2), ("npu_version", 0), ("npu_version", "1"), ("npu_version", None), ("npu_version", 1.5),
        ("", []), ("", None), ("soc", GONE), ("soc", 8750), ("context_length", GONE),
        ("context_length", 0), ("context_length", "2048"), ("context_length", 2048.5), ("context_length", True),
        ("context_length", 2**31), ("windows", GONE), ("windows", []), ("windows", 64), ("windows", [64, 2]),
        ("windows", [64, 64, 1]), ("windows", [64, 0, 1]), ("windows", [64, "2", 1]), ("windows", [64, 2.5, 1]),
        ("layers", GONE), ("layers", []), ("layers", 2), ("mtp", GONE), ("mtp", 1), ("mtp", "true"),
    ],
    "ranges": [
        ("ranges_version", 2), ("", []), ("layers", GONE), ("layers", []), ("layers.0", {}), ("layers.0.0", [1, 2]),
        ("layers.0.0", [-2, -1]), ("layers.0.0", [0]), ("layers.0.0", [0, 1, 2]), ("layers.0.0", [0, "1"]),
        ("layers.0.0", [-1e31, 0]), ("head", GONE), ("mtp", None), ("draft_head", GONE), ("context_length", 0),
        ("context_length", GONE), ("centers", GONE), ("centers", []), ("centers", {"x": []}),
        ("centers", {"x": [["1"]]}),
        ("centers", {"x": [[1e31]]}), ("centers", {"x": 1}),
    ],
    "reference": [
        ("reference_version", 2), ("reference_version", 0), ("reference_version", "1"), ("", []), ("ids", GONE),
        ("ids", [1, 2, 3]), ("ids", [1, 2, 3, -4]), ("ids", [1, 2, 3, "4"]), ("ids", [1, 2, 3, 4.5]), ("ids", "1234"),
        ("ids", [1, 2, 3, 2**31]), ("top_ids", GONE), ("top_ids", []), ("top_ids", [-1, 3]), ("top_ids", [9, None]),
        ("logits", GONE), ("logits", []), ("logits", ["2.5", 1]), ("logits", [None, 1]), ("logits", [True, 1]),
    ],
    "costs": [
        ("costs_version", 2), ("", []), ("rows_s", GONE), ("rows_s", []), ("rows_s", [0]), ("rows_s", [0.1, -1]),
        ("rows_s", ["0.1"]), ("rows_s", 0.1), ("draft_s", GONE), ("draft_s", -0.1), ("draft_s", None),
    ],
    "selftest": [
        ("selftest_version", 2), ("", []), ("difference", -0.1), ("difference", "0.1"), ("error", GONE),
        ("error", None), ("tolerance", GONE), ("tolerance", 0), ("speed", 0.1), ("speed.token_s", GONE),
        ("speed.prompt_s", -1), ("cpu", {"prompt_s": "1", "token_s": 2}),
    ],
    "draft_vocabulary": [("", []), ("", {}), ("", ["7"]), ("", [7, -1]), ("", [7.5]), ("", [True]), ("", 7)],
    "prepacked": [
        ("prepacked_version", 3), ("", []), ("", {"model": "/models/a/model.onnx", "state": "10 20 30 40"}),
        ("model", GONE), ("model", 1), ("source", GONE), ("source", SHA),
        ("source.graph", GONE), ("source.data", SHA), ("source.data.sha256", SHA.upper()), ("files", []),
        ("files.graph.sha256", SHA[1:]), ("files.graph.size_bytes", -1), ("files.data.size_bytes", "7"),
    ],
    "replies": [
        ("replies_version", 2), ("", []), ("fingerprint", GONE), ("problem_set", 1), ("tokens", GONE), ("tokens", {}),
        ("tokens", [5, 6]), ("tokens", [[5, -1], []]), ("tokens", [["5"], []]), ("tokens", [[2**31], []]),
    ],
    "calibrated_on": [
        ("calibrated_on_version", 2), ("", []), ("tokens", GONE), ("tokens", 16), ("tokens", "32"), ("hashes", GONE),
        ("hashes", "0123456789abcdef"), ("hashes", [5]), ("hashes", ["0123456789abcde"]),
        ("hashes", ["0123456789ABCDEF"]),
    ],
    "report": [
        ("report_version", 2), ("", []), ("model", GONE), ("model", 1), ("source", {"fingerprint": 1}),
        ("chosen", "q4_0"), ("chosen", [1]), ("baseline", {}), ("recipes", {}), ("recipes.0", "q4_0"),
        ("recipes.0.recipe", GONE), ("recipes.0.format", "npu"), ("recipes.0.path", "../x"),
        ("recipes.0.effort", "most"),
        ("recipes.0.bits_per_weight", -1), ("recipes.0.size_bytes", 0.5), ("recipes.0.content", "33661467F4F1B905"),
        ("recipes.0.rejected", 1), ("recipes.0.checks", GONE), ("recipes.0.checks.0.name", "speed"),
        ("recipes.0.checks.0.found", "0.9"), ("recipes.0.checks.0.limit", None), ("recipes.0.checks.0.passed", GONE),
        ("recipes.0.score", []), ("recipes.0.divergence", {}), ("recipes.0.histogram", {}),
        ("recipes.0.histogram.edges", [1]), ("recipes.0.histogram.edges.0", 0), ("recipes.0.histogram.counts", [-1]),
        ("recipes.0.histogram.counts", []), ("recipes.0.errors", {}), ("recipes.0.errors.0.tensor", GONE),
        ("recipes.0.errors.0.error", -1), ("shown", {}), ("shown.0.question", 1), ("shown.0.expected", 2),
        ("shown.0.answers", []), ("shown.0.answers", {"bf16": 2}), ("ranges", []), ("ranges.layers.0.layer", "<b>"),
    ],
}  # fmt: skip
"""Schemas and readers refuse these."""

NOT_SEEN_BY_KOTLIN: dict[str, list[Change]] = {
    "manifest": [
        ("source", GONE), ("source", []), ("source", {"fingerprint": 1}), ("entries.0.tools", GONE),
        ("entries.0.tools", {"numpy": None}), ("order", "q4_0"), ("order", [4]),
        ("baseline", 1), ("baseline", {}), ("entries.0.bits_per_weight", GONE), ("entries.0.bits_per_weight", -1),
        ("entries.0.size_bytes", GONE), ("entries.0.size_bytes", "3"), ("entries.0.score", []),
        ("entries.0.score.problems", GONE), ("entries.0.score.problems", 1.5), ("entries.0.score.exact_match", 98),
        ("entries.0.score.by_kind", [1]), ("entries.0.score.by_kind", {"sum": "1"}),
        ("entries.0.score.perplexity", "1.02"), ("entries.0.score.same_top", 1.5),
        ("entries.0.score.answer_tokens", None), ("entries.0.score.problem_set", 5), ("entries.0.ranges", []),
        ("entries.0.score.drafts", []), ("entries.0.score.drafts.tokens", 0),
        ("entries.0.score.drafts.acceptance", 1.5), ("entries.0.score.drafts.acceptance", GONE),
        ("entries.0.effort", "most"), ("entries.0.effort", 1), ("entries.0.effort", []),
        ("entries.0.calibrated_by", []), ("entries.0.calibrated_by", {"text": 1}),
        ("entries.0.ranges.residual_scale", GONE), ("entries.0.ranges.residual_scale", 2),
        ("entries.0.ranges.layers", GONE), ("entries.0.ranges.layers", {}), ("entries.0.ranges.layers.0", 1),
        ("entries.0.ranges.layers.0.layer", "[/x]"), ("entries.0.ranges.layers.0.residual", GONE),
        ("entries.0.ranges.layers.0.key", -1), ("entries.0.ranges.layers.0.query_key", "160070"),
        ("entries.0.ranges.layers.0.product_scale", None), ("entries.0.ranges.layers.0.float32_attention", 1),
        ("entries.0.divergence", 0.012), ("entries.0.divergence", {}), ("entries.0.divergence.tokens", 0),
        ("entries.0.divergence.tokens", 2**31), ("entries.0.divergence.mean_kld", -0.1),
        ("entries.0.divergence.mean_kld", "0.012"), ("entries.0.divergence.same_top", None),
        ("entries.0.divergence.same_top", 98), ("rejected", {}), ("rejected", [1]), ("rejected", [{"entry": GGUF}]),
        ("rejected", [{"reasons": []}]), ("rejected", [LOST | {"reasons": "lost"}]),
        ("rejected", [LOST | {"reasons": [None]}]), ("rejected", [LOST | {"entry": GGUF | {"path": "../x.gguf"}}]),
    ],
    "npu": [
        ("soc", "../SM8750"), ("ep", GONE), ("ep", "cpu"), ("activations", GONE), ("activations", "int4"),
        ("embedding_bytes", GONE),
        ("embedding_bytes", -1), ("made_with", GONE), ("made_with", None), ("graphs", GONE), ("graphs", {}),
        ("graphs.0", "layers-0.64"), ("graphs.0.name", GONE), ("graphs.0.name", "../../x.1"),
        ("graphs.0.size_bytes", GONE), ("graphs.0.size_bytes", "10"), ("layers", [0, 2]), ("layers", [[0]]),
        ("layers", [[0, 2, 4]]), ("layers", [["0", 2]]), ("layers", [[-1, 2]]),
    ],
}  # fmt: skip
"""Schemas and the Python reader refuse these; the Kotlin reader does not ask for what is wrong in them."""

OLDER: dict[str, list[Change]] = {"manifest": [("", MANIFEST_1)], "prepacked": [("prepacked_version", GONE)]}
"""Readers take these, which earlier versions wrote; schemas describe the newest version only."""

BEYOND_SCHEMAS: dict[str, list[Change]] = {
    "manifest": [
        ("entries.0.path", "elsewhere"),
        ("entries.0", entry("a", "b/model.onnx")),
        ("entries.0", entry("a", "a")),
        ("entries.0", entry("a", "ab/x")),
        ("entries.0", entry("a", "manifest.json")),
        ("entries.0", entry("a", "a/x", "a/x")),
        ("entries.0", entry("a", "a/x", "a/x/y")),
    ],
    "npu": [("windows", [2, 64, 1]), ("windows", [1, 2]), ("context_length", 32)],
    "reference": [("logits", [2.5]), ("top_ids", [9, 3, 4])],
    "report": [("recipes.0.histogram.edges", [0.1, 1e-8, 10]), ("recipes.0.histogram.counts", [1])],
}
"""Readers refuse these, which compare values with each other: schemas cannot."""

ONLY_PYTHON: dict[str, list[Change]] = {
    "manifest": [
        ("entries", [entry("a", "a/x"), entry("a", recipe="int8")]),
        ("entries", [entry("a"), entry("b")]),
        ("entries", [entry("a", "a/x"), entry("a/b", "a/b/y", recipe="int8")]),
        ("entries", [entry("manifest.json", "manifest.json/x")]),
        ("entries", [GGUF | {"path": "x"}, entry("a")]),
        ("entries", [GGUF | {"path": "y.gguf"}, entry("a")]),
        ("entries", [entry("x-mtp.gguf"), GGUF]),
        ("rejected", [LOST, LOST]),
        ("rejected", [{"entry": MANIFEST["entries"][0], "reasons": []}]),
    ],
    "npu": [("layers", [[0, 2], [3, 4]]), ("layers", [[1, 2]]), ("layers", [[0, 4], [4, 4]]), ("soc", "SM1")],
}
"""The Python reader refuses these: it compares entries with each other, and knows which chips there are."""

NO_JSON = (
    "", "{", "[" * 2_000, '{"a": NaN}', "nonsense", "'x'", '{"a": 1,}', '{"a": 01}', "\ufeff{}", "{} {}",
)  # fmt: skip


def changed(document: Any, change: Change) -> Any:
    """A copy of a document with something else in one place."""
    place, value = change
    if not place:
        return value
    copied = copy.deepcopy(document)
    *way, last = [int(name) if name.isdigit() else name for name in place.split(".")]
    inner = copied
    for name in way:
        inner = inner[name]
    if value is GONE:
        del inner[last]
    else:
        inner[last] = value
    return copied


def cases() -> list[Document]:
    """Each document with what the schema and the readers say: whether they accept it; null where nobody asks them."""
    made: list[Document] = []

    def add(name: str, text: str, schema: bool | None, python: bool, kotlin: bool) -> None:
        kotlins = kotlin if name in KOTLIN else None
        made.append({"format": name, "text": text, "schema": schema, "python": python, "kotlin": kotlins})

    for name, document in DOCUMENTS.items():
        add(name, json.dumps(document), True, True, True)
        for group, schema, python, kotlin in (
            (GOOD, True, True, True),
            (BAD, False, False, False),
            (NOT_SEEN_BY_KOTLIN, False, False, True),
            (OLDER, False, True, True),
            (BEYOND_SCHEMAS, True, False, False),
            (ONLY_PYTHON, True, False, True),
        ):
            for change in group.get(name, []):
                add(name, json.dumps(changed(document, change)), schema, python, kotlin)
        for text in NO_JSON:
            add(name, text, None, False, False)
    return made
