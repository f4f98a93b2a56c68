"""One good document of each of our JSON formats, which tools/format_cases.py changes and tests begin with."""

from __future__ import annotations

from typing import Any

Document = dict[str, Any]

SHA = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"

SCORE: Document = {
    "problems": 660,
    "exact_match": 0.98,
    "by_kind": {"sum": 1, "mixed": 0.96},
    "perplexity": 1.02,
    "same_top": None,
    "answer_tokens": 88.5,
    "problem_set": "5d2c8a4e9f01b367",
    "drafts": {"tokens": 4842, "acceptance": 0.9872},
}
RANGES: Document = {
    "residual_scale": 0.00390625,
    "layers": [
        {
            "layer": "layers.0",
            "residual": 104361.9,
            "quietest": 56.8,
            "normed": 4.6,
            "gate": 9.8,
            "product": 128,
            "query": 400,
            "key": 400.5,
            "value": 0,
            "query_key": 160070.9,
            "product_scale": 1,
            "float32_attention": True,
        }
    ],
}
DIVERGENCE: Document = {
    "tokens": 4096,
    "perplexity": 1.05,
    "reference_perplexity": 1.02,
    "mean_kld": 0.012,
    "mean_kld_error": None,
    "median_kld": 0.003,
    "p99_kld": 0.2,
    "max_kld": 3,
    "kld_bound": 0,
    "same_top": 0.98,
}
MANIFEST: Document = {
    "manifest_version": 2,
    "model": "mimo-nano",
    "source": {"fingerprint": "33661467f4f1b905"},
    "entries": [
        {
            "recipe": "int4_b32",
            "format": "onnx",
            "path": "mimo-nano-int4_b32-onnx",
            "bits_per_weight": 7.15,
            "size_bytes": 3,
            "parts": [{"path": "mimo-nano-int4_b32-onnx/model.onnx", "size_bytes": 3, "sha256": SHA}],
            "tools": {"numpy": "2.4.6"},
            "score": SCORE,
            "divergence": DIVERGENCE,
            "effort": "normal",
            "ranges": RANGES,
        }
    ],
    "baseline": None,
    "order": ["q4_0", "int4_b32"],
}


def entry(path: str, *parts: str, **fields: Any) -> Document:
    """The manifest's entry, elsewhere and with other files."""
    listed = [{"path": each, "size_bytes": 3, "sha256": SHA} for each in parts]
    return MANIFEST["entries"][0] | {"path": path, "parts": listed} | fields


GGUF = entry("x.gguf", "x.gguf", "x-mtp.gguf", recipe="q4_0", format="gguf")
LOST: Document = {"entry": GGUF, "reasons": ["mean KL divergence 1.2000, at most 0.8 allowed"]}
LATER = ("tools", "effort", "ranges", "divergence")
"""What entries of version 1 had not."""

MANIFEST_1: Document = {
    **{name: value for name, value in MANIFEST.items() if name not in ("order", "entries")},
    "manifest_version": 1,
    "tools": {"numpy": "2.4.6"},
    "entries": [{name: value for name, value in MANIFEST["entries"][0].items() if name not in LATER}],
}
NPU: Document = {
    "npu_version": 1,
    "ep": "qnn",
    "activations": "float",
    "soc": "SM8750",
    "context_length": 2048,
    "windows": [64, 2, 1],
    "layers": [[0, 2], [2, 4]],
    "mtp": True,
    "embedding_bytes": 1000,
    "made_with": "onnxruntime 1.24.1",
    "graphs": [{"name": "layers-0.64", "size_bytes": 10, "seconds": 1.5, "peak_rss_bytes": 100}],
}
NPU_RANGES: Document = {
    "ranges_version": 1,
    "context_length": 2048,
    "layers": [[[-1.5, 2], [0, 3.25]], [[-1, 1]]],
    "head": [[-4, 0]],
    "mtp": [],
    "draft_head": [],
    "centers": {"a layer": [[0.5, -2], [1, 0]]},  # really model.layers.1., but places in documents have dots themselves
}
REFERENCE: Document = {"reference_version": 1, "ids": [5, 6, 7, 8], "top_ids": [9, 3], "logits": [2.5, -1]}
COSTS: Document = {"costs_version": 1, "rows_s": [0.1, 0.11], "draft_s": 0.0}
PREPACKED: Document = {
    "prepacked_version": 2,
    "model": "/models/a/model.onnx",
    "source": {"graph": {"size_bytes": 9, "sha256": SHA}, "data": {"size_bytes": 0, "sha256": SHA}},
    "files": {"graph": {"size_bytes": 9, "sha256": SHA}, "data": {"size_bytes": 7, "sha256": SHA}},
}
SELFTEST: Document = {
    "selftest_version": 1,
    "difference": 0.01,
    "error": "",
    "tolerance": 0.08,
    "speed": {"prompt_s": 0.1, "token_s": 0.01},
    "cpu": None,
}
DRAFTS = [3, 9, 200]
REPLIES: Document = {"replies_version": 1, "fingerprint": "f", "problem_set": "p", "tokens": [[5, 6], []]}
CALIBRATED_ON: Document = {"calibrated_on_version": 1, "tokens": 32, "hashes": ["0123456789abcdef", "f" * 16]}
REPORT: Document = {
    "report_version": 1,
    "model": "mimo-nano",
    "source": {"fingerprint": "33661467f4f1b905"},
    "chosen": ["int4_b32"],
    "baseline": SCORE,
    "recipes": [
        {
            "recipe": "int4_b32",
            "format": "onnx",
            "path": "mimo-nano-int4_b32-onnx.rejected",
            "effort": "normal",
            "bits_per_weight": 7.15,
            "size_bytes": 3,
            "content": "33661467f4f1b905",
            "rejected": True,
            "checks": [{"name": "kld", "found": 0.9, "limit": 0.8, "passed": False}],
            "score": SCORE,
            "divergence": DIVERGENCE,
            "histogram": {"edges": [1e-8, 0.1, 10], "counts": [4095, 1]},
            "errors": [{"tensor": "lm_head.weight", "error": 0.0052}],
        }
    ],
    "shown": [{"question": "What is 1 + 1?", "expected": "2", "answers": {"bf16": "2", "int4_b32": "<b>3"}}],
    "ranges": RANGES,
}
DOCUMENTS: dict[str, Any] = {
    "manifest": MANIFEST,
    "npu": NPU,
    "ranges": NPU_RANGES,
    "reference": REFERENCE,
    "costs": COSTS,
    "selftest": SELFTEST,
    "draft_vocabulary": DRAFTS,
    "replies": REPLIES,
    "calibrated_on": CALIBRATED_ON,
    "prepacked": PREPACKED,
    "report": REPORT,
}
