"""What all requests for text have in common: which fields there are, and what the runtime makes of them."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mimo_mobile.runtime.generation_config import LEAST_TEMPERATURE, GenerationConfig
from mimo_mobile.runtime.server.errors import BAD_REQUEST, RequestError
from mimo_mobile.untrusted import printable

MOST_CHOICES, MOST_STOPS = 8, 16

MOST_PLACE = 200
"""Characters of the name of a wrong field that a message shows."""

IGNORED = frozenset(
    {"metadata", "name", "prompt_cache_key", "refusal", "safety_identifier", "service_tier"}
    | {"store", "user", "verbosity"}
)
"""What clients send along and what changes no answer."""

NEUTRAL: dict[str, tuple[object, ...]] = {
    "audio": (), "best_of": (1,), "function_call": (), "functions": (), "modalities": (["text"],),
    "prediction": (), "reasoning_effort": (), "suffix": ("",), "web_search_options": (),
}  # fmt: skip
"""What OpenAI's API has and this server has not, with the values, beside null, that ask for nothing."""

TokenId = Annotated[str, Field(pattern=r"^[0-9]{1,9}$")]

StopText = Annotated[str, Field(min_length=1)]


class Body(BaseModel):
    """An object whose fields are all known, each of exactly its type."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _without_what_asks_for_nothing(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        for name in NEUTRAL.keys() & given.keys() - cls.model_fields.keys():
            if given[name] is not None and given[name] not in NEUTRAL[name]:
                raise ValueError(f"{name} is not supported by this server; leave it out")
        passed_over = (NEUTRAL.keys() | IGNORED) - cls.model_fields.keys()
        return {name: value for name, value in given.items() if name not in passed_over}


class StreamOptions(Body):
    """What a stream tells beside the text."""

    include_usage: bool | None = None
    """Whether a last chunk without choices tells the usage."""
    include_obfuscation: bool | None = None
    """It has no effect: nothing is padded."""


class TextRequest(Body):
    """What says how a text is generated, and sent."""

    model: str
    """The name of the model, as /v1/models tells it."""
    stream: bool | None = None
    """Whether the text is sent as it comes."""
    stream_options: StreamOptions | None = None
    """What a stream tells beside the text."""
    n: Annotated[int, Field(ge=1, le=MOST_CHOICES)] | None = None
    """How many answers to give."""
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    """How freely tokens are sampled; 0 takes the most likely one each time."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    """Only the most likely tokens that together reach this probability are sampled from."""
    top_k: Annotated[int, Field(ge=0)] | None = None
    """Only so many of the most likely tokens are sampled from; 0 is off."""
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    """Only tokens at least this share as likely as the most likely one are sampled from."""
    seed: Annotated[int, Field(ge=0)] | None = None
    """The same seed draws the same random numbers."""
    stop: StopText | Annotated[list[StopText], Field(max_length=MOST_STOPS)] | None = None
    """The answer ends before any of these texts."""
    repetition_penalty: Annotated[float, Field(gt=0)] | None = None
    """Logits of tokens that were said are divided by this where they are above 0, and else multiplied with it."""
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    """What is subtracted from the logits of tokens that the answer or its thinking holds already."""
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    """What is subtracted from them as often as the token occurs there."""
    logit_bias: dict[TokenId, Annotated[float, Field(ge=-100, le=100)]] | None = None
    """What is added to the logits of tokens, by their ids."""

    def generation_configs(self, most_tokens: int | None, **more: Any) -> list[GenerationConfig]:
        """How to generate each of the answers, of at most so many tokens; fields of ``more`` that are None say nothing.

        Raises:
            BadArgumentError: A value is out of its range.
        """
        temperature = self.temperature
        if temperature is not None and temperature < LEAST_TEMPERATURE:
            temperature = 0.0  # which a smaller one comes to
        given: dict[str, Any] = {
            "temperature": temperature, "top_p": self.top_p, "top_k": self.top_k, "min_p": self.min_p,
            "max_tokens": most_tokens, "stop": [self.stop] if isinstance(self.stop, str) else self.stop,
            "repetition_penalty": self.repetition_penalty, "presence_penalty": self.presence_penalty,
            "frequency_penalty": self.frequency_penalty,
            "logit_bias": {int(token): float(bias) for token, bias in (self.logit_bias or {}).items()} or None,
            **more,
        }  # fmt: skip
        given = {name: float(value) if name in _FLOATS else value for name, value in given.items() if value is not None}
        seeds = [None if self.seed is None else self.seed + place for place in range(self.n or 1)]
        return [GenerationConfig(**given, seed=seed) for seed in seeds]


_FLOATS = ("temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty")

Request = TypeVar("Request", bound=Body)


def request_of(kind: type[Request], value: object) -> Request:
    """The request that a JSON value stands for.

    Raises:
        RequestError: It is none; the message names the first field that is wrong.
    """
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        said = {"extra_forbidden": "there is no such field; /openapi.json lists those that there are"}.get(
            first["type"], first["msg"].removeprefix("Value error, ")
        )
        place = printable(".".join(map(str, first["loc"]))[:MOST_PLACE])
        raise RequestError(BAD_REQUEST, f"{place}: {said}" if place else said, "invalid_value") from error
