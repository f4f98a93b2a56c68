"""The JSON files that we write ourselves, from another's hands: a byte that says which, then its text."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

from mimo_mobile import inspection, manifest
from mimo_mobile.cache import read_record
from mimo_mobile.convert.draft_vocabulary import draft_ids
from mimo_mobile.convert.vocabulary import Vocabulary
from mimo_mobile.layout import read_npu_settings, read_reference
from mimo_mobile.quantize import disjoint
from mimo_mobile.quantize.evaluate import read_replies
from mimo_mobile.runtime.decode.pace import read_costs
from mimo_mobile.runtime.devices.selftest import read_verdict
from tests.fuzz.mutations import json_mutator
from tests.fuzz.scratch import scratch
from tools import format_cases, format_documents

VOCABULARY = Vocabulary(tuple(map(str, range(300))), ("normal",) * 300, (), 1, 2, 2, None)
KEY = {"fingerprint": "f", "problem_set": "p"}


def _manifest(file: Path) -> None:
    manifest.read(file.parent)
    inspection.inspect(file.parent)


READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "manifest": ("manifest.json", _manifest),
    "npu": ("npu.json", lambda file: read_npu_settings(file.parent)),
    "reference": ("reference.json", read_reference),
    "costs": ("costs.json", read_costs),
    "selftest": ("selftest.json", read_verdict),
    "draft_vocabulary": ("draft_vocabulary.json", lambda file: draft_ids(file.parent, VOCABULARY)),
    "prepacked": ("record.json", read_record),
    "replies": ("replies.json", lambda file: read_replies(file, KEY, 2)),
    "calibrated_on": (disjoint.NAME, lambda file: disjoint.read(file.parent)),
}
NAMES = list(READERS)


def check(data: bytes) -> None:
    """Let the reader of a format read a text."""
    name, read = READERS[NAMES[data[0] % len(NAMES)] if data else NAMES[0]]
    file = scratch() / name
    file.write_bytes(data[1:])
    try:
        read(file)
    finally:
        file.unlink()


def mutate(data: bytes, random: Random) -> bytes | None:
    """The same format with values changed."""
    changed = json_mutator(data[1:], random)
    return None if changed is None else data[:1] + changed


def seeds() -> Iterator[bytes]:
    """One good document of each format, and what the table of cases has besides."""
    for number, name in enumerate(NAMES):
        yield bytes([number]) + json.dumps(format_documents.DOCUMENTS[name]).encode()
    for case in format_cases.cases():
        if case["format"] in READERS:
            yield bytes([NAMES.index(case["format"])]) + case["text"].encode()
