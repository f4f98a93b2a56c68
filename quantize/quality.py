"""What ``mimo eval`` finds out: how far a model is from a reference, how long it thinks, how often it is right.

It joins texts, references, measures and held-out problems, and knows no formats.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from mimo_mobile import manifest
from mimo_mobile.arguments import read_text
from mimo_mobile.convert.checkpoint import Checkpoint
from mimo_mobile.errors import BadArgumentError
from mimo_mobile.hub import Source, resolve
from mimo_mobile.layout import MODEL, TOKENIZER
from mimo_mobile.progress import Progress, ProgressCallback, ignore
from mimo_mobile.quantize import answering, disjoint, evaluate, measures, references, texts
from mimo_mobile.quantize.answering import Asking
from mimo_mobile.quantize.evaluate import Problem, Reply
from mimo_mobile.quantize.measures import RowMeasures, Share, Thinking, TopRows
from mimo_mobile.quantize.opening import answering_for, is_form, opened
from mimo_mobile.quantize.served import ServedModel, Way
from mimo_mobile.quantize.served import answer_all as answer_served
from mimo_mobile.quantize.texts import Prompt, Window
from mimo_mobile.runtime.endpoint import Endpoint
from mimo_mobile.runtime.text.tokenizer import TextTokenizer
from mimo_mobile.scores import Divergence, Drafts

if TYPE_CHECKING:
    from mimo_mobile.runtime import LoadConfig, Model

SAME = "name the checkpoint that the file was made from, or a file of the same model"

MOST_ASKED = 100
"""So many of the held-out problems are asked at most for the text to read."""

OUR_PROBLEMS = 5
"""So many of our own prompts are answered by default, one of each kind: a large model thinks long."""


@dataclass(frozen=True, slots=True)
class Quality:
    """What was found out about a model.

    Attributes:
        model: The file or folder.
        against: The checkpoint or the other model that it was compared with, or None.
        text: What was read: a text file, the answers to held-out problems, or those to our prompts.
        tokens: How many tokens were read.
        perplexity: The model's perplexity on the text; None where a server does not tell its predictions.
        divergence: How far its predictions are from those of ``against``; None when it was compared with nothing.
        thinking: How long it thinks, in greedy and sampled answers; None when no prompts were answered.
        greedy: Exact match of its greedy answers to held-out problems; None when there are none.
        sampled: The same for answers that are sampled.
        drafts: How often its MTP layer drafts right in the greedy answers; None without one, or without answers.
        excerpt: What a server tells of its predictions; None for a model that was read here.
        unavailable: Why nothing was read; None when something was, or when nothing was to be.
    """

    model: str
    against: str | None
    text: str
    tokens: int
    perplexity: float | None
    divergence: Divergence | None = None
    thinking: Thinking | None = None
    greedy: Share | None = None
    sampled: Share | None = None
    drafts: Drafts | None = None
    excerpt: Excerpt | None = None
    unavailable: str | None = None


@dataclass(frozen=True, slots=True)
class Excerpt:
    """What a server tells of its predictions, from which a KL divergence is no more than a lower bound.

    Attributes:
        likeliest: So many of the likeliest tokens it tells of each prediction.
        unknown: How many of the following tokens are not among them; with any, perplexity is a lower bound, too.
    """

    likeliest: int
    unknown: int


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be found out.

    Attributes:
        config: How the model is loaded.
        against: What it is compared with: a checkpoint (``nano``, a folder or a hub id), a .gguf file, an ONNX folder,
            or None.
        text: A text file to read; None takes answers to prompts.
        tokens: At most so many tokens are read.
        problems: So many held-out problems are answered, by default all; without any, so many of our prompts, by
            default ``OUR_PROBLEMS``. 0 is none.
        seeds: Each problem is answered so many times with sampling.
        max_tokens: Longer answers are cut off.
    """

    config: LoadConfig
    against: str | None = None
    text: Path | None = None
    tokens: int = 4096
    problems: int | None = None
    seeds: int = 1
    max_tokens: int = evaluate.MAX_TOKENS


def measure_quality(path: Path, job: Job, progress: ProgressCallback = ignore) -> Quality:
    """What is found out about the model at a path.

    Raises:
        BadArgumentError: The text cannot be used, the model was calibrated on it, or both models have different
            tokenizers.
        CheckpointError: The checkpoint to compare with cannot be used.
        SessionError: A model cannot be run.
        QuantizationError: A process that answers problems was killed, or what the model's folder keeps is damaged.
    """
    job = dataclasses.replace(job, config=dataclasses.replace(job.config, speculate="off"))
    other = None if job.against is None else _model_at(Path(job.against))
    source = None if job.against is None or other is not None else resolve(job.against)
    heldout = [] if source is None else evaluate.read_problems(source.path)
    told = _told(path, job, source, other, heldout, progress)
    with _loaded(path, job) as model:
        _check_same_tokenizer(model, told)
        disjoint.check(told.windows, disjoint.calibrated_on(answering_for(path)), model.tokenizer)
        nll, measured = read_windows(model, told, progress)

    def answer(asked: Sequence[Problem], seed: int | None, stage: str) -> list[Reply]:
        asking = Asking(job.config, seed, job.max_tokens)
        if is_form(path):
            with opened(path, job.config) as model:
                return answering.answer_one_by_one(model, asked, asking=asking, stage=stage, progress=progress)
        return answering.answer_all(path, asked, asking=asking, stage=stage, progress=progress)

    thinking, greedy, sampled, drafts = _answers(job, heldout, answer)
    return Quality(
        model=str(path),
        against=job.against,
        text=_text_of(job, heldout),
        tokens=sum(len(each.ids) for each in told.windows),
        perplexity=measures.perplexity(nll),
        divergence=None if told.rows is None or measured is None else measures.summary(told.rows, measured),
        thinking=thinking,
        greedy=greedy,
        sampled=sampled,
        drafts=drafts,
    )


def measure_endpoint(endpoint: Endpoint, job: Job, progress: ProgressCallback = ignore) -> Quality:
    """What is found out about a server's model, of the checkpoint ``against``: as much as the server tells.

    Raises:
        BadArgumentError: No checkpoint is named, the server runs another one, or a text is named though the server does
            not tell its predictions.
        CheckpointError: The checkpoint cannot be used.
        EndpointError: The server cannot be reached, refuses, or answers something else.
    """
    if job.against is None or _model_at(Path(job.against)) is not None:
        raise BadArgumentError(
            "--endpoint needs --against with the checkpoint that the server runs, which brings tokenizer and problems"
        )
    source = resolve(job.against)
    heldout = evaluate.read_problems(source.path)
    served = ServedModel(endpoint, Checkpoint.open(source.path))
    served.check()
    told, measured, excerpt, unavailable = Told([]), None, None, None
    if job.tokens and (way := served.way()) in ("prompt", "next"):
        told = told_by_checkpoint(served, job, source, _asked(heldout), progress)
        measured, excerpt = _read_served(served, cast(Way, way), told, progress)
    elif job.tokens:
        unavailable = way
        if job.text is not None:
            raise BadArgumentError(f"--text: {way}; leave it out, and the answers alone are measured")

    def answer(asked: Sequence[Problem], seed: int | None, stage: str) -> list[Reply]:
        return answer_served(served, asked, seed, job.max_tokens, stage=stage, progress=progress)

    thinking, greedy, sampled, _ = _answers(job, heldout, answer)
    return Quality(
        model=served.name,
        against=job.against,
        text=_text_of(job, heldout),
        tokens=sum(len(each.ids) for each in told.windows),
        perplexity=None if measured is None else measures.perplexity(measured.nll),
        divergence=None if told.rows is None or measured is None else measures.summary(told.rows, measured),
        thinking=thinking,
        greedy=greedy,
        sampled=sampled,
        excerpt=excerpt,
        unavailable=unavailable,
    )


def _read_served(served: ServedModel, way: Way, told: Told, progress: ProgressCallback) -> tuple[RowMeasures, Excerpt]:
    parts = []
    for number, window in enumerate(told.windows, 1):
        parts.append(served.predictions(way, window))
        progress(Progress("read", number, len(told.windows), unit="windows"))
    rows = TopRows.joined(parts)
    assert told.rows is not None
    unknown = int(np.isnan(rows.target_log_probs).sum())
    return measures.compare_told(told.rows, rows), Excerpt(int(np.diff(rows.starts).min()), unknown)


def _text_of(job: Job, heldout: Sequence[Problem]) -> str:
    return str(job.text) if job.text else "answers to held-out problems" if heldout else "answers to our prompts"


def _asked(heldout: Sequence[Problem]) -> list[Prompt]:
    """What is asked for answers to read."""
    return [Prompt(each.kind, each.question) for each in evaluate.problems_of_kinds(heldout, MOST_ASKED)]


@dataclass(frozen=True, slots=True)
class Told:
    """What is read; and the reference's predictions and tokenizer, if there is one.

    Attributes:
        windows: What is read.
        rows: What the reference predicts.
        tokenizer: The reference's.
    """

    windows: list[Window]
    rows: TopRows | None = None
    tokenizer: TextTokenizer | None = None


def _model_at(path: Path) -> Path | None:
    """The path when it is a model that the runtime loads, and no checkpoint."""
    is_folder = (path / MODEL).is_file() or manifest.is_there(path)
    return path if path.suffix in (".gguf", ".onnx") or is_folder else None


def _loaded(path: Path, job: Job) -> Model:
    return opened(path, job.config)


def _told(
    path: Path,
    job: Job,
    source: Source | None,
    other: Path | None,
    heldout: Sequence[Problem],
    progress: ProgressCallback,
) -> Told:
    asked = _asked(heldout)
    if source is not None:
        return told_by_checkpoint(path, job, source, asked, progress)
    with _loaded(other or path, _plain(job) if other else job) as model:
        windows = _windows(model, job, asked, progress)
        if other is None:
            return Told(windows)
        return Told(windows, references.of_model(model, windows, progress), model.tokenizer)


def told_by_checkpoint(
    model: Path | ServedModel, job: Job, source: Source, asked: Sequence[Prompt], progress: ProgressCallback
) -> Told:
    """What was kept of this checkpoint and text, or else is computed, with the model's own answers as the text.

    Raises:
        BadArgumentError: The text cannot be used, or the model has another tokenizer.
        SessionError: The model cannot be run.
    """
    checkpoint = Checkpoint.open(source.path)
    tokenizer = TextTokenizer.from_file(source.path / TOKENIZER)
    context = job.config.context_length
    most = context if isinstance(context, int) else texts.WINDOW
    length = min(texts.WINDOW, most, checkpoint.config.max_position_embeddings)
    request: object = ("answers", job.tokens, length, asked or texts.prompts("evaluation"))
    windows = []
    if job.text is not None:
        windows = texts.file_windows(job.text, tokenizer, job.tokens, length)
        request = ("text", windows)
    place = references.place(source.name, checkpoint.fingerprint(), request)
    if (kept := references.kept(place)) is not None:
        return Told(*kept, tokenizer)
    if not windows:
        asked_model = nullcontext(model) if isinstance(model, ServedModel) else _loaded(answering_for(model), job)
        with asked_model as answers:
            _check_same_tokenizer(answers, Told([], None, tokenizer))
            windows = _windows(answers, job, asked, progress)
    rows = references.of_checkpoint(checkpoint, windows, progress)
    references.keep(place, windows, rows)
    return Told(windows, rows, tokenizer)


def _plain(job: Job) -> Job:
    """How the other model is loaded: what was said of the first one's file is not said of this one's."""
    from mimo_mobile.runtime import LoadConfig

    plain = LoadConfig(context_length=job.config.context_length, threads=job.config.threads, speculate="off")
    return dataclasses.replace(job, config=plain)


def _windows(model: texts.Answering, job: Job, asked: Sequence[Prompt], progress: ProgressCallback) -> list[Window]:
    if job.text is not None:
        length = min(texts.WINDOW, model.context_length)
        return texts.file_windows(job.text, model.tokenizer, job.tokens, length)
    return texts.evaluation_texts(model, heldout=asked, tokens=job.tokens, progress=progress)


def _check_same_tokenizer(model: texts.Answering, told: Told) -> None:
    """See that model and reference mean the same by token ids, on the texts that we have.

    Raises:
        BadArgumentError: They do not.
    """
    if told.tokenizer is None:
        return
    known = [read_text(texts.TEXT), *(each.text for each in texts.prompts("evaluation"))]
    if any(model.tokenizer.encode(text) != told.tokenizer.encode(text) for text in known):
        raise BadArgumentError(f"{model.name}: its tokenizer cuts texts differently from the reference's; {SAME}")


def read_windows(
    model: Model, told: Told, progress: ProgressCallback
) -> tuple[NDArray[np.float64], RowMeasures | None]:
    """How unlikely the model finds each token, and all measures when there is a reference.

    Raises:
        BadArgumentError: The model has another vocabulary.
        NumericsError: It computes NaN or infinity.
    """
    parts, nll, done = list[RowMeasures](), list[NDArray[np.float64]](), 0
    for number, window in enumerate(told.windows, 1):
        logits = model.logits(window.ids)[window.first : -1]
        if told.rows is None:
            nll.append(measures.surprise(logits, window.targets))
        else:
            rows = told.rows.rows(done, done + len(logits))
            if logits.shape[1] != rows.vocabulary:
                raise BadArgumentError(
                    f"{model.name}: logits for {logits.shape[1]} tokens found, {rows.vocabulary} as the reference has"
                    f" expected; {SAME}"
                )
            parts.append(measures.compare(rows, logits))
            nll.append(parts[-1].nll)
        done += len(logits)
        progress(Progress("read", number, len(told.windows), unit="windows"))
    return np.concatenate(nll), RowMeasures.joined(parts) if parts else None


def _answers(
    job: Job, heldout: Sequence[Problem], answer: Callable[[Sequence[Problem], int | None, str], list[Reply]]
) -> tuple[Thinking | None, Share | None, Share | None, Drafts | None]:
    """How long the model thinks, its exact match greedily and sampled, and how often its MTP layer drafts right."""
    if job.problems == 0:
        return None, None, None, None
    if heldout:
        asked = list(evaluate.problems_of_kinds(heldout, job.problems or len(heldout)))
    else:
        chosen = texts.prompts("evaluation")[: job.problems or OUR_PROBLEMS]
        asked = [Problem(each.kind, each.text, "") for each in chosen]

    greedy = answer(asked, None, "answer greedily")
    sampled = [each for seed in range(job.seeds) for each in answer(asked, seed, f"answer with seed {seed}")]
    replies = [*greedy, *sampled]
    lengths, unclosed = [each.thinking_tokens for each in replies], [each.unclosed for each in replies]
    thinking = Thinking(len(replies), mean(lengths), float(median(lengths)), mean(unclosed))
    drafts = evaluate.drafts(greedy)
    if not heldout:
        return thinking, None, None, drafts
    return (
        thinking,
        Share.of([each.right for each in greedy], len(asked), 0),
        Share.of([each.right for each in sampled], len(asked), job.seeds) if sampled else None,
        drafts,
    )
