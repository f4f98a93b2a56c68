"""A model that a server runs, as texts and measures take it: with the checkpoint's tokenizer and chat template.

What servers tell of their predictions differs. vLLM gives those of all tokens of a prompt at once, llama-server those
of the next token, with the ids of the likeliest ones; others give no ids, and their predictions cannot be measured.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Literal

import numpy as np

from mimo_mobile.convert.checkpoint import Checkpoint
from mimo_mobile.documents import Value
from mimo_mobile.errors import BadArgumentError, Cancelled, EndpointError, SessionError
from mimo_mobile.layout import TOKENIZER
from mimo_mobile.mimo7b import THINK_CLOSE, THINK_OPEN
from mimo_mobile.progress import Progress, ProgressCallback, ignore
from mimo_mobile.quantize import texts
from mimo_mobile.quantize.evaluate import Problem, Reply
from mimo_mobile.quantize.measures import TopRows
from mimo_mobile.quantize.texts import Window
from mimo_mobile.runtime.endpoint import Endpoint
from mimo_mobile.runtime.generation_config import GeneratedToken, GenerationConfig
from mimo_mobile.runtime.text.chat_template import CLOSE_THINKING, Message, MessageLike, encode_messages
from mimo_mobile.runtime.text.tokenizer import TextTokenizer

logger = logging.getLogger(__name__)

AT_ONCE = 8
"""So many problems a server is asked at the same time; one that has too much to do says so, or lets them wait."""

LOOK_S = 0.5
"""Python sees a Ctrl-C that came just before it began to wait only when that wait ends, so that none is longer."""

TOLD = {"prompt": 20, "next": 512}
"""So many of the likeliest tokens a server is asked for: vLLM allows 20 unless its operator says otherwise."""

Way = Literal["prompt", "next"]
"""Whether a server tells its predictions for all tokens of a prompt, or for the next token alone."""

_SEEDS = 2**31
"""llama-server's seeds have 32 bits, and some servers take no negative ones."""

_LARGEST_ID = 2**31 - 1

_TEXT = "".join(each.text + "\n" for each in texts.prompts("evaluation")[:5])
"""On this text server and checkpoint must count the same tokens. It is of all kinds."""

_NO_SUCH = (400, 404, 405, 422, 501)
"""The statuses by which a server says that it does not know what was asked for."""


class ServedModel:
    """A server's model beside the checkpoint that it was loaded from.

    Attributes:
        endpoint: The server.
        tokenizer: The checkpoint's.
        context_length: The checkpoint's; what the server leaves of it shows when it is asked.
        has_chat_template: Whether the checkpoint has a chat template.
    """

    def __init__(self, endpoint: Endpoint, checkpoint: Checkpoint) -> None:
        """Ask nothing yet."""
        self.endpoint = endpoint
        self.tokenizer = TextTokenizer.from_file(checkpoint.path / TOKENIZER)
        self.context_length = checkpoint.config.max_position_embeddings
        self._template = checkpoint.vocabulary.chat_template
        self._vocabulary = checkpoint.config.vocab_size
        self.has_chat_template = self._template is not None

    @property
    def name(self) -> str:
        """The model's name there, and the server's address.

        Raises:
            EndpointError: The server cannot be asked, or has several models or none.
        """
        return f"{self.endpoint.model} at {self.endpoint.name}"

    def encode_prompt(self, prompt: str | Sequence[MessageLike], config: GenerationConfig) -> list[int]:
        """Token ids of a prompt, by the checkpoint's chat template.

        Raises:
            SessionError: The checkpoint has none, or it refuses the messages.
        """
        if isinstance(prompt, str):
            return self.tokenizer.encode(prompt)
        if self._template is None:
            raise SessionError("this checkpoint has no chat template")
        return encode_messages(self._template, prompt, self.tokenizer, thinking=config.thinks)

    def generate(
        self, prompt: str | Sequence[MessageLike], config: GenerationConfig
    ) -> Generator[GeneratedToken, None, None]:
        """The tokens of an answer, as the checkpoint's tokenizer cuts it, with the tags that MiMo puts around thinking.

        Raises:
            EndpointError: The server cannot be reached, refuses, or answers something else.
        """
        text, last = _answer(self.endpoint, prompt, config)
        whole = text["answer"]
        if text["thinking"]:
            closed = last.channel == "answer"
            whole = f"{THINK_OPEN}\n{text['thinking']}" + (f"{CLOSE_THINKING}{whole}" if closed else "")
        for token in self.tokenizer.encode(_limited(whole, config))[: config.max_tokens]:
            yield GeneratedToken("", token, "answer")

    def check(self) -> None:
        """See that the server makes a prompt of a question as the checkpoint does; a warning says if it does not.

        Raises:
            EndpointError: It cannot be reached, or refuses.
        """
        asked, config = [Message("user", _TEXT)], GenerationConfig(temperature=0, max_tokens=1)
        *_, last = self.endpoint.generate(asked, config)
        ours = len(self.encode_prompt(asked, config)) if self.has_chat_template else 0
        if last.stats is not None and ours and last.stats.prompt_tokens != ours:
            logger.warning(
                "%s: a question becomes a prompt of %d tokens there, and of %d by the checkpoint; another model is"
                " there, or another chat template",
                self.endpoint.name,
                last.stats.prompt_tokens,
                ours,
            )

    def way(self) -> Way | str:
        """How the server tells its predictions, or else why it does not.

        Raises:
            BadArgumentError: It has another tokenizer than the checkpoint.
            EndpointError: It cannot be reached, or fails.
        """
        asked = {"prompt": _TEXT, "max_tokens": 1, "temperature": 0, "logprobs": 1}
        try:
            try:
                found = self._ask({**asked, "prompt_logprobs": 1})
            except EndpointError as error:
                if error.status not in _NO_SUCH:
                    raise
                found = self._ask(asked)  # some servers refuse what they do not know
        except EndpointError as error:
            if error.status not in _NO_SUCH:
                raise
            return f"the server says nothing of its predictions: {error}"
        self._check_tokenizer(found)
        with self._forms("predictions"):
            choice = found["choices"].items(1, 1)[0]
            if choice.get("prompt_logprobs") is not None:
                return "prompt"
            logprobs = choice.get("logprobs")
            content = logprobs.get("content") if logprobs else None
            if content is not None and content.items(1)[0].get("id") is not None:
                return "next"
        return "the server tells the ids of likely tokens neither for prompts nor for what comes next"

    def predictions(self, way: Way, window: Window) -> TopRows:
        """What the server predicts for a window: of each row the likeliest tokens, as many as it tells.

        ``target_log_probs`` is NaN where the following token is not among them.

        Raises:
            EndpointError: It cannot be reached, fails, or answers something else.
        """
        with self._forms("predictions"):
            rows = self._of_prompt(window) if way == "prompt" else self._of_next(window)
            return self._joined(list(rows), window.targets)

    @contextmanager
    def _forms(self, what: str) -> Iterator[None]:
        """Values of another form than expected become an EndpointError."""
        try:
            yield
        except ValueError as error:
            raise EndpointError(f"{self.endpoint.name}: {what} have another form than expected: {error}") from error

    def _ask(self, body: Mapping[str, object]) -> Value:
        return self.endpoint.ask("/completions", {"model": self.endpoint.model, **body})

    def _check_tokenizer(self, found: Value) -> None:
        with self._forms("numbers of tokens"):
            if (usage := found.get("usage")) is None:
                return
            theirs, ours = usage["prompt_tokens"].integer(), len(self.tokenizer.encode(_TEXT))
        if theirs != ours:
            raise BadArgumentError(
                f"{self.endpoint.name}: it cuts a text into {theirs} tokens, the checkpoint into {ours}; name the"
                " checkpoint that the server runs"
            )

    def _of_prompt(self, window: Window) -> Iterator[dict[int, float]]:
        """The form of vLLM: for each token of the prompt, log probabilities by ids, its own among them."""
        body = {"prompt": list(window.ids), "max_tokens": 1, "temperature": 0, "prompt_logprobs": TOLD["prompt"]}
        rows = self._ask(body)["choices"].items(1, 1)[0]["prompt_logprobs"].items(len(window.ids), len(window.ids))
        for row in rows[window.first + 1 :]:
            yield {int(name): _log_prob(each) for name, each in row.fields().items() if _is_id(name)}

    def _of_next(self, window: Window) -> Iterator[dict[int, float]]:
        """The form of llama-server: the likeliest tokens that come next; the beginning of a prompt is cached.

        The token itself is a digit each time, which leaves the predictions as they are. With a part of a character
        llama-server would go on, and tell the predictions of the token after it.
        """
        digit = {str(self.tokenizer.encode("0")[0]): 100}
        asked = {"max_tokens": 1, "temperature": 0, "logprobs": TOLD["next"], "logit_bias": digit, "cache_prompt": True}
        for end in range(window.first + 1, len(window.ids)):
            found = self._ask({**asked, "prompt": list(window.ids[:end])})
            found["usage"]["completion_tokens"].integer(1, 1)
            told = found["choices"].items(1, 1)[0]["logprobs"]["content"].items(1, 1)[0]["top_logprobs"].items(1)
            yield {each["id"].integer(0, _LARGEST_ID): _log_prob(each) for each in told}

    def _joined(self, rows: Sequence[Mapping[int, float]], targets: Sequence[int]) -> TopRows:
        for row in rows:
            if not row or min(row) < 0 or max(row) >= self._vocabulary:
                raise ValueError(f"token ids below {self._vocabulary} expected")
        ordered = [sorted(row.items(), key=lambda each: (-each[1], each[0])) for row in rows]
        return TopRows(
            self._vocabulary,
            np.cumsum([0, *map(len, ordered)]),
            np.array([token for row in ordered for token, _ in row], np.uint32),
            np.array([log_prob for row in ordered for _, log_prob in row], np.float32),
            np.array([max(0.0, 1 - sum(np.exp(log_prob) for _, log_prob in row)) for row in ordered]),
            np.array(targets, np.int64),
            np.array([row.get(target, np.nan) for row, target in zip(rows, targets, strict=True)]),
        )


def answer_all(
    served: ServedModel,
    problems: Sequence[Problem],
    seed: int | None,
    max_tokens: int,
    *,
    stage: str,
    progress: ProgressCallback = ignore,
) -> list[Reply]:
    """The server's replies to every problem, by its own chat template: greedily, or by a seed's random numbers.

    Thinking is counted in the checkpoint's tokens, its tags included. A failure closes the endpoint.

    Raises:
        EndpointError: The server cannot be reached, refuses, or answers something else.
    """
    replies: dict[int, Reply] = {}
    with ThreadPoolExecutor(min(AT_ONCE, max(1, len(problems)))) as pool:
        try:
            places = {
                pool.submit(_reply, served, problem, _config(seed, place, max_tokens)): place
                for place, problem in enumerate(problems)
            }
            left = set(places)
            while left:
                done, left = wait(left, LOOK_S, FIRST_COMPLETED)
                for task in done:
                    replies[places[task]] = task.result()
                    progress(Progress(stage, len(replies), len(problems), unit="problems"))
        except BaseException:  # Ctrl-C among them
            served.endpoint.close()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [replies[place] for place in range(len(problems))]


def _config(seed: int | None, place: int, max_tokens: int) -> GenerationConfig:
    """How a problem is asked; each has random numbers of its own."""
    if seed is None:
        return GenerationConfig(temperature=0, max_tokens=max_tokens)
    return GenerationConfig(seed=((seed << 16) + place) % _SEEDS, max_tokens=max_tokens)


def _reply(served: ServedModel, problem: Problem, config: GenerationConfig) -> Reply:
    text, last = _answer(served.endpoint, [Message("user", problem.question)], config)
    unclosed = last.finish_reason == "length" and last.channel == "thinking"
    thought = f"{THINK_OPEN}\n{_limited(text['thinking'], config)}" + ("" if unclosed else f"\n{THINK_CLOSE[:-1]}")
    tokens = len(served.tokenizer.encode(thought)) if text["thinking"] else 0
    right = text["answer"].strip() == problem.answer
    return Reply(problem.kind, right, (), 0.0, 0, 0, tokens, unclosed)


def _answer(
    endpoint: Endpoint, prompt: str | Sequence[MessageLike], config: GenerationConfig
) -> tuple[dict[str, str], GeneratedToken]:
    """Thinking and answer, and the last record.

    Raises:
        Cancelled: The endpoint was closed meanwhile.
        EndpointError: The server cannot be reached, refuses, or answers something else.
    """
    text = {"thinking": "", "answer": ""}
    for last in endpoint.generate(prompt, config):
        text[last.channel] += last.text
    if last.finish_reason == "cancelled":
        raise Cancelled
    return text, last


def _limited(text: str, config: GenerationConfig) -> str:
    """A text as long as so many tokens may be; of a server that sends more, minutes would go into cutting all of it."""
    assert config.max_tokens is not None
    return text[: texts.LONGEST_TOKEN * config.max_tokens]


def _log_prob(found: Value) -> float:
    """A natural logarithm of a probability, which rounding may make a little larger than 0."""
    return min(0.0, found["logprob"].number(most=0.01))


def _is_id(name: str) -> bool:
    if not (name.isascii() and name.isdigit() and len(name) < 11):
        raise ValueError(f"token id {name[:20]!r} found")
    return True
