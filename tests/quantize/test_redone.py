"""Quantizing once more: what is replaced, what stays, and what tells one checkpoint from another."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from mimo_mobile import checksums, inspection, manifest
from mimo_mobile.errors import MimoMobileError, OutputExistsError
from mimo_mobile.hub import Source
from mimo_mobile.progress import Progress
from mimo_mobile.quantize import evaluate
from mimo_mobile.quantize.pipeline import quantize_checkpoint
from tests.tiny import tiny_weights, write_tiny_checkpoint, write_weights

KEY = {"fingerprint": "f", "problem_set": "p"}


def recipes(made: manifest.Manifest) -> list[str]:
    return [entry.recipe for entry in made.entries]


def files_in(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir() if path.suffix == ".gguf"}


def copied(tiny: Source, folder: Path) -> Source:
    return Source(Path(shutil.copytree(tiny.path, folder)), "tiny")


def test_force_replaces_the_files_of_its_recipe_only(tiny: Source, tmp_path: Path) -> None:
    quantize_checkpoint(tiny, tmp_path, ["q8_0", "q4_0"])
    before = files_in(tmp_path)
    made = quantize_checkpoint(tiny, tmp_path, ["q8_0"], force=True)
    after = files_in(tmp_path)
    assert recipes(made) == ["q8_0", "q4_0"] and manifest.read(tmp_path) == made
    assert {name for name in before if before[name] != after[name]} == {"tiny-q8_0.gguf", "tiny-q8_0-mtp.gguf"}
    assert inspection.verify(tmp_path) == 4


def test_the_first_entry_stays_the_first_when_it_is_redone_or_was_interrupted(tiny: Source, tmp_path: Path) -> None:
    quantize_checkpoint(tiny, tmp_path, ["q8_0", "q4_0"])

    class Killed(Exception):
        pass

    def kill(step: Progress) -> None:
        if step.stage == "write tiny-q8_0.gguf":
            raise Killed

    with pytest.raises(Killed):
        quantize_checkpoint(tiny, tmp_path, ["q8_0"], force=True, progress=kill)
    left = manifest.read(tmp_path)
    assert left is not None and recipes(left) == ["q4_0"]
    assert recipes(quantize_checkpoint(tiny, tmp_path, ["q6_k", "q8_0"])) == ["q8_0", "q4_0", "q6_k"]


def test_neither_a_new_version_nor_a_touched_file_makes_another_checkpoint(
    tiny: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = copied(tiny, tmp_path / "tiny")
    quantize_checkpoint(source, tmp_path / "out", ["q8_0"])
    before = files_in(tmp_path / "out")
    for path in source.path.iterdir():
        os.utime(path, (1, 1))
    monkeypatch.setattr(manifest, "__version__", "99.0")
    moved = Source(source.path.rename(tmp_path / "moved"), "tiny", "XiaomiMiMo/tiny", "0" * 40)
    made = quantize_checkpoint(moved, tmp_path / "out", ["q8_0", "q4_0"])
    assert before.items() <= files_in(tmp_path / "out").items()
    tools = {entry.recipe: entry.tools["mimo-mobile"] for entry in made.entries}
    assert tools["q4_0"] == "99.0" and tools["q8_0"] != "99.0"


@pytest.mark.parametrize("what", ["a weight", "tokenizer_config.json", "config.json"])
def test_a_changed_file_makes_another_checkpoint_though_its_size_and_time_stay(
    what: str, tiny: Source, tmp_path: Path
) -> None:
    source = copied(tiny, tmp_path / "tiny")
    path = source.path / ("model-00001-of-00002.safetensors" if what == "a weight" else what)
    before = manifest.identify(source)
    state, content = path.stat(), bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (state.st_size, state.st_mtime_ns)
    assert manifest.identify(source) != before


def test_force_removes_the_files_of_another_checkpoint(tiny: Source, tmp_path: Path) -> None:
    out = tmp_path / "out"
    quantize_checkpoint(tiny, out, ["q8_0", "q4_0", "int4_b32"])
    (out / "notes.txt").write_text("mine")
    other = Source(write_tiny_checkpoint(tmp_path / "other", seed=1), "tiny")
    with pytest.raises(OutputExistsError) as caught:
        quantize_checkpoint(other, out, ["q8_0"])
    marks = [manifest.identify(each)["fingerprint"] for each in (tiny, other)]
    assert all(mark in str(caught.value) for mark in marks) and "--force removes them" in str(caught.value)
    made = quantize_checkpoint(other, out, ["q8_0"], force=True)
    assert recipes(made) == ["q8_0"] and made.source["fingerprint"] == marks[1]
    assert {path.name for path in out.iterdir()} == {
        ".lock", "manifest.json", "calibrated-on.json", "importance.imatrix", "notes.txt", "report.html",
        "report.json", "tiny-q8_0.gguf",
        "tiny-q8_0-mtp.gguf",
    }  # fmt: skip


def first_version(folder: Path) -> None:
    """The folder's manifest as version 1 had it."""
    data = json.loads((folder / "manifest.json").read_text())
    del data["order"]
    data |= {"manifest_version": 1, "tools": {"numpy": "1.0"}}
    data["source"] |= {"fingerprint": "0123456789abcdef", "mimo_mobile": "0.1"}
    for score in [data["baseline"], *(entry["score"] for entry in data["entries"])]:
        if score is not None:
            del score["problem_set"]
    for entry in data["entries"]:
        del entry["tools"]
    (folder / "manifest.json").write_text(json.dumps(data))


def test_a_manifest_of_version_1_is_read_and_replaced_with_force_only(tiny: Source, tmp_path: Path) -> None:
    quantize_checkpoint(tiny, tmp_path, ["q8_0", "q4_0"])
    first_version(tmp_path)
    found = manifest.read(tmp_path)
    assert found is not None and recipes(found) == ["q8_0", "q4_0"] and found.source == {}
    assert [entry.tools for entry in found.entries] == [{"numpy": "1.0"}] * 2
    assert inspection.verify(tmp_path) == 4
    with pytest.raises(OutputExistsError, match=r"an earlier MiMo Mobile wrote these files.*--force removes them"):
        quantize_checkpoint(tiny, tmp_path, ["q8_0"])
    assert recipes(quantize_checkpoint(tiny, tmp_path, ["q8_0"], force=True)) == ["q8_0"]


def test_a_damaged_manifest_is_replaced_with_force_only(tiny: Source, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(MimoMobileError, match="not what mimo writes"):
        quantize_checkpoint(tiny, tmp_path, ["q8_0"])
    assert recipes(quantize_checkpoint(tiny, tmp_path, ["q8_0"], force=True)) == ["q8_0"]


@pytest.mark.parametrize("what", ["damaged", "foreign", "of another checkpoint"])
def test_a_folder_that_cannot_be_used_is_refused_before_weights_are_checked(
    what: str, tiny: Source, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    if what == "of another checkpoint":
        quantize_checkpoint(copied(tiny, tmp_path / "other"), out, ["q8_0"])
        (tmp_path / "changed").mkdir()
        tiny = Source(write_tiny_checkpoint(tmp_path / "changed" / "checkpoint", seed=1), "tiny")
    else:
        out.mkdir()
        (out / ("manifest.json" if what == "damaged" else "thesis.txt")).write_text("nonsense")
    seen: list[str] = []
    with pytest.raises(MimoMobileError, match=r"manifest\.json|fingerprint"):
        quantize_checkpoint(tiny, out, ["q8_0"], progress=lambda step: seen.append(step.stage))
    assert set(seen) <= ({"checksum"} if what == "of another checkpoint" else set())


def stages(nano: Source, out: Path, names: list[str], **options: bool) -> tuple[manifest.Manifest, set[str]]:
    seen: list[Progress] = []
    made = quantize_checkpoint(nano, out, names, problems=2, effort="none", progress=seen.append, **options)  # type: ignore[arg-type]
    return made, {step.stage for step in seen if step.stage.startswith("evaluate")}


def test_only_what_has_no_score_on_these_problems_is_scored(nano: Source, tmp_path: Path) -> None:
    first, _ = stages(nano, tmp_path, ["q8_0"])
    second, scored = stages(nano, tmp_path, ["q8_0", "q4_0"])
    assert scored == {"evaluate q4_0"} and second.baseline == first.baseline and second.entries[0] == first.entries[0]
    alone, _ = stages(nano, tmp_path / "alone", ["q4_0"])
    assert alone.entries[0].score == second.entries[1].score, "as if it had been scored with bf16 in one run"
    third, scored = stages(nano, tmp_path, ["q4_0"], force=True)
    assert scored == {"evaluate q4_0"} and third.entries[0] == first.entries[0]
    assert stages(nano, tmp_path, ["q8_0", "q4_0"])[1] == set()
    (tmp_path / evaluate.REPLIES).write_text("{")
    last, scored = stages(nano, tmp_path, ["q6_k"])
    assert scored == {"evaluate bf16", "evaluate q8_0", "evaluate q4_0", "evaluate q6_k"}
    assert all(entry.score for entry in last.entries)


def test_as_many_other_problems_are_other_problems(nano: Source, tmp_path: Path) -> None:
    source = Source(Path(shutil.copytree(nano.path, tmp_path / "nano")), "nano")
    stages(source, tmp_path / "out", ["q8_0"])
    lines = (source.path / "heldout.jsonl").read_text().splitlines(keepends=True)
    (source.path / "heldout.jsonl").write_text("".join(lines[::-1]))
    made, scored = stages(source, tmp_path / "out", ["q8_0"])
    assert scored == {"evaluate bf16", "evaluate q8_0"} and made.baseline is not None and made.entries[0].score
    assert made.baseline.problem_set == made.entries[0].score.problem_set != ""


def test_kept_replies_are_those_of_one_checkpoint_to_one_list(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert evaluate.kept_replies(tmp_path, KEY, 1) is None
    evaluate.keep_replies(tmp_path, KEY, [evaluate.Reply("a", True, (3, 4), 0.0, 2, 2)])
    assert evaluate.kept_replies(tmp_path, KEY, 1) == [(3, 4)]
    assert evaluate.kept_replies(tmp_path, KEY | {"fingerprint": "another"}, 1) is None
    assert evaluate.kept_replies(tmp_path, KEY | {"problem_set": "another"}, 1) is None
    assert not caplog.records
    assert evaluate.kept_replies(tmp_path, KEY, 2) is None and "2 replies expected, 1 found" in caplog.text


def test_a_large_file_is_read_once_and_again_when_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIMO_CACHE", str(tmp_path / "cache"))
    path, read = tmp_path / "large", []
    path.write_bytes(bytes(2_000_000))

    def digest() -> tuple[str, bool]:
        read.clear()
        return checksums.sha256(path, read.append), bool(read)

    zeros, first = digest()
    assert first and digest() == (zeros, False)
    state = path.stat()
    with path.open("r+b") as handle:
        handle.write(b"x")
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    changed, again = digest()
    assert again and changed != zeros and digest() == (changed, False)
    for kept in (tmp_path / "cache" / "checksums").iterdir():
        kept.write_text("nonsense")
    assert digest() == (changed, True)
    shutil.rmtree(tmp_path / "cache")
    (tmp_path / "cache").write_text("no folder")
    assert digest() == (changed, True)


def test_weights_of_the_same_shapes_are_told_apart_without_the_cache(
    tiny: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mimo_mobile.convert.checkpoint import Checkpoint

    source = copied(tiny, tmp_path / "tiny")
    before = manifest.identify(source)
    write_weights(source.path, tiny_weights(Checkpoint.open(source.path).config, 1), shards=2, dtype="BF16")
    after = manifest.identify(source)
    monkeypatch.setenv("MIMO_CACHE", str(tmp_path / "cache"))
    assert before != after == manifest.identify(source)


def test_another_number_of_tokens_compares_anew_though_another_folder_has_read_the_text(
    nano: Source, tmp_path: Path
) -> None:
    def tokens(out: str, most: int) -> int:
        made = quantize_checkpoint(nano, tmp_path / out, ["q8_0"], problems=0, effort="none", tokens=most)
        assert made.entries[0].divergence is not None
        return made.entries[0].divergence.tokens

    few, many = tokens("one", 64), tokens("other", 128)
    assert few < many
    assert tokens("one", 128) == many
    assert tokens("one", 64) == few
