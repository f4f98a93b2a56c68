"""What a model takes on an NPU is told before anything is compiled, and what does not fit is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from click.testing import Result

from mimo_mobile import npu_memory
from mimo_mobile.cli import main
from mimo_mobile.convert.checkpoint import Checkpoint
from mimo_mobile.convert.formats import F16
from mimo_mobile.convert.npu.pieces import WINDOWS, Cut, compile_bytes
from mimo_mobile.convert.written_weights import WrittenWeights
from mimo_mobile.errors import BadArgumentError, QuantizationError
from mimo_mobile.hub import Source
from mimo_mobile.mimo7b import MIMO_7B
from mimo_mobile.phones import DEVICES
from mimo_mobile.quantize import npu_plan
from mimo_mobile.quantize.npu_plan import Asked
from mimo_mobile.quantize.recipes import RECIPES, unquantized
from tests.commands import runner

INT4 = RECIPES["int4_b32"]

LARGE_BYTES = 64_000_000_000
"""The memory of a machine where the NPU alone decides how long pieces are."""


def cut(context_length: int, windows: tuple[int, ...] = WINDOWS, memory_bytes: int = LARGE_BYTES) -> Cut:
    return Cut(context_length, windows, shared=True, memory_bytes=memory_bytes)


def mimo(*arguments: object) -> Result:
    return runner().invoke(main, [str(each) for each in arguments])


def test_mimo_7bs_pieces_hold_its_weights_and_caches_by_hand_computed_sizes() -> None:
    """A layer has 192,937,984 weights in blocks of 32 with a float32 scale, that is 5 bits each, and a few vectors."""
    plan = npu_plan.plan(INT4, MIMO_7B, cut(4096))
    pieces = {each.name: each for each in plan.pieces}
    assert list(pieces) == ["layers-0", "layers-1", "head", "mtp", "draft_head"]
    matrices = 4096 * (4096 + 2 * 1024) + 4096 * 4096 + 3 * 4096 * 11008
    vectors = 2 * 4096 + 4096 + 2 * 1024  # two norms, and the biases of q, k and v
    assert pieces["layers-0"].layers == pieces["layers-1"].layers == 18
    assert pieces["layers-0"].weights_bytes == 18 * (matrices * 5 // 8 + vectors * 4)
    assert pieces["layers-0"].cache_bytes == 2 * 18 * 2 * 4096 * 8 * 128 * 2, "in and out, keys and values, float16"
    assert plan.cache_bytes == 37 * 2 * 4096 * 8 * 128 * 2, "36 layers and the MTP layer"
    assert all(each.address_bytes < npu_memory.ADDRESS_BYTES for each in plan.pieces)
    assert (plan.sessions, plan.cpu_bytes) == (5, 0)


def test_a_copy_for_each_window_triples_layers_and_doubles_the_head() -> None:
    shared, own, split, _ = npu_plan.plans(INT4, MIMO_7B, Asked(memory_bytes=LARGE_BYTES))
    sizes = {each.name: each.weights_bytes for each in shared.pieces}
    assert (
        own.npu_bytes - shared.npu_bytes == 2 * (sizes["layers-0"] + sizes["layers-1"] + sizes["mtp"]) + sizes["head"]
    )
    assert own.sessions == 3 * 3 + 2 + 1
    assert split.npu_bytes == sizes["layers-0"] + sizes["layers-1"], "prompts need the trunk only, in one window"
    assert split.cpu_bytes > split.npu_bytes, "the CPU has all of the model once more, to compute tokens"


def test_prompts_in_stages_take_the_cpus_memory_and_that_of_one_piece() -> None:
    *_, split, staged = npu_plan.plans(INT4, MIMO_7B, Asked(2048, memory_bytes=LARGE_BYTES))
    assert (staged.mode, staged.sessions, len(staged.pieces)) == ("staged", 1, 18)
    assert staged.npu_bytes == 2 * split.npu_bytes / 36 and staged.npu_cache_bytes == 2 * split.npu_cache_bytes / 36
    assert staged.memory_bytes == split.memory_bytes - split.npu_bytes * 34 // 36 - split.npu_cache_bytes * 34 // 36
    assert staged.fits(DEVICES["phone-12gb"].available_bytes) and not split.fits(DEVICES["phone-16gb"].available_bytes)


def test_a_phone_gets_the_longest_context_that_fits() -> None:
    assert npu_plan.choose(INT4, MIMO_7B, DEVICES["phone-12gb"]).context_length == 2048
    assert npu_plan.choose(INT4, MIMO_7B, DEVICES["phone-16gb"]).context_length == 4096
    with pytest.raises(BadArgumentError, match=r"int4_b32 does not fit on the NPU of phone-8gb.* a context of 512 it"):
        npu_plan.choose(INT4, MIMO_7B, DEVICES["phone-8gb"])
    with pytest.raises(BadArgumentError, match=r"a context of 4096 it takes 7\.24 GB, and an app may take 7\.09 GB"):
        npu_plan.choose(INT4, MIMO_7B, DEVICES["phone-12gb"], Asked(4096))
    with pytest.raises(QuantizationError, match="--context 40000 with windows of 64: a context up to 32768"):
        npu_plan.choose(INT4, MIMO_7B, DEVICES["phone-24gb"], Asked(40000))


def test_prompts_alone_need_one_window_and_room_for_the_cpus_weights_beside_it() -> None:
    asked = Asked(windows=(64,), memory_bytes=LARGE_BYTES)
    found = npu_plan.choose(INT4, MIMO_7B, DEVICES["phone-24gb"], asked)
    assert (found.mode, found.sessions, found.context_length) == ("split", 2, 4096)
    with pytest.raises(BadArgumentError, match=r"with prompts there and tokens on the CPU and a context of 512 it"):
        npu_plan.choose(INT4, MIMO_7B, DEVICES["phone-12gb"], asked)
    with pytest.raises(QuantizationError, match="--windows 64,1: a prompt's window alone expected, such as 64, or"):
        npu_plan.choose(INT4, MIMO_7B, DEVICES["phone-24gb"], Asked(windows=(64, 1)))


def test_pieces_get_as_short_as_the_memory_to_compile_them_demands() -> None:
    """9 layers with three windows took 12.4 GB here, and 4 layers 5.9 GB."""

    def layers(memory_bytes: int, windows: tuple[int, ...] = WINDOWS) -> list[int]:
        return [
            each.layers
            for each in npu_plan.plan(INT4, MIMO_7B, cut(4096, windows, memory_bytes)).pieces
            if each.layers > 1
        ]

    assert layers(14_000_000_000) == [9, 9, 9, 9]
    assert layers(16 * 2**30) == [12, 12, 12]
    assert layers(6_500_000_000) == [4] * 9
    assert layers(16 * 2**30, (64,)) == [18, 18], "one window needs half of it"
    with pytest.raises(
        QuantizationError,
        match=r"takes about 1\.7 GB of memory for one layer, and may take 1\.5 GB here; .*--compile-memory",
    ):
        layers(1_500_000_000)


def test_the_memory_to_compile_is_near_what_pieces_took_here() -> None:
    """In GB, with one copy of the weights: nine layers, and in 8 bits the head and the MTP layer, each by itself."""
    pieces = {each.name: each for each in npu_plan.plan(INT4, MIMO_7B, cut(4096, memory_bytes=14_000_000_000)).pieces}
    for name, took in {"layers-0": 12.57, "head": 5.84, "mtp": 3.03}.items():
        assert pieces[name].compile_bytes / 1e9 == pytest.approx(took, rel=0.05), name
    assert compile_bytes(pieces["head"].weights_bytes, 1, 9.0) / 1e9 == pytest.approx(3.71, rel=0.05)


def test_the_plan_counts_the_weights_that_are_written(nano_q4: dict[str, Path], nano: Source) -> None:
    written, config = WrittenWeights(nano_q4["onnx"]), Checkpoint.open(nano.path).config
    found = {each.name: each for each in npu_plan.plan(INT4, config, cut(512)).pieces}
    unused = sum(
        written.nbytes(f"model.layers.{layer}.self_attn.{name}")
        for layer in range(4)
        for name in ("k_scale", "v_scale")
    )  # of the int8 cache, which no NPU has
    assert found["layers-0"].weights_bytes == written.nbytes("model.layers.") - unused
    assert found["head"].weights_bytes == written.nbytes("lm_head.weight") + written.nbytes("model.norm.")
    assert found["mtp"].weights_bytes == written.nbytes("model.mtp_layers.")


def test_a_piece_beyond_a_sessions_address_space_fits_no_phone() -> None:
    piece = npu_memory.Piece("head", 0, 3_800_000_000, 0, (2, 1))
    plan, phone = npu_memory.Plan("npu", True, 4096, (piece,), 0, 0, 0), DEVICES["phone-12gb"]
    assert plan.memory_bytes < phone.available_bytes and not plan.fits(phone.available_bytes)


def test_the_command_tells_it_as_a_table_and_as_json(tiny: Source) -> None:
    said = mimo("npu-plan", "--compile-memory", "64GB").output
    assert "4096 tokens of context" in said and "layers-1" in said and "fits" in said and "of a session" in said
    plans = json.loads(mimo("npu-plan", "--json", "--device", "phone-12gb").output)["plans"]
    assert [(each["mode"], each["shared"], each["context_length"]) for each in plans] == [
        ("npu", True, 2048), ("npu", False, 2048), ("split", False, 2048), ("staged", False, 2048),
    ]  # fmt: skip
    assert plans[0]["fits"] == {"phone-8gb": False, "phone-12gb": True, "phone-16gb": True}
    assert plans[0]["memory_bytes"] == sum(
        (plans[0]["npu_bytes"], plans[0]["npu_cache_bytes"], plans[0]["cache_bytes"], plans[0]["runtime_bytes"])
    )
    first = json.loads(mimo("npu-plan", "--json", "--windows", "64").output)["plans"][0]
    assert (first["mode"], {tuple(each["windows"]) for each in first["pieces"]}) == ("split", {(64,)})
    assert "numbers of tokens such as 64,2,1 expected" in mimo("npu-plan", "--windows", "x").stderr
    small = json.loads(mimo("npu-plan", tiny.path, "--json", "--context", "128").output)["plans"][0]
    assert small["memory_bytes"] < 400_000_000


def test_convert_tells_its_plan_before_it_writes_anything(tiny: Source, tmp_path: Path) -> None:
    """Its weights are not quantized: in float16 a layer of MiMo-7B has 386 MB, and no phone has room for 36."""
    out, chip = tmp_path / "model", ("--target", "qnn", "--soc", "SM8750", "--context", "128")
    refused = mimo("convert", tiny.path, out, "--to", "onnx", *chip, "--compile-memory", "1MB")
    assert refused.exit_code == 1 and "allow more with --compile-memory" in refused.stderr
    refused = mimo("convert", tiny.path, out, "--to", "onnx", *chip, "--context", "4096")
    assert refused.exit_code == 1 and "a context up to 512" in refused.stderr
    aimless = mimo("convert", tiny.path, out, "--to", "onnx", "--device", "phone-12gb")
    assert aimless.exit_code == 2 and "add --target qnn" in aimless.stderr
    assert not out.exists()
    plain = unquantized(F16)
    plan = npu_plan.plan(plain, MIMO_7B, cut(4096))
    matrices = 4096 * (4096 + 2 * 1024) + 4096 * 4096 + 3 * 4096 * 11008
    vectors = 2 * 4096 + 4096 + 2 * 1024
    assert sum(each.weights_bytes for each in plan.pieces if each.layers > 1) == 36 * 2 * (matrices + vectors)
    with pytest.raises(BadArgumentError, match=r"f16 does not fit on the NPU of phone-16gb: with one copy"):
        npu_plan.choose(plain, MIMO_7B, DEVICES["phone-16gb"], Asked(memory_bytes=LARGE_BYTES))


def test_a_piece_that_no_session_holds_is_refused_before_it_is_compiled() -> None:
    wide = dataclasses.replace(MIMO_7B, vocab_size=1_000_000)
    plan = npu_plan.plan(INT4, wide, cut(512))
    with pytest.raises(
        BadArgumentError, match=r"int4_b32: head: windows of 2, 1; 4\.\d\d GB of weights .* a session has"
    ):
        npu_plan.check(INT4, plan)
    npu_plan.check(INT4, npu_plan.plan(INT4, MIMO_7B, cut(512)))


def test_what_does_not_fit_is_refused_with_the_plan() -> None:
    refused = mimo("npu-plan", "--device", "phone-8gb")
    assert refused.exit_code == 2 and refused.stdout == ""
    assert "address space" in refused.stderr and "does not fit on the NPU of phone-8gb" in refused.stderr
    wrong = mimo("npu-plan", "--recipe", "q4_0")
    assert wrong.exit_code == 2 and "an ONNX recipe such as int4_b32 expected" in wrong.stderr
