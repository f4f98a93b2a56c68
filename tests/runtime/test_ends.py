"""How programs and their forks end while a model is loaded, runs or loads: with their own exit code and in silence."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROLOGUE = """
import atexit, gc, os, sys, threading, time
from mimo_mobile.runtime import GenerationConfig, load
path, long = sys.argv[1], GenerationConfig(max_tokens=400, temperature=1.0)
"""

FOREVER = """
def forever(model=model):
    while True:
        list(model.session().generate([5, 6, 7] * 20, long))
threading.Thread(target=forever, daemon=True).start()
time.sleep(0.1)
"""
LOGITS = """
threading.Thread(target=lambda: [model.logits([5] * 200) for _ in range(10**6)], daemon=True).start()
time.sleep(0.1)
"""
LOADING = """
threading.Thread(target=lambda: [load(path).close() for _ in range(10**6)], daemon=True).start()
time.sleep(0.1)
"""

ENDS = {
    "suspended": ("tokens = model.generate([5, 6], long); next(tokens); sys.exit(7)", 7),
    "running": (FOREVER + "sys.exit(7)", 7),
    "reading logits": (LOGITS, 0),
    "loading": (LOADING, 0),
}
MORE_ENDS = {
    "idle": ("list(model.generate([5], GenerationConfig(max_tokens=3)))", 0),
    "forgotten": ("tokens = model.generate([5, 6], long); next(tokens); del model; next(tokens)", 0),
    "running, and os._exit": (FOREVER + "os._exit(5)", 5),
    "sys.exit in a thread": ("threading.Thread(target=lambda: sys.exit(next(model.generate([5], long)))).start()", 0),
    "a timer": ("threading.Timer(0.05, lambda: list(model.generate([5], long))).start()", 0),
    "two models": (FOREVER + "other, model = model, load(path, threads=2)\n" + FOREVER, 0),
}  # fmt: skip


def run(code: str, model: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *options, "-c", code, str(model)]
    return subprocess.run(command, env=os.environ, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture(params=["gguf", "onnx"])
def path(request: pytest.FixtureRequest, tiny_gguf: Path, tiny_onnx: Path) -> Path:
    return tiny_gguf if request.param == "gguf" else tiny_onnx


def ends(how: tuple[str, int], path: Path) -> None:
    code, expected = how
    done = run(PROLOGUE + "model = load(path, threads=2)\n" + code, path)
    assert (done.returncode, done.stderr) == (expected, ""), (done.returncode, done.stderr[-2000:])


@pytest.mark.parametrize("how", ENDS)
def test_a_program_ends_with_its_own_code_and_in_silence(path: Path, how: str) -> None:
    ends(ENDS[how], path)


@pytest.mark.slow
@pytest.mark.parametrize("how", [*ENDS, *MORE_ENDS])
def test_a_program_ends_with_its_own_code_and_in_silence_again_and_again(path: Path, how: str) -> None:
    for _ in range(5):
        ends((ENDS | MORE_ENDS)[how], path)


def test_an_exit_handler_from_before_loading_can_still_use_the_model(path: Path) -> None:
    code = """
atexit.register(lambda: print(len(list(model.generate([5], GenerationConfig(max_tokens=3, temperature=0))))))
model = load(path, threads=2)
"""
    done = run(PROLOGUE + code, path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "4\n", "")


def test_an_exception_that_nobody_catches_is_all_that_is_printed(path: Path) -> None:
    done = run(PROLOGUE + "model = load(path, threads=2)\n" + FOREVER + "raise KeyError('mine')", path)
    assert done.returncode == 1 and done.stderr.splitlines()[-1] == "KeyError: 'mine'"
    assert done.stderr.count("Traceback") == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.parametrize("end", ["sys.exit(9)", "del model; gc.collect(); sys.exit(9)"])
@pytest.mark.parametrize("busy", [False, True])
def test_a_fork_ends_with_its_own_code_and_the_parent_goes_on(path: Path, end: str, busy: bool) -> None:
    code = f"""
model = load(path, threads=2)
greedy = GenerationConfig(max_tokens=8, temperature=0)
before = [token.token_id for token in model.session().generate([5, 6], greedy)]
{FOREVER if busy else ""}
child = os.fork()
if child == 0:
    {end}
ends = time.monotonic() + 60
while not (found := os.waitpid(child, os.WNOHANG))[0]:
    if time.monotonic() > ends:
        os.kill(child, 9)
        sys.exit('the child hangs')
    time.sleep(0.01)
print(os.waitstatus_to_exitcode(found[1]))
if {not busy}:
    assert [token.token_id for token in model.session().generate([5, 6], greedy)] == before
"""
    done = run(PROLOGUE + code, path, "-W", "ignore::DeprecationWarning")
    assert (done.returncode, done.stdout, done.stderr) == (0, "9\n", "")


def test_a_spawned_process_loads_for_itself(path: Path, tmp_path: Path) -> None:
    script = tmp_path / "spawned.py"
    script.write_text(f"""{PROLOGUE}
import multiprocessing

def answer(path):
    with load(path, threads=1) as model:
        return [token.token_id for token in model.generate([5, 6], GenerationConfig(max_tokens=8, temperature=0))]

if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert pool.map(answer, [path] * 2) == [answer(path)] * 2
""")
    command = [sys.executable, str(script), str(path)]
    done = subprocess.run(command, env=os.environ, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_forgotten_model_is_freed(path: Path) -> None:
    code = """
pages = lambda: int(open("/proc/self/statm").read().split()[1])
sizes = []
for number in range(15):
    model = load(path, threads=1, speculate="off")
    list(model.generate([5, 6], GenerationConfig(max_tokens=3)))
    del model
    gc.collect()
    sizes.append(pages() * 4096 / 1e6)
print(max(sizes[10:]) - max(sizes[:5]))
"""
    done = run(PROLOGUE + code, path)
    assert done.returncode == 0 and float(done.stdout) < 20, (done.stdout, done.stderr)


def test_a_sub_interpreter_is_refused_instead_of_hanging(path: Path) -> None:
    code = '''
import importlib, importlib.util, sys
name = next(each for each in ("_interpreters", "_xxsubinterpreters") if importlib.util.find_spec(each))
interpreters = importlib.import_module(name)
interpreters.run_string(interpreters.create(), f"""if True:
    import sys, warnings
    warnings.simplefilter('ignore')
    sys.path[:] = {sys.path}
    from mimo_mobile.errors import BackendUnavailableError
    from mimo_mobile.runtime import load
    try:
        load({sys.argv[1]!r})
    except BackendUnavailableError as error:
        print(error, flush=True)
""")
'''
    done = run(code, path)
    message = "models cannot be loaded in a sub-interpreter; load them in a process of its own\n"
    assert (done.returncode, done.stdout, done.stderr) == (0, message, "")
