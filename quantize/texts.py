"""What models are calibrated on and measured on: two sets of texts that never share one.

The model's own answers to our prompts, whose first half calibrates and whose second half measures, to a checkpoint's
held-out problems, which only measure, or a text of the user's. This module knows no weights and no formats.
"""

from __future__ import annotations

from collections.abc import Iterable, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from mimo_mobile.arguments import read_text
from mimo_mobile.errors import BadArgumentError, ContextFullError
from mimo_mobile.progress import Progress, ProgressCallback, ignore

if TYPE_CHECKING:
    from mimo_mobile.runtime import GeneratedToken, GenerationConfig
    from mimo_mobile.runtime.text.chat_template import MessageLike
    from mimo_mobile.runtime.text.tokenizer import TextTokenizer

Half = Literal["calibration", "evaluation"]

Answers = MutableMapping[int, Sequence[int]]
"""Token ids of answers, by the numbers of their prompts."""

KINDS = ("maths", "code", "english", "spanish", "chinese")

PROMPTS = Path(__file__).with_name("prompts")
"""One file for each of ``KINDS``, with a prompt a line: the odd lines calibrate, the even ones measure."""

TEXT = Path(__file__).with_name("calibration.txt")
"""Sums, algebra, code and a proof with thinking, in MiMo's chat template: what MiMo is made for. We wrote this text."""

WINDOW = 512
"""So many tokens a model reads at once, as llama-perplexity's default is."""

MOST_CALIBRATION = 8192
"""So many tokens calibrate at most."""

LEAST_ANSWER = 16
"""A prompt is asked when at least so many tokens are left for its answer."""

LONGEST_TOKEN = 64
"""So many characters of a file are read for each token that is asked for: more of them take minutes and gigabytes."""

LEAST_TEXT = 8
"""Tokens of a text, of which the second half can be measured."""


class Answering(Protocol):
    """What answers prompts with token ids: a ``Model``, or a server's."""

    @property
    def name(self) -> str:
        """What it is, for messages."""

    @property
    def tokenizer(self) -> TextTokenizer:
        """The model's tokenizer."""

    @property
    def context_length(self) -> int:
        """How many tokens prompt and answer may have together."""

    @property
    def has_chat_template(self) -> bool:
        """Whether messages can be given."""

    def encode_prompt(self, prompt: str | Sequence[MessageLike], config: GenerationConfig) -> list[int]:
        """Token ids of a prompt."""

    def generate(self, prompt: str | Sequence[MessageLike], config: GenerationConfig) -> Iterable[GeneratedToken]:
        """Stream what follows a prompt."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A question of ours; ``kind`` is one of ``KINDS``, or a held-out problem's."""

    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Window:
    """Tokens that a model reads at once, from position 0.

    Attributes:
        ids: The token ids.
        first: The first row that is measured; a row predicts the token after it.
    """

    ids: tuple[int, ...]
    first: int

    @property
    def targets(self) -> tuple[int, ...]:
        """The tokens that the measured rows predict."""
        return self.ids[self.first + 1 :]


def prompts(half: Half) -> list[Prompt]:
    """Our prompts of one half, all kinds in turn."""
    start = ("calibration", "evaluation").index(half)
    lines = {kind: (PROMPTS / f"{kind}.txt").read_text(encoding="utf-8").splitlines()[start::2] for kind in KINDS}
    return [Prompt(kind, lines[kind][place]) for place in range(max(map(len, lines.values()))) for kind in KINDS]


def calibration_texts(
    tokenizer: TextTokenizer,
    *,
    file: Path | None = None,
    model: Answering | None = None,
    tokens: int = MOST_CALIBRATION,
    length: int = WINDOW,
    known: Answers | None = None,
    progress: ProgressCallback = ignore,
) -> list[tuple[int, ...]]:
    """Token ids of the texts to calibrate on.

    Args:
        tokenizer: The checkpoint's.
        file: A text of the user's, which is taken instead of ours.
        model: The model, quantized or not, whose own answers to our prompts follow our text; None leaves them out.
        tokens: At most so many are given altogether.
        length: At most so many are in one text.
        known: What the model has answered before, see ``own_answers``.
        progress: Called while the model answers.

    Raises:
        BadArgumentError: The file cannot be read, or is too short.
        SessionError: The model cannot be run.
    """
    ids = tokenizer.encode(read_text(file if file is not None else TEXT)[: LONGEST_TOKEN * tokens])[:tokens]
    if len(ids) < LEAST_TEXT:
        raise BadArgumentError(
            f"{file}: {len(ids)} tokens found, at least {LEAST_TEXT} expected; give a text of some thousand words"
        )
    length = length if model is None else min(length, model.context_length)
    made = [tuple(ids[start : start + length]) for start in range(0, len(ids), length)]
    if model is None or file is not None:
        return made
    answers = own_answers(
        model, prompts("calibration"), tokens - len(ids), length, known,
        stage="answer for calibration", progress=progress,
    )  # fmt: skip
    return made + [each.ids for each in answers]


def evaluation_texts(
    model: Answering,
    *,
    heldout: Sequence[Prompt] = (),
    tokens: int = 4096,
    length: int = WINDOW,
    progress: ProgressCallback = ignore,
) -> list[Window]:
    """The windows to measure on, when the user names no text: a model's own answers.

    Args:
        model: The model that answers.
        heldout: The checkpoint's held-out problems, which are asked instead of our prompts if there are any.
        tokens: At most so many are given altogether.
        length: At most so many are read at once.
        progress: Called while the model answers.

    Raises:
        BadArgumentError: The model answers nothing.
        SessionError: The model cannot be run.
    """
    length = min(length, model.context_length)
    asked = heldout or prompts("evaluation")
    made = own_answers(model, asked, tokens, length, stage="answer for evaluation", progress=progress)
    if not made:
        raise BadArgumentError(
            f"{model.name}: no answers to measure on within {tokens} tokens; give more --tokens, or a text with --text"
        )
    return made


def file_windows(file: Path, tokenizer: TextTokenizer, tokens: int = 4096, length: int = WINDOW) -> list[Window]:
    """The windows to measure on of a user's text, of which at most so many tokens are read.

    Raises:
        BadArgumentError: The file cannot be read, or is too short.
    """
    made = cut(tokenizer.encode(read_text(file)[: LONGEST_TOKEN * tokens])[:tokens], length)
    if not made:
        raise BadArgumentError(f"{file}: fewer than {LEAST_TEXT} tokens to read; give a longer text, or more --tokens")
    return made


def cut(ids: Sequence[int], length: int = WINDOW) -> list[Window]:
    """Whole windows of a text, or one shorter window; the second half of each is measured, as llama-perplexity does.

    Source: https://github.com/ggml-org/llama.cpp/blob/0c1e57098/tools/perplexity/perplexity.cpp
    """
    length = min(length, len(ids))
    if length < LEAST_TEXT:
        return []
    return [
        Window(tuple(ids[start : start + length]), length // 2) for start in range(0, len(ids) - length + 1, length)
    ]


def own_answers(
    model: Answering,
    asked: Sequence[Prompt],
    tokens: int,
    length: int,
    known: Answers | None = None,
    *,
    stage: str,
    progress: ProgressCallback = ignore,
) -> list[Window]:
    """A model's answers to prompts, as it would give them, until there are so many tokens; the answers are measured.

    Each is cut off where prompt and answer have ``length`` tokens. What is in ``known`` is not asked again, and each
    new answer is put in.

    Raises:
        SessionError: The model cannot be run.
    """
    from mimo_mobile.runtime import GenerationConfig, Message

    made: list[Window] = []
    known = {} if known is None else known
    done = 0
    for seed, prompt in enumerate(asked):
        config = GenerationConfig(seed=seed, speculate=False)
        question = [Message("user", prompt.text)] if model.has_chat_template else prompt.text
        try:
            ids = model.encode_prompt(question, config)
        except ContextFullError:
            continue
        room = min(length, tokens - done) - len(ids)
        if room < LEAST_ANSWER:
            continue
        config = GenerationConfig(seed=seed, speculate=False, max_tokens=room)
        answer = list(known.get(seed, ()))[:room]
        for token in [] if seed in known else model.generate(question, config):
            answer += [] if token.token_id is None else [token.token_id]
            progress(Progress(stage, done + len(ids) + len(answer), tokens, prompt.kind, "tokens"))
        known[seed] = answer
        if answer:
            made.append(Window((*ids, *answer), len(ids) - 1))
            done += len(ids) + len(answer)
    progress(Progress(stage, tokens, tokens, unit="tokens"))
    return made
