"""What is done on a phone, step by step: check it, send what it lacks, run programs, understand what they print."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.phone.adb import Phone, PhoneError, Sent, lacking, to_send
from benchmarks.phone.device import FOLDER, Device, Reading, free_bytes, parse_peaks, parse_reading
from mimo_mobile.gguf_header import GgufHeader
from mimo_mobile.progress import Progress, ProgressCallback
from mimo_mobile.runtime.text.chat_template import Message, render
from mimo_mobile.runtime.text.tokenizer import TextTokenizer
from mimo_mobile.terminal import size

PROMPT_TOKENS, GENERATE_TOKENS, REPEATS = 128, 32, 3
QUESTION, ANSWER_TOKENS = "What is 17 + 25?", 64
READING_S = 5
SCRIPT = Path(__file__).with_name("watch.sh")
PROGRAMS = ("llama-bench", "llama-completion")
MODEL = "model.gguf"
"""The model's name on the phone, which holds one at a time; llama-bench would end a name at a comma."""

CPU_FEATURES = {"dotprod": "asimddp", "fp16": "asimdhp", "i8mm": "i8mm", "sve": "sve", "sve2": "sve2", "sme": "sme"}
"""What the compiler calls it → what /proc/cpuinfo calls it:
https://docs.kernel.org/arch/arm64/elf_hwcaps.html"""

SIGNALS = {
    137: "the phone killed it, most likely for want of memory: take a smaller model or lower --depths",
    132: "an instruction that this CPU lacks: build with a lower PHONE_ARCH",
}
"""What the exit codes of programs that a signal ended mean."""


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be done, checked as far as possible without a phone; ``prepare`` makes it.

    Attributes:
        model: The GGUF.
        tools: The folder of the programs.
        arch: Which instructions of the CPU they may use.
        prompt: What llama-completion is to continue.
        need_bytes: How much memory the largest depth takes.
        depths: Tokens in the KV cache before what is measured.
        threads: Numbers of threads, each measured.
    """

    model: Path
    tools: Path
    arch: str
    prompt: str
    need_bytes: int
    depths: tuple[int, ...]
    threads: tuple[int, ...]

    @property
    def sent(self) -> dict[str, Path]:
        """Name on the phone → local file, the largest last."""
        programs = (self.tools / name for name in PROGRAMS)
        return {f"{FOLDER}/{path.name}": path for path in (SCRIPT, *programs)} | {f"{FOLDER}/{MODEL}": self.model}

    def answer_words(self) -> list[str]:
        """The command that answers the question, greedily."""
        options = ["-m", MODEL, "-t", str(self.threads[0]), "-n", str(ANSWER_TOKENS), "-c", "512", "--temp", "0"]
        plain = ["-no-cnv", "--no-escape", "--no-display-prompt", "--simple-io"]
        return ["./llama-completion", *options, *plain, "-p", self.prompt]

    def bench_words(self, depth: int) -> list[str]:
        """The command that measures one depth."""
        sizes = ["-p", str(PROMPT_TOKENS), "-n", str(GENERATE_TOKENS), "-d", str(depth), "-r", str(REPEATS)]
        return ["./llama-bench", "-m", MODEL, "-o", "jsonl", *sizes, "-t", ",".join(map(str, self.threads))]


@dataclass(frozen=True, slots=True)
class Watched:
    """A program that ran on the phone.

    Attributes:
        output: Its stdout.
        peak_rss_bytes: VmHWM, pages of the mapped model included; looked at every quarter of a second.
        peak_anon_bytes: Largest RssAnon: what cannot be dropped and read again.
        readings: What the phone read: at the start, every five seconds, at the end.
    """

    output: str
    peak_rss_bytes: int | None
    peak_anon_bytes: int | None
    readings: tuple[Reading, ...]


@dataclass(frozen=True, slots=True)
class Speed:
    """One number of threads at one depth; tokens/s with their standard deviation over the repeats."""

    threads: int
    prefill_tps: float
    prefill_stddev_tps: float
    decode_tps: float
    decode_stddev_tps: float


def prepare(model: Path, tools: Path, depths: tuple[int, ...], threads: tuple[int, ...]) -> Job:
    """The job, with everything local checked.

    Raises:
        PhoneError: A program is missing or not for 64-bit ARM.
        ModelLoadError: The model is no GGUF.
    """
    for name in (*PROGRAMS, "arch"):
        if not (tools / name).is_file():
            raise PhoneError(f"{tools / name} is missing; `make phone-tools` builds it")
    for name in PROGRAMS:
        with (tools / name).open("rb") as handle:
            head = handle.read(20)
        # e_machine 183 is EM_AARCH64: https://refspecs.linuxfoundation.org/elf/gabi4+/ch4.eheader.html
        if head[:4] != b"\x7fELF" or int.from_bytes(head[18:20], "little") != 183:
            raise PhoneError(f"{tools / name} is no program for 64-bit ARM; `make phone-tools` builds one")
    header = GgufHeader(model)
    template = header.value("tokenizer.chat_template")
    prompt = QUESTION
    if template:
        segments = render(template, [Message("user", QUESTION)], TextTokenizer.from_gguf(header))
        prompt = "".join(each.text for each in segments)
    cached = max(depths) + PROMPT_TOKENS + GENERATE_TOKENS
    # llama-bench keeps a second copy of a depth's KV cache, to begin every repeat with it.
    need = model.stat().st_size + kv_bytes_per_token(header) * cached * (2 if max(depths) else 1)
    arch = (tools / "arch").read_text(encoding="ascii").strip()
    return Job(model, tools, arch, prompt, need, depths, threads)


def kv_bytes_per_token(header: GgufHeader) -> int:
    """What a token takes in an f16 KV cache; absent keys as the GGUF specification has them.

    Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
    """
    prefix = header.value("general.architecture")
    heads, embedding = (header.value(f"{prefix}.{key}") or 0 for key in ("attention.head_count", "embedding_length"))
    kv_heads = header.value(f"{prefix}.attention.head_count_kv") or heads
    default = embedding // max(1, heads)
    key, value = (header.value(f"{prefix}.attention.{name}_length") or default for name in ("key", "value"))
    return int((header.value(f"{prefix}.block_count") or 0) * kv_heads * (key + value) * 2)


def check(job: Job, device: Device, *, ignore_memory: bool) -> None:
    """See that the phone can run the job.

    Raises:
        PhoneError: It is no 64-bit ARM phone, its CPU lacks what the programs use, or its memory is short.
    """
    if device.abi != "arm64-v8a":
        raise PhoneError(f"{device.name} is {device.abi}; a phone with 64-bit ARM (arm64-v8a) is needed, no emulator")
    wanted = [CPU_FEATURES.get(part, part) for part in job.arch.split("+")[1:]]
    if lacking := [feature for feature in wanted if feature not in device.cpu_features]:
        raise PhoneError(
            f"the CPU of {device.name} has no {', '.join(lacking)}, which {job.tools} was built for ({job.arch});"
            " build with a lower PHONE_ARCH"
        )
    available = device.available_bytes
    if available is not None and job.need_bytes > available and not ignore_memory:
        raise PhoneError(
            f"{job.model.name} takes {job.need_bytes / 1e9:.2f} GB with {max(job.depths)} tokens of context,"
            f" {device.name} has {available / 1e9:.2f} GB available; close apps, take a smaller model or lower"
            " --depths, or give --ignore-memory: Android may make room"
        )


def send(phone: Phone, device: Device, job: Job, progress: ProgressCallback) -> dict[str, Sent]:
    """Put on the phone what it has not yet; returns what it holds then, by name.

    Raises:
        PhoneError: There is no room, or a file arrives damaged.
    """
    wanted = [to_send(local, remote, progress) for remote, local in job.sent.items()]
    put(phone, device, wanted, FOLDER, progress)
    phone.shell(shlex.join(["chmod", "755", *(f"{FOLDER}/{name}" for name in PROGRAMS)]))
    return {each.local.name: each for each in wanted}


def put(phone: Phone, device: Device, wanted: Sequence[Sent], folder: str, progress: ProgressCallback) -> None:
    """Have a folder on the phone hold files, of which only those that it lacks are sent.

    Raises:
        PhoneError: There is no room, or a file arrives damaged.
    """
    phone.shell(shlex.join(["mkdir", "-p", *sorted({each.remote.rpartition("/")[0] for each in wanted})]))
    missing = lacking(phone, wanted)
    if missing:
        phone.shell(shlex.join(["rm", "-f", *(each.remote for each in missing)]))
        free, needed = free_bytes(phone, folder), sum(each.size_bytes for each in missing)
        if free is not None and needed > free:
            raise PhoneError(f"{size(needed)} needed, {size(free)} free in {folder} of {device.name}; make room on it")
    for each in missing:
        phone.push(each.local, each.remote, progress)
    if missing and (damaged := lacking(phone, missing)):
        raise PhoneError(f"{damaged[0].remote} is not what was sent; try again, with another cable if need be")


def watched(words: Sequence[str]) -> str:
    """The phone's command to run ``words`` under ``watch.sh``."""
    return shlex.join(["sh", f"{FOLDER}/{SCRIPT.name}", str(READING_S), *words])


def run(phone: Phone, words: Sequence[str], step: Progress, progress: ProgressCallback) -> Watched:
    """Run a program on the phone to its end.

    Raises:
        PhoneError: It failed; the message has its last lines.
    """
    started, readings, code = time.monotonic(), [], None
    rss = anon = None
    for line in phone.lines(watched(words)):
        kind, _, rest = line.partition("\t")
        if kind == "reading":
            readings.append(parse_reading(line, time.monotonic() - started))
            rss, anon = parse_peaks(line)
            progress(step)
        elif kind == "exit":
            code = int(rest)
    if code is None:
        raise PhoneError(f"{phone.serial}: the connection ended while {words[0]} ran")
    if code:
        said = phone.shell(f"tail -n 5 {FOLDER}/watch.err").strip().splitlines()
        reason = SIGNALS.get(code) or " / ".join(said) or "it said nothing"
        raise PhoneError(f"{words[0]} failed on the phone (code {code}): {reason}")
    return Watched(phone.shell(f"cat {FOLDER}/watch.out"), rss, anon, tuple(readings))


def parse_rows(output: str) -> list[dict[str, Any]]:
    """What ``llama-bench -o jsonl`` printed.

    Raises:
        PhoneError: It is something else.
    """
    try:
        rows = [json.loads(line) for line in output.splitlines() if line]
        if rows and all(
            {"n_threads", "n_prompt", "n_gen", "avg_ts", "stddev_ts", "backends"} <= {*row} for row in rows
        ):
            return rows
    except (ValueError, TypeError) as error:
        raise PhoneError(f"llama-bench printed no JSON but {output[:80]!r}") from error
    raise PhoneError(f"llama-bench printed {output[:80]!r}, not a row for each test; build it again")


def speeds(rows: Sequence[dict[str, Any]]) -> list[Speed]:
    """One record for each number of threads, from its row for prefill and its row for decode.

    Raises:
        PhoneError: One of them is not there.
    """
    found = []
    for threads in dict.fromkeys(row["n_threads"] for row in rows):
        of_threads = [row for row in rows if row["n_threads"] == threads]
        pair = [next((row for row in of_threads if row[key]), None) for key in ("n_prompt", "n_gen")]
        if None in pair:
            raise PhoneError(
                f"llama-bench printed {len(of_threads)} rows for {threads} threads, prefill and decode expected"
            )
        found.append(Speed(threads, *(row[key] for row in pair if row for key in ("avg_ts", "stddev_ts"))))
    return found
