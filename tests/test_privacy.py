"""Nothing is sent, and nothing is written but what was asked for and the cache: seen from outside, in every command."""

from __future__ import annotations

import ast
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mimo_mobile.cli import main
from mimo_mobile.hub import Source
from tests.watched import STRACE, Deeds, watch

ROOT = Path(__file__).resolve().parents[1]
STAGES = ("convert", "quantize", "runtime", "src")
THE_ONE_PLACE = Path("src/mimo_mobile/onnxruntime_library.py")
SWITCH = "ORT_DISABLE_TELEMETRY"
BRING_IT = ("onnxruntime", "onnxruntime_genai", "optimum")
"""Packages that are ONNX Runtime, or load it when they are imported."""

WITHOUT_US = {Path("convert/optimum_script.py"), Path("benchmarks/peers/genai_builder.py")}
"""These run in other environments, where our package is not."""

needs_strace = pytest.mark.skipif(STRACE is None, reason="strace is not installed")

Watch = Callable[..., Deeds]


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, module) of each import, by statement or by a call that is given the module's name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.lineno, node.module
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in ("require", "import_module", "__import__", "run_module") and node.args[0].value:
                yield node.lineno, str(node.args[0].value)


def brings_onnx_runtime(file: Path) -> list[int]:
    """The lines of a file that load ONNX Runtime."""
    return sorted(line for line, name in imports(ast.parse(file.read_text())) if name.split(".")[0] in BRING_IT)


def python_files(*folders: str) -> list[Path]:
    files = [path.relative_to(ROOT) for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    assert len(files) > 10
    return files


def test_one_module_of_the_package_loads_onnx_runtime() -> None:
    loading = {file for file in python_files(*STAGES) if brings_onnx_runtime(ROOT / file)}
    assert loading - WITHOUT_US == {THE_ONE_PLACE}


def test_every_other_program_of_ours_takes_it_from_there_or_sets_the_switch_before() -> None:
    for file in [*python_files("tools", "benchmarks"), Path("tests/arm/inside.py"), *WITHOUT_US]:
        first = min(brings_onnx_runtime(ROOT / file), default=None)
        if first is None:
            continue
        text = "\n".join((ROOT / file).read_text().splitlines()[: first - 1])
        assert (f'os.environ["{SWITCH}"] = "1"' if file in WITHOUT_US else "onnxruntime_library.load()") in text, file


@pytest.mark.parametrize(
    "code",
    [
        "import onnxruntime",
        "import onnxruntime.tools as x",
        "def f():\n    from onnxruntime import SessionOptions",
        "import importlib\nimportlib.import_module('onnxruntime')",
        "from mimo_mobile.errors import require\nrequire('onnxruntime.capi', 'onnx')",
        "import onnxruntime_genai",
        "import runpy\nrunpy.run_module('onnxruntime_genai.models.builder')",
    ],
)
def test_no_way_of_loading_it_is_overlooked(code: str, tmp_path: Path) -> None:
    (tmp_path / "x.py").write_text(code)
    assert brings_onnx_runtime(tmp_path / "x.py") == [len(code.splitlines())]


@pytest.fixture
def watched(tmp_path: Path) -> Watch:
    """Runs Python as a user would whose home folder is empty, and sees that it stays so."""
    for name in ("home", "work", "out", "cache", "tmp"):
        (tmp_path / name).mkdir()
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "OMP_WAIT_POLICY") if name in os.environ}
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = kept | {"PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1", "HOME": str(tmp_path / "home")}
    environment |= {"MIMO_CACHE": str(tmp_path / "cache"), "TMPDIR": str(tmp_path / "tmp")}

    def run(*arguments: object, text: str = "") -> Deeds:
        command = [sys.executable, *map(str, arguments)]
        traces = tmp_path / "traces"
        shutil.rmtree(traces, ignore_errors=True)
        return watch(command, cwd=tmp_path / "work", environment=environment, traces=traces, text=text)

    return run


def assert_it_kept_to_itself(deeds: Deeds, tmp_path: Path) -> None:
    assert deeds.sockets == []
    assert deeds.written_outside(*(tmp_path / name for name in ("out", "cache", "tmp"))) == set()
    assert list((tmp_path / "home").rglob("*")) == [] and list((tmp_path / "work").rglob("*")) == []
    assert list((tmp_path / "tmp").rglob("*")) == []  # what was there for a while is gone


@needs_strace
def test_the_watch_sees_what_processes_of_processes_do(watched: Watch, tmp_path: Path) -> None:
    inner = "import os, socket; os.rename('a', 'b'); socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)"
    code = f"""if True:
        import os, pathlib, socket, subprocess, sys
        pathlib.Path('a').write_text('x')
        socket.socketpair()
        os.mkdir(os.environ['HOME'] + '/d')
        os.rmdir(os.environ['HOME'] + '/d')
        os.utime('{tmp_path / "out"}')
        subprocess.run([sys.executable, '-c', {inner!r}], check=True)
    """
    deeds = watched("-c", code)
    assert len(deeds.sockets) == 1 and deeds.sockets[0].startswith("socket(AF_INET6, SOCK_DGRAM")
    work = tmp_path / "work"
    assert deeds.written == {work / "a", work / "b", tmp_path / "home" / "d", tmp_path / "out"}
    assert deeds.written_outside(work, tmp_path / "out") == {tmp_path / "home" / "d"}
    assert deeds.processes == 2


COMMANDS: dict[str, list[str]] = {
    "convert to GGUF": ["convert", "{tiny}", "{out}/x.gguf", "--to", "gguf"],
    "convert to ONNX": ["convert", "{tiny}", "{out}/x-onnx", "--to", "onnx"],
    "quantize, score, answer": [
        "quantize", "nano", "--out", "{out}", "--recipe", "q8_0,int4_b32", "--problems", "2",
    ],
    "run GGUF": ["run", "{gguf}", "12 + 30", "--max-tokens", "8"],
    "run ONNX": ["run", "{onnx}", "12 + 30", "--max-tokens", "8"],
    "run on any provider": ["run", "{onnx}", "12 + 30", "--max-tokens", "8", "--kv-dtype", "f32", "--ep", "auto"],
    "chat": ["chat", "{onnx}", "--max-tokens", "8"],
    "bench GGUF": ["bench", "{gguf}", "--prompt-tokens", "8", "--generate-tokens", "4", "--repeats", "1"],
    "bench ONNX": ["bench", "{onnx}", "--prompt-tokens", "8", "--generate-tokens", "4", "--repeats", "1"],
    "eval": ["eval", "{gguf}", "--against", "{tiny}", "--tokens", "300", "--problems", "0", "--text", "{text}"],
    "eval of answers": [
        "eval", "{onnx}", "--against", "{tiny}", "--tokens", "300", "--problems", "1", "--max-tokens", "9",
    ],
    "inspect": ["inspect", "{onnx}", "--tensors"],
    "doctor": ["doctor", "{onnx}"],
    "cache": ["cache", "list"],
    "recipes": ["recipes"],
    "npu-plan": ["npu-plan", "{tiny}"],
    "plan GGUF": ["plan", "{gguf}", "--context-length", "auto"],
    "plan ONNX": ["plan", "{onnx}", "--device", "phone-8gb", "--json"],
    "synth": ["synth", "{out}/random", "--layers", "2", "--tokenizer", "{tiny}"],
}  # fmt: skip

SMALL_SYNTH = """if True:
    import sys
    from mimo_mobile.cli import main
    from mimo_mobile.convert import synthetic
    from tests.tiny import tiny_config
    synthetic.MIMO_7B = tiny_config(layers=2)
    main(sys.argv[1:])
"""


SERVED_FOR_A_WHILE = """if True:
    import os, signal, sys, threading
    from mimo_mobile.cli import main
    from mimo_mobile.runtime.server import app
    started = app.application
    def application(*arguments, **others):
        threading.Timer(1, os.kill, (os.getpid(), signal.SIGTERM)).start()
        return started(*arguments, **others)
    app.application = application
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    main(sys.argv[1:])
"""


def test_every_command_is_watched() -> None:
    assert {arguments[0] for arguments in COMMANDS.values()} | {"serve"} == set(main.commands)


@needs_strace
def test_serving_listens_where_it_is_told_to_and_connects_to_nobody(
    watched: Watch, tmp_path: Path, tiny_gguf: Path
) -> None:
    deeds = watched("-c", SERVED_FOR_A_WHILE, "serve", tiny_gguf, "--port", "0")
    own = [line for line in deeds.addresses if line.startswith(("bind(", "getsockname("))]
    assert own and all('inet_addr("127.0.0.1")' in line for line in own)
    assert deeds.addresses == own
    assert_it_kept_to_itself(replace(deeds, sockets=[]), tmp_path)


@needs_strace
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_keeps_to_itself(
    name: str, watched: Watch, tmp_path: Path, tiny: Source, tiny_gguf: Path, tiny_onnx: Path
) -> None:
    places = {"tiny": tiny.path, "gguf": tiny_gguf, "onnx": tiny_onnx, "out": tmp_path / "out", "text": Path(__file__)}
    words = [word.format_map(places) for word in COMMANDS[name]]
    # MiMo-7B's shapes would fill gigabytes.
    start = ["-c", SMALL_SYNTH] if name == "synth" else ["-m", "mimo_mobile"]
    assert_it_kept_to_itself(watched(*start, *words, text="12 + 30\n"), tmp_path)


@needs_strace
@pytest.mark.slow
@pytest.mark.needs("onnxruntime_qnn")
def test_compiling_for_an_npu_and_running_there_keep_to_themselves(watched: Watch, tmp_path: Path) -> None:
    out = tmp_path / "out"
    chip = ["--target", "qnn", "--soc", "SM8750", "--context", "320"]
    words = ["quantize", "nano", "--out", out, "--recipe", "int4_b32", "--problems", "0", "--no-answer", *chip]
    assert_it_kept_to_itself(watched("-m", "mimo_mobile", *words), tmp_path)
    words = ["run", out / "mimo-nano", "12 + 30", "--max-tokens", "2", "--ep", "qnn", "--no-thinking"]
    assert_it_kept_to_itself(watched("-m", "mimo_mobile", *words), tmp_path)
