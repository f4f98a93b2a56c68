"""Checkpoints as fine-tuning and newer transformers leave them: read in every form, or refused with all reasons.

The forms were taken from what transformers 4.57.6 and 5.24.0 write with save_pretrained.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from mimo_mobile import cli
from mimo_mobile.convert.checkpoint import Checkpoint
from mimo_mobile.convert.model import convert_checkpoint
from mimo_mobile.errors import CheckpointError, ModelLoadError, UnknownTensorError
from mimo_mobile.gguf_header import GgufHeader
from mimo_mobile.hub import Source
from mimo_mobile.runtime import load
from mimo_mobile.runtime.text.tokenizer import TextTokenizer
from tests.tiny import LEARNT, tiny_config, tiny_weights, write_json, write_tiny_checkpoint, write_weights

END, TURN_END = LEARNT, LEARNT + 2
PLAIN_ROPE = {"rope_theta": 640000.0, "rope_type": "default"}


@pytest.fixture
def folder(tiny: Source, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny.path, tmp_path / "checkpoint"))


def edit(path: Path, **changes: Any) -> None:
    """Change keys of a JSON file; ``...`` removes one."""
    fields = json.loads(path.read_text(encoding="utf-8")) | changes
    write_json(path, {key: value for key, value in fields.items() if value is not ...})


def edit_tokenizer(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = folder / "tokenizer.json"
    fields = json.loads(path.read_text(encoding="utf-8"))
    change(fields)
    write_json(path, fields)


READ: dict[str, dict[str, Any]] = {
    "transformers 5": {"rope_parameters": PLAIN_ROPE, "rope_theta": ..., "dtype": "bfloat16", "torch_dtype": ...},
    "both forms": {"rope_parameters": PLAIN_ROPE},
    "both names of the type": {"rope_scaling": {"rope_type": "default", "type": "default"}},
    "rope_type default": {"rope_scaling": {"rope_type": "default"}},
    "type default": {"rope_scaling": {"type": "default"}},
    "no rope_scaling": {"rope_scaling": None},
    "layer_types": {"layer_types": ["full_attention"] * 2, "sliding_window": None},
    "several ends": {"eos_token_id": [TURN_END, END]},
}


@pytest.mark.parametrize("case", READ)
def test_every_form_of_plain_settings_is_read(case: str, folder: Path) -> None:
    edit(folder / "config.json", **READ[case])
    assert Checkpoint.open(folder).config.rope_theta == 640000.0


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "yarn": ({"rope_parameters": PLAIN_ROPE | {"rope_type": "yarn", "factor": 4.0}}, "rope_parameters .*yarn"),
    "yarn before 5": ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, "rope_scaling .*yarn"),
    "another theta": ({"rope_parameters": {"rope_theta": 10000.0}}, "rope_theta 640000 and .* 10000 found"),
    "a factor": ({"rope_parameters": PLAIN_ROPE | {"factor": 2.0}}, "factor"),
    "by layer type": ({"rope_parameters": {"full_attention": PLAIN_ROPE}}, "full_attention"),
    "half rotary": ({"rope_parameters": PLAIN_ROPE | {"partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
    "no object": ({"rope_scaling": "linear"}, "an object or null expected"),
    "theta a text": ({"rope_theta": "640000"}, "rope_theta '640000' found"),
    "no theta": ({"rope_theta": ...}, "rope_theta missing"),
    "windows": ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types sliding_attention"),
    "quantized": ({"quantization_config": {"quant_method": "awq"}}, "quantization_config"),
    "an end beyond": ({"eos_token_id": [10**6]}, "eos_token_id .1000000. found"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_be_computed_wrongly_is_refused(case: str, folder: Path) -> None:
    changes, message = REFUSED[case]
    edit(folder / "config.json", **changes)
    with pytest.raises(CheckpointError, match=message) as caught:
        Checkpoint.open(folder)
    assert len(caught.value.problems) == 1


def test_rl_0530_with_65536_positions_is_read_and_its_length_is_written(folder: Path, tmp_path: Path) -> None:
    edit(folder / "config.json", max_position_embeddings=65536)
    out = convert_checkpoint(Source(folder, "0530"), tmp_path / "x.gguf", to="gguf")[0]
    header = GgufHeader(out)
    assert header.value("qwen2.context_length") == 65536


def test_ends_of_generation_config_may_be_a_list_and_foreign_ones_are_named(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    edit(folder / "generation_config.json", eos_token_id=[TURN_END, END])
    Checkpoint.open(folder)
    assert not caplog.records
    edit(folder / "generation_config.json", eos_token_id=[TURN_END, LEARNT + 1])
    Checkpoint.open(folder)
    assert "eos_token_id names <|im_start|>" in caplog.text


@pytest.mark.parametrize("pad", [None, ..., "<|vision_pad|>", {"content": "<|vision_pad|>"}])
def test_the_token_to_pad_with_begins_and_ends_no_text(pad: Any, folder: Path, tmp_path: Path) -> None:
    edit(folder / "tokenizer_config.json", pad_token=pad)
    out = convert_checkpoint(Source(folder, "x"), tmp_path / "x.gguf", to="gguf")[0]
    pad_id = END if pad in (None, ...) else LEARNT + 11
    header = GgufHeader(out)
    found = [header.value(f"tokenizer.ggml.{name}_token_id") for name in ("bos", "eos", "padding")]
    assert found == [END, TURN_END, pad_id]
    (onnx,) = convert_checkpoint(Source(folder, "x"), tmp_path / "onnx", to="onnx")
    genai = json.loads((onnx / "genai_config.json").read_text())["model"]
    assert (genai["bos_token_id"], genai["eos_token_id"], genai["pad_token_id"]) == (END, [TURN_END, END], pad_id)


def templates_in_a_list(folder: Path) -> None:
    found = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": "yes"}]
    edit(folder / "tokenizer_config.json", chat_template=found)


def template_in_its_own_json(folder: Path) -> None:
    edit(folder / "tokenizer_config.json", chat_template=...)
    write_json(folder / "chat_template.json", {"chat_template": "yes"})


def template_in_jinja_with_more_beside(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("yes")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("no")


def the_only_one_named_otherwise(folder: Path) -> None:
    edit(folder / "tokenizer_config.json", chat_template=[{"name": "chat", "template": "yes"}])


@pytest.mark.parametrize(
    "change",
    [
        templates_in_a_list,
        template_in_its_own_json,
        template_in_jinja_with_more_beside,
        the_only_one_named_otherwise,
    ],
)
def test_a_chat_template_is_found_wherever_it_lies(
    change: Callable[[Path], None], folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    change(folder)
    assert Checkpoint.open(folder).vocabulary.chat_template == "yes"
    left_out = change in (templates_in_a_list, template_in_jinja_with_more_beside)
    assert ("tool_use left out" in caplog.text) == left_out


def test_several_templates_without_a_default_are_refused(folder: Path) -> None:
    found = [{"name": "a", "template": "x"}, {"name": "b", "template": "y"}]
    edit(folder / "tokenizer_config.json", chat_template=found)
    with pytest.raises(CheckpointError, match="chat templates a, b found, none called default"):
        Checkpoint.open(folder)


@pytest.mark.parametrize("in_weights", [False, True])
def test_without_its_mtp_layer_the_trunk_is_converted_with_a_warning(
    in_weights: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_tiny_checkpoint(tmp_path / "checkpoint", mtp_layers=int(in_weights))
    edit(folder / "config.json", num_nextn_predict_layers=None if in_weights else 1)
    checkpoint = Checkpoint.open(folder)
    assert checkpoint.config.num_nextn_predict_layers == 0
    assert bool(checkpoint.dropped) == in_weights
    assert ("MTP layer in the weights is left out" if in_weights else "no MTP layer in the weights") in caplog.text
    written = convert_checkpoint(Source(folder, "x"), tmp_path / "x.gguf", to="gguf")
    assert [path.name for path in written] == ["x.gguf"]
    (onnx,) = convert_checkpoint(Source(folder, "x"), tmp_path / "onnx", to="onnx")
    assert json.loads((onnx / "config.json").read_text())["num_nextn_predict_layers"] == 0


@pytest.mark.parametrize("name", ["base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight", "only"])
def test_an_adapter_is_to_be_merged_first(name: str, folder: Path) -> None:
    for path in folder.glob("model*"):
        path.unlink()
    if name == "only":
        write_json(folder / "adapter_config.json", {"peft_type": "LORA"})
    else:
        write_weights(folder, tiny_weights(tiny_config()) | {name: np.ones((8, 8), np.float32)})
    with pytest.raises(CheckpointError, match="merge the adapter first") as caught:
        Checkpoint.open(folder)
    assert len(caught.value.problems) == 1


def test_special_tokens_with_low_ids_and_gaps_keep_them_in_both_formats(folder: Path, tmp_path: Path) -> None:
    def change(fields: dict[str, Any]) -> None:
        vocab, added = fields["model"]["vocab"], fields["added_tokens"]
        first = next(token for token, number in vocab.items() if number == 0)
        vocab[first] = 345  # <|im_start|> takes the id of a learnt token, which goes beyond the added ones
        next(each for each in added if each["content"] == "<|im_start|>")["id"] = 0
        next(each for each in added if each["content"] == "<tool_call>")["id"] = 350

    edit_tokenizer(folder, change)
    texts = {"<|im_start|>": [0], "<tool_call>": [350], "<|im_end|>": [TURN_END]}
    gguf_file = convert_checkpoint(Source(folder, "x"), tmp_path / "x.gguf", to="gguf")[0]
    (onnx,) = convert_checkpoint(Source(folder, "x"), tmp_path / "onnx", to="onnx")
    for model in gguf_file, onnx:
        with load(model) as session:
            assert {text: session.tokenizer.encode(text) for text in texts} == texts
            assert session.tokenizer.encode("!") == [345]
            assert session.tokenizer.decode([350, 345]) == "<tool_call>!"


def test_flags_that_gguf_cannot_carry_are_named(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    flags = {"lstrip": True, "rstrip": False, "single_word": False, "normalized": True, "special": False}
    edit_tokenizer(folder, lambda fields: fields["added_tokens"].append({"id": 342, "content": "<new>", **flags}))
    convert_checkpoint(Source(folder, "x"), tmp_path / "x.gguf", to="gguf")
    assert "<new> (lstrip, normalized)" in caplog.text


def test_all_problems_are_listed_at_once_before_work_and_by_inspect(folder: Path, tmp_path: Path) -> None:
    edit(folder / "config.json", hidden_act="gelu", rope_scaling={"type": "yarn"})
    edit(folder / "tokenizer_config.json", eos_token="<|nothing|>", chat_template=7)
    next(folder.glob("model-00002*")).unlink()
    with pytest.raises(CheckpointError, match=r"5 problems: \(1\) .*hidden_act") as caught:
        convert_checkpoint(Source(folder, "x"), tmp_path / "x.gguf", to="gguf")
    assert "\n" not in str(caught.value) and not (tmp_path / "x.gguf").exists()
    problems = [str(each) for each in caught.value.problems]
    for word in ("hidden_act", "yarn", "shard missing", "<|nothing|>", "chat_template"):
        assert sum(word in each for each in problems) == 1, word
    shown = CliRunner().invoke(cli.main, ["inspect", str(folder), "--json"])
    assert json.loads(shown.stdout)["problems"] == problems
    lines = CliRunner().invoke(cli.main, ["inspect", str(folder)]).stdout.splitlines()
    assert [line.removeprefix("problems").strip() for line in lines if line.startswith("problems")] == problems


def test_problems_of_the_weights_are_listed_together(folder: Path) -> None:
    made = tiny_weights(tiny_config()) | {"model.x": np.ones(4), "model.y": np.ones(4)}
    del made["model.norm.weight"]
    made["lm_head.weight"] = made["lm_head.weight"][:-1]
    for path in folder.glob("model*"):
        path.unlink()
    write_weights(folder, made)
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.open(folder)
    unknown, missing, shape = caught.value.problems
    assert isinstance(unknown, UnknownTensorError) and "1 more such" in str(unknown)
    assert "model.norm.weight missing" in str(missing) and "lm_head.weight is (351, 256)" in str(shape)


def set_in(*keys: str, value: Any) -> Callable[[Path], None]:
    def change(fields: dict[str, Any]) -> None:
        for key in keys[:-1]:
            fields = fields[key]
        fields[keys[-1]] = value

    return lambda folder: edit_tokenizer(folder, change)


def put(name: str, content: bytes) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).write_bytes(content)

    return change


DAMAGED: dict[str, tuple[Callable[[Path], None], str]] = {
    "no model": (set_in("model", value=None), "model null found, an object expected"),
    "a list for the model": (set_in("model", value=[]), r"model \[\] found, an object expected"),
    "no vocab": (set_in("model", "vocab", value=None), r"model\.vocab, an object"),
    "ids as texts": (set_in("model", "vocab", value={"a": "0"}), r"model\.vocab, an object"),
    "no merges": (set_in("model", "merges", value=None), r"model\.merges, a list"),
    "a merge of three": (set_in("model", "merges", value=["a b c"]), "two tokens expected"),
    "a merge of numbers": (set_in("model", "merges", value=[[1, 2]]), "two tokens expected"),
    "a merge of nothing": (set_in("model", "merges", value=["é é"]), "no token of the vocabulary"),
    "normalizer a text": (set_in("normalizer", value="NFC"), r'normalizer "NFC" found, NFC expected'),
    "pre_tokenizer a list": (set_in("pre_tokenizer", value=[]), r"pre_tokenizer \[\] found, Sequence expected"),
    "steps no objects": (
        set_in("pre_tokenizer", "pretokenizers", value=["x"]),
        r"pretokenizers \[.*\] found, Split, ByteLevel",
    ),
    "bytes as a fallback": (set_in("model", "byte_fallback", value=True), "byte_fallback true found, false"),
    "added tokens null": (set_in("added_tokens", value=None), "added_tokens, objects"),
    "added tokens as texts": (set_in("added_tokens", value=["<x>"]), "added_tokens, objects"),
    "an added token without id": (set_in("added_tokens", value=[{"content": "x"}]), "added_tokens, objects"),
    "an id beyond": (set_in("model", "vocab", "zz", value=10**12), "has id 1000000000000"),
    "an id twice": (set_in("model", "vocab", "zz", value=5), "id 5 is of"),
    "no UTF-8": (put("tokenizer.json", b'{"model": "\xff"}'), "not UTF-8"),
    "half a surrogate pair": (put("tokenizer.json", b'{"model": "\\ud800"}'), "half a surrogate pair"),
    "a surrogate in UTF-8": (put("tokenizer.json", b'{"model": "\xed\xa0\x80"}'), "not UTF-8"),
    "template no UTF-8": (put("chat_template.jinja", b"\xff\xfe"), r"chat_template\.jinja: not UTF-8"),
    "template a number": (lambda f: edit(f / "tokenizer_config.json", chat_template=5), "is no text"),
    "config no UTF-8": (put("config.json", b'{"a": "\xff"}'), r"config\.json: not UTF-8"),
    "generation config no UTF-8": (put("generation_config.json", b"\xff"), r"generation_config\.json: not UTF-8"),
    "no end of a text": (
        lambda f: edit_tokenizer(f, lambda fields: fields["added_tokens"].pop(0)),
        "no token <.endoftext.>",
    ),
    "half a pair in the template": (
        put("tokenizer_config.json", b'{"eos_token": "<|im_end|>", "chat_template": "\\udfff"}'),
        "half a surrogate pair",
    ),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_text_file_is_an_error_of_one_line(case: str, folder: Path) -> None:
    change, message = DAMAGED[case]
    change(folder)
    with pytest.raises(CheckpointError, match=message) as caught:
        Checkpoint.open(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"\xff", b"[]", b"{}", b'{"model": 5, "added_tokens": []}', b'{"a": "\\ud800"}'])
def test_a_damaged_tokenizer_beside_an_onnx_model_is_an_error(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(ModelLoadError, match=r"tokenizer\.json"):
        TextTokenizer.from_file(tmp_path / "tokenizer.json")


def test_a_token_outside_the_byte_alphabet_is_an_error_when_loading(folder: Path) -> None:
    edit_tokenizer(folder, lambda fields: fields["model"]["vocab"].update({"\u4e2d": 349}))
    with pytest.raises(ModelLoadError, match="byte alphabet expected"):
        TextTokenizer.from_file(folder / "tokenizer.json")
    with pytest.raises(CheckpointError, match="byte alphabet expected"):
        Checkpoint.open(folder)


@pytest.mark.parametrize("bad", [np.nan, -np.inf, 1e38])
@pytest.mark.parametrize("name", ["lm_head.weight", "model.norm.weight"])
@pytest.mark.parametrize("to", ["gguf", "onnx"])
def test_weights_that_are_no_numbers_are_refused_by_name(to: Any, name: str, bad: float, tmp_path: Path) -> None:
    folder = write_tiny_checkpoint(tmp_path / "checkpoint", mtp_layers=0)
    place = Checkpoint.open(folder).tensors[name]
    content = bytearray(place.path.read_bytes())
    content[place.offset : place.offset + 2] = (np.float32(bad).view(np.uint32) >> 16).astype(np.uint16).tobytes()
    place.path.write_bytes(content)
    shown = "9.97e+37" if bad == 1e38 else str(bad)
    with pytest.raises(
        CheckpointError, match=f"tensor {name} holds {re.escape(shown)} at .* finite numbers up to 65504 expected"
    ):
        convert_checkpoint(Source(folder, "x"), tmp_path / "out", to=to)
    assert not (tmp_path / "out").exists()


def test_a_trunk_takes_no_mtp_layer_of_another_checkpoint(tiny: Source, tmp_path: Path) -> None:
    other = Source(write_tiny_checkpoint(tmp_path / "checkpoint", seed=1), "tiny")
    convert_checkpoint(tiny, tmp_path / "x.gguf", to="gguf")
    first = (tmp_path / "x-mtp.gguf").read_bytes()
    convert_checkpoint(tiny, tmp_path / "x.gguf", to="gguf", force=True)
    assert (tmp_path / "x-mtp.gguf").read_bytes() == first
    load(tmp_path / "x.gguf", speculate="mtp").close()
    convert_checkpoint(other, tmp_path / "y.gguf", to="gguf")
    (tmp_path / "y-mtp.gguf").replace(tmp_path / "x-mtp.gguf")
    with pytest.raises(ModelLoadError, match=r"x-mtp\.gguf: belongs to another model"):
        load(tmp_path / "x.gguf", speculate="mtp")


def test_a_good_checkpoint_says_nothing(tiny: Source, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        convert_checkpoint(tiny, tmp_path / "x.gguf", to="gguf")
    assert not caplog.records
