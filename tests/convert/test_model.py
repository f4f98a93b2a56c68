"""Both formats against independent readers: llama.cpp, the gguf package, onnxruntime, onnxruntime-genai, numpy."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import get_args

import gguf
import numpy as np
import onnx
import onnxruntime as ort
import pytest

from mimo_mobile.convert.checkpoint import Checkpoint
from mimo_mobile.convert.draft_vocabulary import draft_ids
from mimo_mobile.convert.model import Target, convert_checkpoint
from mimo_mobile.convert.vocabulary import Vocabulary
from mimo_mobile.errors import CheckpointError, OutputExistsError
from mimo_mobile.hub import Source
from mimo_mobile.mimo7b import MIMO_7B
from mimo_mobile.runtime import GenerationConfig, load
from tests import reference
from tests.tiny import write_tiny_checkpoint

IDS = (320, 72, 101, 5, 5, 300, 17, 322, 1, 319, 208, 64, 33, 90)


@pytest.fixture(scope="module")
def expected(tiny_checkpoint: Checkpoint) -> reference.TrunkOutput:
    return reference.trunk(reference.load_weights(tiny_checkpoint), tiny_checkpoint.config, IDS)


def test_llama_cpp_computes_the_references_logits(tiny_gguf: Path, expected: reference.TrunkOutput) -> None:
    with load(tiny_gguf, kv_dtype="f32") as session:
        assert np.abs(session.logits(IDS) - expected.logits).max() < 1e-3


def test_onnx_runtime_computes_the_references_logits(tiny_onnx: Path, expected: reference.TrunkOutput) -> None:
    logits, hidden = run_trunk(tiny_onnx)
    assert np.abs(logits - expected.logits).max() < 1e-3
    assert np.abs(hidden - expected.hidden).max() < 1e-3


def test_the_mtp_graph_computes_the_references_logits(tiny_onnx: Path, tiny_checkpoint: Checkpoint) -> None:
    weights, config = reference.load_weights(tiny_checkpoint), tiny_checkpoint.config
    _, hidden = run_trunk(tiny_onnx)
    session = ort.InferenceSession(tiny_onnx / "mtp.onnx", providers=["CPUExecutionProvider"])
    empty = np.zeros((1, 2, 0, 64), np.float32)
    feed = {
        "hidden_states": hidden[None],
        "input_ids": np.array([[*IDS[1:], 7]]),
        "attention_mask": np.ones((1, len(IDS)), int),
    }
    feed |= {"past_key_values.0.key": empty, "past_key_values.0.value": empty}
    logits, drafts = session.run(["logits", "draft_ids"], feed)
    assert len(drafts) > 300  # all tokens in use, of so small a vocabulary
    expected = reference.mtp(weights, config, IDS, 7)[:, drafts]
    assert np.abs(logits[0] - expected).max() < 1e-3
    # The other candidate is another function: the two conventions cannot be mixed up unseen.
    assert np.abs(logits[0] - reference.mtp(weights, config, IDS, 7, hidden_state="post_norm")[:, drafts]).max() > 0.1


def test_a_post_norm_head_reads_the_normed_state_and_its_own_draft_list(tiny: Source, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny.path, tmp_path / "post"))
    fields = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(fields | {"mtp_hidden_state": "post_norm"}))
    (folder / "draft_vocabulary.json").write_text("[9, 3, 200]")
    (out,) = convert_checkpoint(Source(folder, "post"), tmp_path / "out", to="onnx")
    checkpoint = Checkpoint.open(folder)
    weights, config = reference.load_weights(checkpoint), checkpoint.config
    _, hidden = run_trunk(out)
    assert np.abs(hidden - reference.trunk(weights, config, IDS).normed).max() < 1e-3
    session = ort.InferenceSession(out / "mtp.onnx", providers=["CPUExecutionProvider"])
    empty = np.zeros((1, 2, 0, 64), np.float32)
    feed = {
        "hidden_states": hidden[None],
        "input_ids": np.array([[*IDS[1:], 7]]),
        "attention_mask": np.ones((1, len(IDS)), int),
        "past_key_values.0.key": empty,
        "past_key_values.0.value": empty,
    }
    logits, drafts = session.run(["logits", "draft_ids"], feed)
    assert drafts.tolist() == [3, 9, 200]
    expected = reference.mtp(weights, config, IDS, 7, hidden_state="post_norm")[:, drafts]
    assert np.abs(logits[0] - expected).max() < 1e-3


@pytest.mark.parametrize("text", ["{}", "[]", '["a"]', "[1, 100000]", "[true]", "nonsense"])
def test_a_bad_draft_list_is_an_error(tiny: Source, tmp_path: Path, text: str) -> None:
    folder = Path(shutil.copytree(tiny.path, tmp_path / "bad"))
    (folder / "draft_vocabulary.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"draft_vocabulary\.json: .*token ids"):
        convert_checkpoint(Source(folder, "bad"), tmp_path / "out", to="onnx")
    assert not (tmp_path / "out").exists()


def test_llama_cpp_gets_no_mtp_layer_that_it_would_run_wrongly(tiny: Source, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny.path, tmp_path / "post"))
    fields = json.loads((folder / "config.json").read_text())
    (tmp_path / "x-mtp.gguf").write_bytes(b"of another checkpoint")
    (folder / "config.json").write_text(json.dumps(fields | {"mtp_hidden_state": "post_norm"}))
    written = convert_checkpoint(Source(folder, "post"), tmp_path / "x.gguf", to="gguf", force=True)
    assert [path.name for path in written] == ["x.gguf"] and not (tmp_path / "x-mtp.gguf").exists()
    with pytest.raises(CheckpointError, match="1 MTP layers on post_norm states found"):
        convert_checkpoint(Source(folder, "post"), tmp_path / "y.gguf", to="gguf", single_file=True)
    assert not (tmp_path / "y.gguf").exists()
    (folder / "config.json").write_text(json.dumps(fields | {"mtp_hidden_state": "norm"}))
    with pytest.raises(CheckpointError, match="mtp_hidden_state 'norm' found, pre_norm or post_norm expected"):
        Checkpoint.open(folder)


def test_of_a_large_vocabulary_the_most_frequent_tokens_and_all_added_ones_are_drafted(tmp_path: Path) -> None:
    kinds = ("normal",) * 151643 + ("control",) * 14 + ("user_defined",) * 8 + ("unused",) * 15
    vocabulary = Vocabulary(("",) * 151680, kinds, (), 151645, 151643, 151643, None)
    drafts = draft_ids(tmp_path, vocabulary)
    assert len(drafts) == 32768 + 22
    assert drafts[:3].tolist() == [0, 1, 2] and drafts[32767] == 32767 and drafts[-1] == 151664


def run_trunk(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    session = ort.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    feed = {"input_ids": np.array([IDS]), "attention_mask": np.ones((1, len(IDS)), np.int64)}
    for each in session.get_inputs():
        if each.name.startswith("past"):
            feed[each.name] = np.zeros((1, 2, 0, 64), np.float32)
    logits, hidden = session.run(["logits", "hidden_states"], feed)
    return logits[0], hidden[0]


def test_logits_start_leaves_out_rows_and_changes_none(nano_onnx: Path) -> None:
    session = ort.InferenceSession(str(nano_onnx / "model.onnx"), providers=["CPUExecutionProvider"])
    ids = np.arange(5, 45)[None]
    feed = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    for each in session.get_inputs():
        if each.name.startswith("past"):
            feed[each.name] = np.zeros((1, each.shape[1], 0, each.shape[3]), np.float32)
    whole = session.run(["logits"], feed)[0]
    assert whole.shape[1] == 40
    for start in (0, 38, 39, 40):
        rows = session.run(["logits"], feed | {"logits_start": np.array([start])})[0]
        assert rows.shape == (1, 40 - start, whole.shape[2])
        np.testing.assert_allclose(rows, whole[:, start:], atol=2e-5)


@pytest.mark.needs("onnxruntime_genai")
def test_genai_runs_the_folder_unchanged_with_our_tokens(nano_onnx: Path) -> None:
    # In a process of its own: genai and onnxruntime each bring their copy of the runtime.
    prompt = [5, 700, 31, 99, 250, 12, 8, 44]
    script = """if True:
        import json, sys
        import onnxruntime_genai as og
        model = og.Model(sys.argv[1])
        params = og.GeneratorParams(model)
        params.set_search_options(do_sample=False, max_length=48)
        generator = og.Generator(model, params)
        generator.append_tokens(json.loads(sys.argv[2]))
        while not generator.is_done():
            generator.generate_next_token()
        print(json.dumps([int(token) for token in generator.get_sequence(0)]))
    """
    command = [sys.executable, "-c", script, str(nano_onnx), json.dumps(prompt)]
    theirs = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout)
    with load(nano_onnx) as session:
        config = GenerationConfig(temperature=0, max_tokens=48 - len(prompt))
        ours = [token.token_id for token in session.generate(prompt, config) if token.token_id is not None]
    assert [token for token in theirs[len(prompt) :] if token not in (1024, 1026)] == ours
    assert len(ours) > 5


def test_stock_llama_cpp_loads_the_file_with_our_tokens(nano_gguf: Path) -> None:
    import llama_cpp

    prompt = [5, 700, 31, 99, 250, 12, 8, 44]
    stock = llama_cpp.Llama(str(nano_gguf), n_ctx=256, verbose=False, logits_all=False)
    theirs = []
    for token in stock.generate(prompt, temp=0.0, repeat_penalty=1.0):
        if token in (1024, 1026) or len(theirs) == 40:
            break
        theirs.append(token)
    stock.close()
    with load(nano_gguf) as session:
        config = GenerationConfig(temperature=0, max_tokens=40)
        ours = [token.token_id for token in session.generate(prompt, config) if token.token_id is not None]
    assert theirs == ours and len(ours) > 5


def test_no_weight_is_lost_in_gguf(tiny: Source, tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    written = convert_checkpoint(tiny, tmp_path / "x.gguf", to="gguf", dtype="bf16")
    assert [path.name for path in written] == ["x.gguf", "x-mtp.gguf"]
    tensors = {tensor.name: tensor for path in written for tensor in gguf.GGUFReader(path).tensors}
    assert len(tensors) == len(tiny_checkpoint.tensors)
    weights = reference.load_weights(tiny_checkpoint)
    swapped = tensors["blk.2.nextn.eh_proj.weight"]
    values = gguf.quants.dequantize(swapped.data, swapped.tensor_type)
    np.testing.assert_array_equal(np.roll(values, 256, axis=1), weights["model.mtp_layers.0.input_proj.weight"])
    down = tensors["blk.1.ffn_down.weight"]
    values = gguf.quants.dequantize(down.data, down.tensor_type)
    np.testing.assert_array_equal(values, weights["model.layers.1.mlp.down_proj.weight"])


def test_gguf_says_what_apps_ask_for(nano: Source, nano_gguf: Path) -> None:
    fields = {name: field.contents() for name, field in gguf.GGUFReader(nano_gguf).fields.items()}
    assert fields["general.architecture"] == "qwen2" and fields["general.name"] == "mimo-nano"
    assert fields["general.license"] == "apache-2.0"
    assert fields["general.sampling.temp"] == pytest.approx(0.6) and fields["general.sampling.top_p"] == pytest.approx(
        0.95
    )
    assert fields["tokenizer.ggml.pre"] == "qwen2"
    assert fields["tokenizer.ggml.tokens"][fields["tokenizer.ggml.eos_token_id"]] == "<|im_end|>"
    config = json.loads((nano.path / "tokenizer_config.json").read_text())
    assert fields["tokenizer.chat_template"] == config["chat_template"]


def test_embedding_and_head_are_stored_once_and_aligned(tiny_onnx: Path, tiny_checkpoint: Checkpoint) -> None:
    places: dict[str, set[tuple[int, int]]] = {}
    for name in ("model.onnx", "mtp.onnx"):
        model = onnx.load(str(tiny_onnx / name), load_external_data=False)
        assert {each.domain: each.version for each in model.opset_import} == {"": 21, "com.microsoft": 1}
        for tensor in model.graph.initializer:
            entries = {entry.key: entry.value for entry in tensor.external_data}
            if entries:
                assert entries["location"] == "model.onnx.data" and int(entries["offset"]) % 4096 == 0
                places.setdefault(tensor.name, set()).add((int(entries["offset"]), int(entries["length"])))
    assert all(len(each) == 1 for each in places.values())
    size = (tiny_onnx / "model.onnx.data").stat().st_size
    head = onnx.load(str(tiny_onnx / "mtp.onnx"), load_external_data=False).graph.initializer
    drafts = next(each.dims for each in head if each.name == "lm_head.draft.weight")
    stored = 4 * (tiny_checkpoint.num_parameters + 512 * 32 * 2 + drafts[0] * drafts[1])
    assert stored <= size <= stored + 4096 * len(places)


def test_a_graph_at_mimo_7bs_shapes_is_built_without_its_weights() -> None:
    import onnx_ir as ir

    from mimo_mobile.convert import onnx_graph

    class Shapes:
        """Tensors that have a shape and no content."""

        shapes = MIMO_7B.tensor_shapes()

        def lazy(self, name: str, *shape: int) -> ir.LazyTensor:
            def fail() -> ir.TensorProtocol:
                raise AssertionError("a weight was read")

            return ir.LazyTensor(fail, ir.DataType.FLOAT, ir.Shape(shape), name=name)

        def vector(self, *names: str) -> ir.LazyTensor:
            return self.lazy(names[0], sum(self.shapes[name][0] for name in names))

        def matrix(self, name: str) -> onnx_graph.Matrix:
            return self.matrices(name)[0]

        def matrices(self, *names: str) -> list[onnx_graph.Matrix]:
            rows, columns = sum(self.shapes[name][0] for name in names), self.shapes[names[0]][1]
            return [onnx_graph.Matrix(self.lazy(names[0], columns, rows), columns, rows)]

        def embedding(self, name: str) -> onnx_graph.Matrix:
            return onnx_graph.Matrix(self.lazy(name, *self.shapes[name]), 4096, 151680)

        def rope(self) -> tuple[ir.LazyTensor, ir.LazyTensor]:
            return self.lazy("cos", 32768, 64), self.lazy("sin", 32768, 64)

        def draft_head(self) -> tuple[onnx_graph.Matrix, ir.LazyTensor]:
            return onnx_graph.Matrix(self.lazy("head", 4096, 16384), 4096, 16384), self.lazy("drafts", 16384)

        def kv_scales(self, layer: int) -> tuple[ir.LazyTensor, ir.LazyTensor]:
            return self.lazy(f"{layer}.k", 1024), self.lazy(f"{layer}.v", 1024)

    compute = onnx_graph.Compute(ir.DataType.FLOAT, ir.DataType.FLOAT16)
    model = onnx_graph.trunk(MIMO_7B, Shapes(), compute)
    counts = [node.op_type for node in model.graph]
    assert counts.count("GroupQueryAttention") == 36 and counts.count("SkipSimplifiedLayerNormalization") == 72
    assert {value.name for value in model.graph.outputs} >= {"logits", "hidden_states", "present.35.value"}
    used = {
        str(value.name)
        for graph in (model, onnx_graph.mtp(MIMO_7B, Shapes(), compute))
        for value in graph.graph.initializers.values()
    }
    heads = {
        name for name in MIMO_7B.tensor_shapes() if not any(part in name for part in ("k_proj", "v_proj", "up_proj"))
    }
    assert heads <= used


def test_outputs_are_not_overwritten_unasked(tiny: Source, tmp_path: Path) -> None:
    for name in ("x.gguf", "x-mtp.gguf"):
        (tmp_path / name).write_text("mine")
        with pytest.raises(OutputExistsError, match=f"{name} exists; give --force"):
            convert_checkpoint(tiny, tmp_path / "x.gguf", to="gguf")
        assert sorted(path.name for path in tmp_path.iterdir()) == [name]
        (tmp_path / name).unlink()


def test_bf16_onnx_is_refused(tiny: Source, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no bf16"):
        convert_checkpoint(tiny, tmp_path / "x", to="onnx", dtype="bf16")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("target", ["gguf", "onnx"])
def test_a_weight_too_large_for_float16_is_an_error_before_anything_is_written(target: Target, tmp_path: Path) -> None:
    source = Source(write_tiny_checkpoint(tmp_path / "checkpoint", dtype="F32"), "tiny")
    place = Checkpoint.open(source.path).tensors["lm_head.weight"]
    content = bytearray(place.path.read_bytes())
    content[place.offset : place.offset + 4] = np.float32(1e6).tobytes()
    place.path.write_bytes(content)
    with pytest.raises(
        CheckpointError, match=r"tensor lm_head.weight holds 1e\+06 at \[0, 0\]; .* up to 65504 expected"
    ):
        convert_checkpoint(source, tmp_path / "out" / "x.gguf", to=target)
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_of_another_type_is_an_error(tmp_path: Path) -> None:
    source = Source(write_tiny_checkpoint(tmp_path / "checkpoint"), "tiny")
    path = source.path / "tokenizer.json"
    path.write_text(path.read_text().replace('"NFC"', '"NFKC"'))
    for target in get_args(Target):
        with pytest.raises(CheckpointError, match=r'normalizer\.type "NFKC" found, NFC expected'):
            convert_checkpoint(source, tmp_path / "x", to=target)
