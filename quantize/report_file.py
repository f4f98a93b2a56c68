"""report.json: what all files of a folder lost, and how it shows. ``report_page`` draws it.

It repeats what the manifest says of the files, so that it can be read alone.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mimo_mobile import files, ranges, scores
from mimo_mobile.documents import MOST_TEXT, DocumentError, FileFormat, Value
from mimo_mobile.entries import EFFORTS, Entry
from mimo_mobile.errors import QuantizationError
from mimo_mobile.layout import MOST_TOKENS
from mimo_mobile.manifest import MOST_ENTRIES
from mimo_mobile.quantize.gate import WORDS, Check
from mimo_mobile.quantize.tensor_errors import TensorError
from mimo_mobile.ranges import ModelRanges
from mimo_mobile.scores import Divergence, Score

NAME, PAGE = "report.json", "report.html"
REPORT_FORMAT = FileFormat("report", 1)

BF16 = "bf16"
"""What the unquantized model is called among recipes."""

MOST_BITS, MOST_TENSORS, MOST_BINS, MOST_SHOWN = 1024, 100_000, 1000, 100
"""More bits of a weight, tensors, bars of a histogram and answers are not believed."""

CUT = MOST_TEXT - 1
"""Characters of an answer that are kept; then an ellipsis follows."""


@dataclass(frozen=True, slots=True)
class Histogram:
    """How often KL divergences of single predictions were how large.

    Attributes:
        edges: The borders of the bars in nats, rising.
        counts: The predictions in each bar, one fewer than ``edges``; those outside are in the first and the last one.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class RecipeReport:
    """What one recipe made, and what it lost.

    Attributes:
        recipe: The recipe's name.
        format: ``gguf`` or ``onnx``.
        path: The file or folder, relative to the report.
        effort: How much was done for its weights.
        bits_per_weight: As in the manifest.
        size_bytes: As in the manifest.
        content: A hash of all its files, by which the figures below are known to belong to them.
        rejected: Whether it lost too much.
        checks: Its figures beside their limits.
        score: How it answers held-out problems.
        divergence: How far its predictions are from the checkpoint's.
        histogram: The same, prediction by prediction.
        errors: What each matrix lost; empty when that was not compared.
    """

    recipe: str
    format: str
    path: str
    effort: str
    bits_per_weight: float
    size_bytes: int
    content: str
    rejected: bool = False
    checks: tuple[Check, ...] = ()
    score: Score | None = None
    divergence: Divergence | None = None
    histogram: Histogram | None = None
    errors: tuple[TensorError, ...] = ()


@dataclass(frozen=True, slots=True)
class Shown:
    """A question, and what bf16 and each recipe answer.

    Attributes:
        question: The question.
        expected: The right answer; None when there is no single one.
        answers: Thinking and answer as one text, by recipe; ``bf16`` is the checkpoint's.
    """

    question: str
    expected: str | None
    answers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Report:
    """What all files of a folder lost.

    Attributes:
        model: The checkpoint's short name.
        source: What the manifest says of it.
        chosen: The recipes of the run that wrote this.
        baseline: The score of bf16.
        recipes: One for each file.
        shown: Some questions.
        ranges: How large the checkpoint's numbers get, as one of the files says; None when none does.
    """

    model: str
    source: Mapping[str, str]
    chosen: tuple[str, ...] = ()
    baseline: Score | None = None
    recipes: tuple[RecipeReport, ...] = ()
    shown: tuple[Shown, ...] = ()
    ranges: ModelRanges | None = None

    def of(self, recipe: str, content: str) -> RecipeReport | None:
        """What is known of a recipe's files, provided that they are these."""
        return next((each for each in self.recipes if (each.recipe, each.content) == (recipe, content)), None)

    def to_json(self) -> dict[str, Any]:
        """The report as plain JSON values."""
        made = dataclasses.asdict(self) | {"baseline": self.baseline and scores.to_json(self.baseline)}
        made["recipes"] = [_recipe_json(each) for each in self.recipes]
        return REPORT_FORMAT.stamped(made)

    def write(self, folder: Path) -> None:
        """Replace the folder's report.json in one step."""
        files.write_text(folder / NAME, REPORT_FORMAT.to_text(self.to_json(), indent=1))


def content_of(entry: Entry) -> str:
    """What tells an entry's files from others, in hexadecimal."""
    listed = "".join(f"{part.path} {part.sha256}\n" for part in sorted(entry.parts, key=lambda each: each.path))
    return hashlib.sha256(listed.encode()).hexdigest()[:16]


def shortened(text: str) -> str:
    """A text of at most so many characters as a report keeps."""
    return text if len(text) <= CUT else f"{text[:CUT]}…"


def read(path: Path) -> Report:
    """The report in a file.

    Raises:
        QuantizationError: It is damaged, or a newer MiMo Mobile wrote it.
    """
    return REPORT_FORMAT.read(path, _report, QuantizationError, "mimo quantize writes it anew")


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _recipe_json(found: RecipeReport) -> dict[str, Any]:
    made = dataclasses.asdict(found)
    made |= {name: each and scores.to_json(each) for name, each in _scores(found).items()}
    made["checks"] = [
        dataclasses.asdict(each) | {"found": _finite(each.found), "blamed": _errors_json(each.blamed)}
        for each in found.checks
    ]
    made["errors"] = _errors_json(found.errors)
    return made


def _errors_json(errors: Sequence[TensorError]) -> list[dict[str, Any]]:
    return [{"tensor": each.tensor, "error": _finite(each.error)} for each in errors]


def _scores(found: RecipeReport) -> dict[str, Score | Divergence | None]:
    return {"score": found.score, "divergence": found.divergence}


def _report(found: Value) -> Report:
    measured = found.get("ranges")
    return Report(
        found["model"].text(),
        {name: each.text() for name, each in found["source"].fields().items()},
        tuple(each.text() for each in found["chosen"].items(most=MOST_ENTRIES)),
        scores.read_score(found.get("baseline")),
        tuple(_recipe(each) for each in found["recipes"].items(most=MOST_ENTRIES)),
        tuple(_shown(each) for each in found["shown"].items(most=MOST_SHOWN)),
        ranges.from_document(measured) if measured else None,
    )


def _recipe(found: Value) -> RecipeReport:
    histogram = found.get("histogram")
    return RecipeReport(
        recipe=found["recipe"].text(),
        format=found["format"].choice("gguf", "onnx"),
        path=found["path"].path(),
        effort=found["effort"].choice(*EFFORTS),
        bits_per_weight=found["bits_per_weight"].number(0, MOST_BITS),
        size_bytes=found["size_bytes"].integer(),
        content=found["content"].hexadecimal(16),
        rejected=found["rejected"].flag(),
        checks=tuple(_check(each) for each in found["checks"].items(most=100)),
        score=scores.read_score(found.get("score")),
        divergence=scores.read_divergence(found.get("divergence")),
        histogram=_histogram(histogram) if histogram else None,
        errors=_errors(found["errors"]),
    )


def _errors(found: Value | None) -> tuple[TensorError, ...]:
    """What matrices lost; earlier versions blamed none."""
    listed = found.items(most=MOST_TENSORS) if found else ()
    return tuple(TensorError(each["tensor"].text(), _number(each, "error")) for each in listed)


def _check(found: Value) -> Check:
    name = found["name"].choice(*WORDS)
    limit, passed = found["limit"].number(least=0), found["passed"].flag()
    return Check(name, _number(found, "found"), limit, passed, _errors(found.get("blamed")))


def _number(found: Value, name: str) -> float:
    value = found.get(name)
    return math.inf if value is None else value.number(least=0)


def _histogram(found: Value) -> Histogram:
    edges = tuple(each.number(above=0) for each in found["edges"].items(2, MOST_BINS))
    counts = tuple(each.integer(most=MOST_TOKENS) for each in found["counts"].items(1, MOST_BINS))
    if list(edges) != sorted(set(edges)) or len(counts) != len(edges) - 1:
        raise DocumentError(f"{found.place}: rising edges and one count fewer expected")
    return Histogram(edges, counts)


def _shown(found: Value) -> Shown:
    expected = found.get("expected")
    return Shown(
        found["question"].text(),
        expected.text() if expected else None,
        {name: each.text() for name, each in found["answers"].fields().items()},
    )
