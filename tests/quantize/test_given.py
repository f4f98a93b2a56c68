"""What a user gives to quantize by: options without effect are refused, and another text or matrix makes files anew."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import struct
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from mimo_mobile import manifest
from mimo_mobile.convert.checkpoint import Checkpoint
from mimo_mobile.entries import Effort
from mimo_mobile.errors import BadArgumentError
from mimo_mobile.hub import Source
from mimo_mobile.progress import Progress
from mimo_mobile.quantize import texts
from mimo_mobile.quantize.given import PLAIN_TOKENS, Given, hash_of, texts_for
from mimo_mobile.quantize.pipeline import IMPORTANCE, quantize_checkpoint
from mimo_mobile.quantize.recipes import RECIPES
from tests.tiny import write_json, write_tiny_checkpoint

TEXT, OTHER = "Seven boxes hold 12 pens each. " * 20, "def twice(x): return x * 2\n" * 20
NAME = "tiny-q4_0.gguf"


def written(folder: Path, name: str = NAME) -> int:
    return (folder / name).stat().st_mtime_ns


def text(folder: Path, name: str, content: str) -> Path:
    (folder / name).write_text(content, encoding="utf-8")
    return folder / name


@pytest.mark.parametrize(
    ("recipes", "effort", "given", "reason"),
    [
        (["q4_0", "int4_b32"], "none", {"importance"}, "--importance .* --effort none"),
        (["q4_0"], "high", {"importance"}, "--effort high .* --importance"),
        (["q4_0", "int4_b32"], "normal", {"importance", "calibration"}, "--importance .* --calibration"),
        (["q4_0", "q4_k_m"], "none", {"calibration"}, "--calibration .* --effort none"),
    ],
)
def test_an_option_without_effect_is_refused_before_any_work(
    tiny: Source, tmp_path: Path, recipes: list[str], effort: Effort, given: set[str], reason: str
) -> None:
    named = dict.fromkeys(given, tmp_path / "missing")
    with pytest.raises(BadArgumentError, match=reason):
        quantize_checkpoint(tiny, tmp_path / "out", recipes, effort=effort, **named)
    assert not (tmp_path / "out").exists()


def test_a_text_tells_the_ranges_of_onnx_files_that_are_made_without_effort(tiny: Source, tmp_path: Path) -> None:
    mine = text(tmp_path, "mine.txt", TEXT)
    recipes = ["q4_0", "int4_b32"]
    made = quantize_checkpoint(tiny, tmp_path / "out", recipes, effort="none", calibration=mine, problems=0)
    assert [set(entry.calibrated_by) for entry in made.entries] == [set(), {"text"}]  # GGUF holds no ranges then


def test_another_text_makes_files_anew_and_the_same_text_keeps_them(tiny: Source, tmp_path: Path) -> None:
    mine, copy = text(tmp_path, "mine.txt", TEXT), text(tmp_path, "copy.txt", TEXT)
    other, out = text(tmp_path, "other.txt", OTHER), tmp_path / "out"
    times, known = [], []
    for given in (None, None, mine, copy, other, None):
        made = quantize_checkpoint(tiny, out, ["q4_0"], problems=0, calibration=given)
        times.append(written(out))
        known.append(dict(made.entries[0].calibrated_by))
        assert manifest.read(out) == made
    ours, again, first, same, second, back = times
    assert ours == again < first == same < second < back
    assert known[0] == known[1] == known[5] != known[2] == known[3] != known[4]
    assert {name for each in known for name in each} == {"text"}


def test_the_manifest_names_a_hash_of_what_was_read_in_every_case(tiny: Source, tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_file(str(tiny.path / "tokenizer.json"))

    def expected(path: Path, tokens: int | None = None) -> str:
        ids = tokenizer.encode(path.read_text(encoding="utf-8"), add_special_tokens=False).ids[:tokens]
        pieces = [ids[start : start + 512] for start in range(0, len(ids), 512)]  # as long as the context
        numbers = [*map(len, pieces), *(each for piece in pieces for each in piece)]
        return hashlib.sha256(struct.pack(f"<{len(numbers)}i", *numbers)).hexdigest()

    mine = text(tmp_path, "mine.txt", TEXT)
    ours, recipes = expected(texts.TEXT), ["q4_0", "int4_b32"]

    def known(effort: Effort, name: str, **options: Path) -> list[dict[str, str]]:
        made = quantize_checkpoint(tiny, tmp_path / name, recipes, problems=0, effort=effort, **options)
        return [dict(entry.calibrated_by) for entry in made.entries]

    assert known("normal", "ours") == [{"text": ours}] * 2
    beginning = expected(texts.TEXT, PLAIN_TOKENS)
    assert known("none", "none") == [{}, {"text": beginning}]  # nothing was computed for the GGUF file
    assert not (tmp_path / "none" / IMPORTANCE).exists()  # so few tokens weigh nothing
    assert known("none", "mine without effort", calibration=mine)[1] == {"text": expected(mine)}
    assert known("normal", "mine", calibration=mine) == [{"text": expected(mine)}] * 2
    weighed = known("normal", "matrix", importance=tmp_path / "ours" / IMPORTANCE)
    assert [set(each) for each in weighed] == [{"text", "importance"}] * 2 and weighed[0]["text"] == ours


def test_what_the_model_answered_is_named_too_and_asks_for_no_file_anew(
    tiny: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(texts, "prompts", lambda half: [texts.Prompt("maths", "2 + 2?")])
    first, second = (quantize_checkpoint(tiny, tmp_path, ["q4_0"], problems=0, effort="high") for _ in "12")
    (entry,) = first.entries
    assert set(entry.calibrated_by) == {"text", "answers"} and len(set(entry.calibrated_by.values())) == 2
    assert first == second


def test_another_matrix_makes_files_anew_and_is_not_mistaken_for_ours(tiny: Source, tmp_path: Path) -> None:
    out, matrix = tmp_path / "out", tmp_path / "first" / IMPORTANCE
    mine = text(tmp_path, "mine.txt", TEXT)
    quantize_checkpoint(tiny, tmp_path / "first", ["q4_0"], problems=0, calibration=mine)
    quantize_checkpoint(tiny, out, ["q4_0"], problems=0)
    before, ours = written(out), (out / IMPORTANCE).read_bytes()
    made = quantize_checkpoint(tiny, out, ["q4_0"], problems=0, importance=matrix)
    after = written(out)
    assert before < after and set(made.entries[0].calibrated_by) == {"text", "importance"}
    quantize_checkpoint(tiny, out, ["q4_0"], problems=0, importance=matrix)
    assert written(out) == after
    quantize_checkpoint(tiny, out, ["q4_0"], problems=0)
    assert written(out) > after and (out / IMPORTANCE).read_bytes() == ours
    alone = tmp_path / "alone"
    quantize_checkpoint(tiny, alone, ["q4_0"], problems=0, importance=matrix)
    assert not (alone / IMPORTANCE).exists()  # ours weighed nothing there


def test_what_is_finished_stays_while_more_effort_is_calibrated(tiny: Source, tmp_path: Path) -> None:
    quantize_checkpoint(tiny, tmp_path, ["q4_0"], problems=0)

    class Killed(Exception):
        pass

    def kill(step: Progress) -> None:
        if step.stage == "calibrate":
            raise Killed

    before = manifest.read(tmp_path)
    mine = text(tmp_path.parent, "mine.txt", TEXT)
    with pytest.raises(Killed):
        quantize_checkpoint(tiny, tmp_path, ["q4_0"], problems=0, effort="high", calibration=mine, progress=kill)
    assert manifest.read(tmp_path) == before
    assert not [path.name for path in tmp_path.iterdir() if path.name.endswith(".partial")]


@pytest.mark.parametrize("length", [pytest.param(12, marks=pytest.mark.slow), 64])
def test_a_short_context_is_calibrated_with_what_fits_in_it(tmp_path: Path, length: int) -> None:
    folder = write_tiny_checkpoint(tmp_path / "tiny")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    write_json(folder / "config.json", {**config, "max_position_embeddings": length})
    made = quantize_checkpoint(folder, tmp_path / "out", ["q4_0"], problems=0, effort="high")
    assert made.entries[0].effort == "high"


def test_files_with_scales_in_units_serve_everywhere_and_others_not_where_activations_are_quantized(
    tiny: Source, tmp_path: Path
) -> None:
    (entry,) = quantize_checkpoint(tiny, tmp_path / "out", ["int4_b32"], problems=0).entries
    recipe = RECIPES["int4_b32"]
    in_units = dataclasses.replace(recipe, in_units=True)
    given = Given("normal", texts_for(Checkpoint.open(tiny.path)))
    named = {"text": hash_of(given.texts)}
    for_npus = dataclasses.replace(entry, calibrated_by=given.calibrated_by(in_units))
    assert for_npus.calibrated_by == named | {"scales": "units"} and entry.calibrated_by == named
    assert [given.made(each, recipe) for each in (entry, for_npus)] == [True, True]
    assert [given.made(each, in_units) for each in (entry, for_npus)] == [False, True]
