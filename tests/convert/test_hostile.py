"""No checkpoint crashes, hangs or fills the memory: each ends in a CheckpointError of one line, or is converted."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import pytest
from safetensors import SafetensorError, safe_open

from mimo_mobile import inspection, manifest, untrusted
from mimo_mobile.convert.checkpoint import Checkpoint
from mimo_mobile.convert.draft_vocabulary import draft_ids
from mimo_mobile.convert.model import convert_checkpoint
from mimo_mobile.convert.shards import DTYPES, read_shard
from mimo_mobile.errors import CheckpointError, MimoMobileError
from mimo_mobile.files import remove
from mimo_mobile.hub import Source
from mimo_mobile.progress import Progress
from mimo_mobile.quantize.evaluate import read_problems
from mimo_mobile.quantize.pipeline import quantize_checkpoint
from tests import hostile_checkpoints

HARMLESS = {
    *(f"README.md is {what}" for what in hostile_checkpoints.SPECIAL),
    "heldout.jsonl: empty",
    "config: rope_theta 10**9",
    "config: eos_token_id list",
    "config: eos_token_id many",
}
"""What is not refused: a model card is read for the licence only, and these values are in range."""


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """Fail when something takes longer, even if it waits for a pipe."""

    def late(number: int, frame: FrameType | None) -> None:
        raise AssertionError(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def used(folder: Path, out: Path) -> None:
    """Do with a checkpoint all that convert, quantize and inspect do with its files."""
    source = Source(folder, "hostile")
    checkpoint = Checkpoint.open(folder)
    read_problems(folder)
    draft_ids(folder, checkpoint.vocabulary)
    manifest.identify(source)
    convert_checkpoint(source, out, to="gguf")


def test_every_hostile_checkpoint_is_refused_in_one_line(tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    accepted, count = set[str](), 0
    for name, folder in hostile_checkpoints.cases(tmp_path / "cases"):
        count += 1
        out = tmp_path / "out" / "x.gguf"
        try:
            with within(20):
                used(folder, out)
            accepted.add(name)
            shutil.rmtree(out.parent)
        except MimoMobileError as error:
            text = str(error)
            assert isinstance(error, CheckpointError), name
            assert untrusted.printable(text) == text and len(text) < 6000, f"{name}: {text[:300]!r}"
            assert not out.parent.exists(), name
        except Exception as error:
            raise AssertionError(name) from error
        try:
            with within(20):
                inspection.inspect(folder)
        except MimoMobileError:
            pass
        except Exception as error:
            raise AssertionError(f"inspect: {name}") from error
        shutil.rmtree(folder)
    assert sorted(accepted ^ HARMLESS) == [] and count > 300
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 512 * 1024


@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors.index.json", "tokenizer.json", "tokenizer_config.json", "shard"]
)
def test_a_few_altered_bytes_do_no_harm(name: str, tmp_path: Path) -> None:
    chance = random.Random(name)
    folder = hostile_checkpoints.base(tmp_path / "base")
    path = folder / (hostile_checkpoints.FIRST if name == "shard" else name)
    whole = path.read_bytes()
    most = 8 + int.from_bytes(whole[:8], "little") if name == "shard" else len(whole)
    refused = 0
    for number in range(500):
        hostile_checkpoints.put(folder, path.name, hostile_checkpoints.flipped(whole, chance, most))
        with within(20):
            try:
                Checkpoint.open(folder)
            except CheckpointError as error:
                refused += 1
                assert untrusted.printable(str(error)) == str(error), number
    assert refused > 100


def test_what_we_take_for_a_safetensors_file_its_library_does_too(tmp_path: Path) -> None:
    chance = random.Random(14)
    folder = hostile_checkpoints.base(tmp_path / "base")
    path = folder / hostile_checkpoints.FIRST
    whole, taken = path.read_bytes(), 0
    most = 8 + int.from_bytes(whole[:8], "little")
    for _ in range(1000):
        hostile_checkpoints.put(folder, path.name, hostile_checkpoints.flipped(whole, chance, most))
        try:
            found = read_shard(path)
        except CheckpointError:
            continue
        if not {view.dtype for view in found.values()} <= DTYPES.keys():
            continue  # a type that no weight of ours may have; which others there are changes with its versions
        taken += 1
        try:
            with safe_open(path, framework="numpy") as library:
                assert {name: list(view.shape) for name, view in found.items()} == {
                    name: library.get_slice(name).get_shape() for name in library.keys()
                }
        except SafetensorError as error:
            raise AssertionError(path.read_bytes()[:most]) from error
    assert taken > 20


def test_what_no_conversion_can_read_is_refused_by_quantize_before_any_work(tmp_path: Path) -> None:
    folder = hostile_checkpoints.base(tmp_path / "hostile")
    for file in ("vocab.json", "generation_config.json", "heldout.jsonl"):
        for make in hostile_checkpoints.SPECIAL.values():
            (folder / file).unlink(missing_ok=True)
            make(folder / file)
            with within(20), pytest.raises(CheckpointError, match=f"{file}: a .* found, a file expected"):
                quantize_checkpoint(folder, tmp_path / "out", ["q8_0", "int4_b32"])
            remove(folder / file)
        hostile_checkpoints.put(folder, file, "{}" if file.endswith("config.json") else "")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("how", ["truncated", "replaced", "removed"])
def test_a_shard_that_changes_meanwhile_is_an_error(how: str, tmp_path: Path) -> None:
    folder = hostile_checkpoints.base(tmp_path / "changing")
    shard = folder / hostile_checkpoints.FIRST

    def change(step: Progress) -> None:
        if step.stage == "write x.gguf" and shard.exists() and not (tmp_path / "done").exists():
            (tmp_path / "done").touch()
            if how == "truncated":
                os.truncate(shard, 4096)
            elif how == "replaced":
                shutil.copy(shard, tmp_path / "new")
                (tmp_path / "new").replace(shard)
            else:
                shard.unlink()

    with pytest.raises(CheckpointError, match=r"changed since it was opened|shrank while it was read"):
        convert_checkpoint(folder, tmp_path / "out" / "x.gguf", to="gguf", progress=change)
    assert (tmp_path / "done").exists()
    assert not [path.name for path in (tmp_path / "out").iterdir() if path.name != "x-mtp.gguf"]


def test_links_that_a_user_made_are_followed_as_in_the_hubs_cache(tmp_path: Path) -> None:
    folder, blobs = hostile_checkpoints.base(tmp_path / "snapshot"), tmp_path / "blobs"
    blobs.mkdir()
    for number, path in enumerate(sorted(folder.iterdir())):
        path.rename(blobs / str(number))
        path.symlink_to(f"../blobs/{number}")
    assert [path.name for path in convert_checkpoint(folder, tmp_path / "x.gguf", to="gguf")] == [
        "x.gguf",
        "x-mtp.gguf",
    ]
