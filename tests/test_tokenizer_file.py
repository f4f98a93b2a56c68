"""tokenizer.json and the vocabulary of a GGUF file: only what MiMo's tokenizer has gets past the check."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest

from mimo_mobile.errors import ModelLoadError
from mimo_mobile.gguf_header import GgufHeader
from mimo_mobile.hub import Source
from mimo_mobile.runtime.text.tokenizer import TextTokenizer
from mimo_mobile.tokenizer_file import TokenizerData, TokenizerError, read_tokenizer
from tests.hostile_text import tokenizers

ROOT = Path(__file__).parents[1]

HOSTILE = """
import json, resource, sys, time
from pathlib import Path
from mimo_mobile.errors import ModelLoadError
from mimo_mobile.runtime.text.tokenizer import TextTokenizer
from tests.hostile_text import tokenizers
from tests.memory import peak_kib

good, file = map(Path, sys.argv[1:])
for name, content in tokenizers(json.loads(good.read_text(encoding="utf-8"))):
    file.write_text(content, encoding="utf-8")
    started = time.process_time()
    try:
        found = TextTokenizer.from_file(file).size
    except ModelLoadError as error:
        found = str(error)
    print(json.dumps([name, found, time.process_time() - started]), flush=True)
print(json.dumps(peak_kib()))
"""


@pytest.fixture
def base(tiny: Source) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads((tiny.path / "tokenizer.json").read_text(encoding="utf-8"))
    return fields


def test_hostile_tokenizers_are_one_clear_error_each_in_little_time_and_memory(
    tiny: Source, base: dict[str, Any], tmp_path: Path
) -> None:
    """In a process of its own, which is ended when one hangs or panics, and may take two gibibytes of addresses."""
    command = [sys.executable, "-c", HOSTILE, tiny.path / "tokenizer.json", tmp_path / "tokenizer.json"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, cwd=ROOT,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30)),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    *found, most_kib = map(json.loads, done.stdout.splitlines())
    assert [name for name, _, _ in found] == [name for name, _ in tokenizers(base)]
    for name, problem, seconds in found:
        assert isinstance(problem, str), f"{name}: no error"
        assert "tokenizer.json: " in problem and problem.endswith("convert the checkpoint again"), name
        assert problem.isprintable() and len(problem) < 1000, name
        assert seconds < 6, f"{name}: {seconds} s"
    assert len({name for name, _, _ in found}) == len(found) > 60
    assert most_kib < 512 * 1024


def test_what_several_versions_of_transformers_write_is_read_alike(base: dict[str, Any]) -> None:
    def changed(change: Callable[[dict[str, Any]], object]) -> TokenizerData:
        fields = json.loads(json.dumps(base))
        change(fields)
        return read_tokenizer(fields)

    def older(fields: dict[str, Any]) -> None:
        fields["model"]["merges"] = [" ".join(merge) for merge in fields["model"]["merges"]]
        del fields["model"]["ignore_merges"]
        for step in (fields["pre_tokenizer"]["pretokenizers"][1], fields["post_processor"], fields["decoder"]):
            step |= {"add_prefix_space": False, "trim_offsets": False, "use_regex": False}

    whole = changed(dict)
    assert len(whole.vocab) == 320 and len(whole.added) == 22 and whole.merges
    newest = {"continuing_subword_prefix": "", "end_of_word_suffix": ""}  # transformers 5.24
    assert changed(lambda fields: fields["model"].update(newest)) == whole
    assert changed(older) == whole
    assert changed(lambda fields: fields.update(post_processor=None)) == whole
    assert changed(lambda fields: fields.pop("post_processor")) == whole
    assert changed(lambda fields: fields["model"].update(dropout=0.0)) == whole


def test_all_that_is_wrong_is_said_with_what_was_found_and_expected(base: dict[str, Any]) -> None:
    base["padding"] = {"strategy": {"Fixed": 10**8}}
    base["normalizer"] = {"type": "Lowercase"}
    base["model"] |= {"byte_fallback": True, "unk_token": "\x1b[31m" + "x" * 1000}
    with pytest.raises(TokenizerError) as caught:
        read_tokenizer(base)
    assert set(caught.value.problems) == {
        'padding {"strategy": {"Fixed": 100000000}} found, null expected',
        'normalizer.type "Lowercase" found, NFC expected',
        f'model.unk_token "\\u001b[31m{"x" * 49}… found, null expected',
        "model.byte_fallback true found, false expected",
    }


def change_tokens(name: str, value: Any) -> Callable[[dict[str, list[Any]]], None]:
    def change(vocabulary: dict[str, list[Any]]) -> None:
        vocabulary["tokens"][vocabulary["tokens"].index(name)] = value

    return change


GGUF: dict[str, tuple[Callable[[dict[str, list[Any]]], object], str]] = {
    "fewer types than tokens": (lambda v: v["types"].pop(), "342 tokens with 341 types"),
    "a token twice": (change_tokens("!", '"'), "a token has two ids"),
    "an added token twice": (change_tokens("<|im_start|>", "<|im_end|>"), "an added token is there twice"),
    "an added token that is learnt, too": (change_tokens("<|im_start|>", "!"), '"!" has the ids 0 and 321'),
    "an empty token": (change_tokens("!", ""), "no token for the byte 33|an empty token"),
    "a foreign token": (change_tokens("!", "中"), '"中" found in a token, GPT-2\'s byte alphabet expected'),
    "a token in colours": (change_tokens("!", "\x1b[31m"), r'"\\u001b" found in a token'),
    "a long token": (change_tokens("<|box_start|>", "z" * 5000), "a token of more than 1024 characters"),
    "no stop token": (change_tokens("<|im_end|>", "<|x|>"), r"no token <\|im_end\|>"),
    "a merge of one token": (lambda v: v["merges"].append("a"), r'merge \["a", ""\] of or into no token'),
    "a merge of unknown tokens": (lambda v: v["merges"].append("é é"), "of or into no token"),
    "a merge of nothing": (lambda v: v["merges"].append(""), "of or into no token"),
    "all tokens unused": (lambda v: v.update(types=[5] * 342), "no token for the byte"),
}


@pytest.mark.parametrize("case", GGUF)
def test_a_vocabulary_of_a_gguf_file_that_does_not_fit_together_is_an_error(
    case: str, base: dict[str, Any], tmp_path: Path
) -> None:
    change, message = GGUF[case]
    added = base["added_tokens"]
    vocabulary: dict[str, list[Any]] = {
        "tokens": [*base["model"]["vocab"], *(each["content"] for each in added)],
        "types": [*([1] * 320), *(3 if each["special"] else 4 for each in added)],
        "merges": [" ".join(merge) for merge in base["model"]["merges"]],
    }

    def read() -> TextTokenizer:
        writer = gguf.GGUFWriter(tmp_path / "x.gguf", "qwen2")
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("qwen2")
        writer.add_token_list(vocabulary["tokens"])
        writer.add_token_types(vocabulary["types"])
        writer.add_token_merges(vocabulary["merges"])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.close()
        return TextTokenizer.from_gguf(GgufHeader(tmp_path / "x.gguf"))

    assert read().size == 342
    change(vocabulary)
    with pytest.raises(ModelLoadError, match=message) as caught:
        read()
    assert str(caught.value).isprintable()
