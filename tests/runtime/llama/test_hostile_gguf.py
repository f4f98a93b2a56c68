"""GGUF files that are damaged or lie: the check refuses them, and what it does not know kills a child only.

`python -m tools.hostile` gives the same files to the commands, and measures how they end.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from mimo_mobile import cache_folder
from mimo_mobile.cache import PROBE
from mimo_mobile.convert.model import convert_checkpoint
from mimo_mobile.errors import ModelLoadError
from mimo_mobile.gguf_header import TYPES, GgufHeader
from mimo_mobile.hub import Source
from mimo_mobile.runtime import load
from mimo_mobile.runtime.llama import probe as probes
from mimo_mobile.runtime.llama.checked import MATRIX_TYPES, checked
from mimo_mobile.runtime.llama.probe import probe
from mimo_mobile.runtime.text.tokenizer import TextTokenizer
from tests.gguf_parts import F32, I32, U16, U32, Change, File, add, drop, lose, number, put, string, tensor
from tests.hostile_gguf import Maker, cases


@pytest.fixture(scope="module")
def maker(tmp_path_factory: pytest.TempPathFactory) -> Maker:
    return Maker(tmp_path_factory.mktemp("hostile"))


def check(path: Path) -> None:
    """Everything that is looked at before llama.cpp sees a file."""
    header = GgufHeader(path)
    checked(header)
    TextTokenizer.from_gguf(header)


def tried(path: Path) -> None:
    header = GgufHeader(path)
    probe(header, header if checked(header).mtp_layers else None, 1, keep=False)


def test_every_bad_file_is_refused_with_one_clear_line(tmp_path: Path) -> None:
    seen = set()
    for name, path in cases(tmp_path):
        with pytest.raises(ModelLoadError) as caught:
            check(path)
        message = str(caught.value).replace(str(path), "")
        assert message.startswith(": ") or "tokenizer" in message, (name, message)
        assert message.isprintable() and 20 < len(message) < 400, (name, message)
        seen.add(name)
        path.unlink()
    assert len(seen) > 500


MESSAGES: dict[str, tuple[Change, str]] = {
    "no layers": (put(".block_count", number(U32, 0)), "block_count 0 found, 1…512 expected"),
    "a missing tensor": (lose("output.weight"), r"output\.weight missing, 27 tensors expected"),
    "an unknown tensor": (add("rope_freqs.weight", (32,)), r"rope_freqs\.weight found, which no MiMo-7B"),
    "a shape": (tensor("blk.0.attn_k.weight", ne=(256, 256)), r"attn_k\.weight of 256×256 found, 128×256 expected"),
    "a type": (tensor("blk.0.attn_norm.weight", kind=30), r"attn_norm\.weight in BF16 found, F32 expected"),
    "another model": (put("general.architecture", string("llama")), "'llama' found, 'qwen2'"),
    "a part": (put("split.count", number(U16, 2)), "llama-gguf-split --merge"),
}  # fmt: skip


@pytest.mark.parametrize("case", MESSAGES)
def test_a_refusal_says_what_was_found_and_expected(case: str, maker: Maker) -> None:
    change, message = MESSAGES[case]
    _, path = maker.made(maker.trunk, case, change)
    with pytest.raises(ModelLoadError, match=message):
        load(path)


def test_unusual_good_files_load(maker: Maker) -> None:
    for name, path in maker.good():
        with load(path, trust=True) as model:
            assert model.logits([1, 2]).shape[0] == 2, name


def test_a_flipped_bit_is_refused_or_harmless(maker: Maker) -> None:
    passed = 0
    for name, path in maker.flips(40, seed=3):
        try:
            check(path)
        except ModelLoadError:
            continue
        tried(path)
        passed += 1
        assert passed < 10, name


# What the check refuses, and what kills llama.cpp: asked without the check, it stands for what the check does not know.
DEADLY: dict[str, tuple[Change, str]] = {
    "600 layers": (put(".block_count", number(U32, 600)), "SIGABRT.*n_layer_all"),
    "a norm in bfloat16": (tensor("blk.1.ffn_norm.weight", kind=30), "SIGABRT"),
}  # fmt: skip


@pytest.mark.parametrize("case", DEADLY)
def test_what_kills_llama_cpp_kills_a_child_only(case: str, maker: Maker) -> None:
    change, message = DEADLY[case]
    _, path = maker.made(maker.trunk, case, change)
    for _ in range(2):  # what went wrong is not kept
        with pytest.raises(ModelLoadError, match=f"llama\\.cpp dies on this file \\({message}") as caught:
            probe(GgufHeader(path), None, 1, keep=True)
        assert "--trust" in str(caught.value)


def test_a_file_that_llama_cpp_refuses_is_refused_with_its_reason(maker: Maker) -> None:
    _, path = maker.made(maker.trunk, "a wrong file type", put("general.file_type", string("x")))
    for trust in (False, True):
        with pytest.raises(ModelLoadError, match=r"key general\.file_type has wrong type str but expected type u32"):
            load(path, trust=trust)


def test_a_file_is_tried_once(maker: Maker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MIMO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(probes, "_passed", set())
    started: list[object] = []
    monkeypatch.setattr(probes, "_survives", lambda *of: started.append(of) is None)
    _, path = maker.made(maker.trunk, "tried once", put("general.name", string("tried once")))
    for keep, expected in ((False, 1), (False, 1), (True, 1)):
        load(path, cache=keep).close()
        assert len(started) == expected
    place = cache_folder.place(PROBE, "any")
    assert place is not None and not place.parent.exists()
    probes._passed.clear()
    for _ in range(3):  # processes
        load(path).close()
        probes._passed.clear()
    assert len(started) == 2
    assert [each.stat().st_size for each in place.parent.iterdir()] == [0]
    path.write_bytes(path.read_bytes().replace(b"tried once", b"tried ones"))
    load(path).close()
    assert len(started) == 3
    load(path, trust=True).close()
    assert len(started) == 3


PAIRS: dict[str, tuple[str, Change]] = {
    "the trunk is no part": ("trunk", drop("split.no")),
    "the trunk is another part": ("trunk", put("split.no", number(U16, 2))),
    "the trunk's part in 32 bits": ("trunk", put("split.no", number(U32, 1))),
    "the trunk of another pair": ("trunk", put("mimo_mobile.pair", string("other"))),
    "a trunk without pair": ("trunk", drop("mimo_mobile.pair")),
    "a trunk of other eps": ("trunk", put(".attention.layer_norm_rms_epsilon", number(F32, 1e-3))),
    "a trunk of another frequency": ("trunk", put(".rope.freq_base", number(F32, 1e4))),
    "a scaled trunk": ("trunk", put(".rope.scaling.type", string("linear"))),
    "the layer is no part": ("mtp", drop("split.no")),
    "the layer is another part": ("mtp", put("split.no", number(U16, 1))),
    "no count": ("mtp", drop("split.count")),
    "three parts": ("mtp", put("split.count", number(U16, 3))),
    "a text for a count": ("mtp", put("split.count", string("2"))),
    "no tensors": ("mtp", drop("split.tensors.count")),
    "a tensor more": ("mtp", put("split.tensors.count", number(I32, 44))),
}


@pytest.mark.parametrize("case", PAIRS)
def test_files_that_are_no_pair_are_not_read_as_one_model(case: str, maker: Maker, tmp_path: Path) -> None:
    changed, change = PAIRS[case]
    for kind, base in (("trunk", maker.trunk), ("mtp", maker.trunk.with_name("trunk-mtp.gguf"))):
        _, path = maker.made(base, case, change if kind == changed else lambda file: None)
        path.replace(tmp_path / ("x.gguf" if kind == "trunk" else "x-mtp.gguf"))
    for speculate in ("auto", "mtp"):
        with pytest.raises(ModelLoadError, match=r"another model than x\.gguf|: split\..* found, .* expected"):
            load(tmp_path / "x.gguf", speculate=speculate, cache=False)  # type: ignore[arg-type]
    load(tmp_path / "x.gguf", speculate="off", trust=True).close()


def test_an_mtp_file_with_a_trunk_of_its_own_is_no_pairs(maker: Maker, tmp_path: Path) -> None:
    for base, name in ((maker.trunk, "x.gguf"), (maker.single, "x-mtp.gguf")):
        maker.made(base, "", lambda file: None)[1].replace(tmp_path / name)
    with pytest.raises(ModelLoadError, match="belongs to another model"):
        load(tmp_path / "x.gguf", cache=False)


def test_an_mtp_file_is_tried_with_its_trunk(tiny: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    monkeypatch.setattr(probes, "_survives", lambda paths, _: seen.append([each.name for each in paths]) is None)
    convert_checkpoint(tiny, tmp_path / "pair.gguf", to="gguf", dtype="f16")
    one = convert_checkpoint(tiny, tmp_path / "one.gguf", to="gguf", dtype="f16", single_file=True)[0]
    for path in (tmp_path / "pair.gguf", one):
        load(path, cache=False).close()
    assert seen == [["pair.gguf", "pair-mtp.gguf"], ["one.gguf", "one.gguf"]]


def test_where_no_child_can_be_started_the_file_is_loaded_and_the_log_says_so(
    maker: Maker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setattr(probes, "_passed", set())
    broken = tmp_path / "python-that-ends"
    broken.write_text("#!/bin/sh\necho no prefix >&2\nexit 1\n")
    broken.chmod(0o755)
    reasons = []
    for executable in ("", "/usr/bin/an-app", str(tmp_path / "no-python"), str(broken)):
        monkeypatch.setattr(sys, "executable", executable)
        load(maker.trunk, cache=False).close()
        reasons.append(caplog.records[-1].getMessage())
    assert all("not tried in a process of its own" in reason for reason in reasons)
    assert reasons[2].endswith("No such file or directory: '" + str(tmp_path / "no-python") + "'")
    assert reasons[3].endswith("no prefix")


def test_a_child_that_hangs_is_ended(maker: Maker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    slow = tmp_path / "python-that-hangs"
    slow.write_text("#!/bin/sh\necho started\nexec sleep 60\n")
    slow.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(slow))
    monkeypatch.setattr(probes, "START_S", 0.5)
    begin = time.monotonic()
    with pytest.raises(ModelLoadError, match=r"llama\.cpp hangs on this file: no step ended in"):
        probe(GgufHeader(maker.trunk), None, 1, keep=False)
    assert time.monotonic() - begin < 10


def test_what_ends_the_child_is_said(maker: Maker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ending = tmp_path / "python-that-ends"
    monkeypatch.setattr(sys, "executable", str(ending))
    for end, message in (
        ("echo it needs too much memory >&2; exit 1", f"{maker.trunk}: it needs too much memory"),
        (f"echo {maker.trunk}: no context >&2; exit 1", f"{maker.trunk}: no context"),
        ("kill -9 $$", f"{maker.trunk}: llama.cpp dies on this file (SIGKILL): it said nothing; "),
        (
            "printf 'a\\033[31mb' >&2; kill -11 $$",
            f"{maker.trunk}: llama.cpp dies on this file (SIGSEGV): a\\x1b[31mb; ",
        ),
    ):
        ending.write_text(f"#!/bin/sh\necho started\n{end}\n")
        ending.chmod(0o755)
        with pytest.raises(ModelLoadError) as caught:
            probe(GgufHeader(maker.trunk), None, 1, keep=False)
        assert str(caught.value).startswith(message)


def test_the_child_takes_no_module_from_the_folder_it_is_started_in(
    maker: Maker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("numpy", "llama_cpp", "json"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('taken')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each])
    assert probes._survives([maker.trunk], 1)


@pytest.mark.slow
def test_llama_cpp_computes_with_every_allowed_type(maker: Maker) -> None:
    for kind, (name, _, _) in TYPES.items():
        if name not in MATRIX_TYPES:
            continue

        def change(file: File, kind: int = kind) -> None:
            for each in file.tensors:
                each.kind = kind if len(each.ne) == 2 else each.kind

        tried(maker.made(maker.single, name, change)[1])


@pytest.mark.slow
def test_no_flipped_bit_kills(maker: Maker) -> None:
    for _, path in maker.flips(500, seed=1):
        try:
            check(path)
        except ModelLoadError:
            path.unlink()
            continue
        tried(path)
        path.unlink()
