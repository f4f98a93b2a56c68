"""What the tests run twice: on an emulated ARM CPU, and on this machine, whose results they compare.

``python -m tests.arm.inside JOB.json`` does the work of a ``Job`` and prints what came out as JSON, with arrays as
lists. Knows our public API and the two libraries below it; nothing of emulators.
"""

from __future__ import annotations

import json
import platform
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mimo_mobile import onnxruntime_library
from mimo_mobile.runtime import GeneratedToken, GenerationConfig, Message, load
from mimo_mobile.runtime.onnx import prepacked

OPTIONS: dict[str, Any] = {"threads": 2, "spin": False, "context_length": 1024}


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What to do with one model.

    Attributes:
        model: What ``load`` takes; or a graph from ``x`` to ``y`` when ``x`` is given.
        ort: Settings for ONNX Runtime's sessions.
        load: More arguments of ``load``.
        ids: Tokens whose logits are wanted.
        questions: To be answered greedily, each without drafts and with the MTP layer's.
        max_tokens: Of an answer.
        x: Input of the graph.
    """

    model: str
    ort: Mapping[str, str] = field(default_factory=dict)
    load: Mapping[str, Any] = field(default_factory=dict)
    ids: Sequence[int] = ()
    questions: Sequence[str] = ()
    max_tokens: int = 160
    x: Sequence[Sequence[float]] = ()


@dataclass(slots=True, kw_only=True)
class Done:
    """What came out.

    Attributes:
        logits: Of ``ids``.
        answers: Token ids of each answer without drafts.
        drafted_answers: The same with drafts.
        drafts: How many were verified.
        accepted: How many of them were right.
        text: The first answer.
        y: Output of the graph.
    """

    logits: list[list[float]] = field(default_factory=list)
    answers: list[list[int]] = field(default_factory=list)
    drafted_answers: list[list[int]] = field(default_factory=list)
    drafts: int = 0
    accepted: int = 0
    text: str = ""
    y: list[list[float]] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class Report:
    """All tasks of a job, and where they were done.

    Attributes:
        machine: ``uname -m``.
        kernels: ggml's CPU libraries that are loaded.
        features: What llama.cpp says of them.
        done: By the tasks' names.
    """

    machine: str
    kernels: list[str]
    features: str
    done: dict[str, Done]


def do(task: Task) -> Done:
    """The work of one task."""
    made = Done()
    with _configured(task.ort):
        if task.x:
            made.y = _product(task)
            return made
        if task.ids:
            with load(task.model, speculate="off", **(OPTIONS | {"cache": False} | dict(task.load))) as session:
                made.logits = session.logits(task.ids)[:, : session.tokenizer.size].tolist()
        if task.questions:
            _answer(task, made)
    return made


def _answer(task: Task, made: Done) -> None:
    config = GenerationConfig(temperature=0, max_tokens=task.max_tokens)
    for mode in ("off", "mtp"):
        with load(task.model, speculate=mode, **(OPTIONS | {"cache": False} | dict(task.load))) as session:
            for question in task.questions:
                tokens: list[GeneratedToken] = list(session.generate([Message("user", question)], config))
                ids = [token.token_id for token in tokens if token.token_id is not None]
                (made.answers if mode == "off" else made.drafted_answers).append(ids)
                made.text = made.text or "".join(token.text for token in tokens if token.channel == "answer")
                stats = tokens[-1].stats
                assert stats is not None
                made.drafts, made.accepted = made.drafts + stats.drafted_tokens, made.accepted + stats.accepted_tokens


def _product(task: Task) -> list[list[float]]:
    onnxruntime = onnxruntime_library.load()
    session = onnxruntime.InferenceSession(task.model, onnxruntime.SessionOptions())
    made: list[list[float]] = session.run(["y"], {"x": np.array(task.x, np.float32)})[0].tolist()
    return made


@contextmanager
def _configured(entries: Mapping[str, str]) -> Iterator[None]:
    """Every session of ONNX Runtime that is made meanwhile has these settings, too."""
    if not entries:
        yield
        return
    onnxruntime = onnxruntime_library.load()
    plain = onnxruntime.SessionOptions

    def configured() -> Any:
        options = plain()
        for key, value in entries.items():
            options.add_session_config_entry(key, value)
        return options

    onnxruntime.SessionOptions = configured
    try:
        yield
    finally:
        onnxruntime.SessionOptions = plain


def _features() -> str:
    if "llama_cpp" not in sys.modules:
        return ""
    text: bytes = sys.modules["llama_cpp"].llama_print_system_info()
    return text.decode()


def main() -> None:
    """Do the job in the file that is the first argument."""
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    if job["prepack_all"]:  # MiMo-nano is too small for it to be worth it
        prepacked.LEAST_BYTES = 0
    done = {name: do(Task(**task)) for name, task in job["tasks"].items()}
    maps = Path("/proc/self/maps").read_text(encoding="utf-8")
    kernels = sorted(set(re.findall(r"libggml-cpu-(\S+)\.so", maps)))
    print(json.dumps(asdict(Report(machine=platform.machine(), kernels=kernels, features=_features(), done=done))))


if __name__ == "__main__":
    main()
