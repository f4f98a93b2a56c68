"""The command ``mimo eval``: how good a model is, on a text and by its answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mimo_mobile.cli_endpoint import EndpointCommand, endpoint_of, endpoint_options
from mimo_mobile.cli_options import load_config, reading_options

if TYPE_CHECKING:
    from mimo_mobile.quantize.measures import Share
    from mimo_mobile.quantize.quality import Quality


LEAST_TOKENS = 64
"""Fewer would tell nothing."""


@click.command("eval", cls=EndpointCommand)
@click.argument("model", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--against",
    help="What MODEL is compared with: nano, a checkpoint's folder or hub id, a .gguf file or an ONNX folder.",
)
@click.option(
    "--text",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A text file to read, in windows of 512 tokens as llama-perplexity does [default: the model's own answers].",
)
@click.option(
    "--tokens",
    type=click.IntRange(min=0),
    default=4096,
    show_default=True,
    help="How many tokens are read at most; they set how long a checkpoint's reference takes.",
)
@click.option(
    "--problems",
    type=click.IntRange(min=0),
    help="How many problems MODEL answers; 0 is none [default: all that the checkpoint brings, or 5 prompts of ours].",
)
@click.option(
    "--seeds",
    type=click.IntRange(min=0),
    default=1,
    show_default=True,
    help="How often each is answered with sampling.",
)
@click.option(
    "--max-tokens", type=click.IntRange(min=1), default=512, show_default=True, help="Longer answers are cut off."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@endpoint_options()
@reading_options
def evaluate(as_json: bool, model: Path | None = None, **options: Any) -> None:
    """Measure how good MODEL is: a .gguf file, an ONNX folder or a quantized folder, ours or a peer's.

    It prints perplexity; with --against the KL divergence from the other model's predictions and the share of the same
    likeliest token; how long it thinks; how many of the checkpoint's held-out problems it answers rightly; how
    often its MTP layer drafts right. What a checkpoint predicts is computed once for each text, and kept in the cache.

    With --endpoint a server is measured that runs the checkpoint --against: its answers, and perplexity and a lower
    bound of the KL divergence where it tells likely tokens with their ids. --tokens 0 leaves these out.
    """
    from mimo_mobile import terminal
    from mimo_mobile.quantize.quality import Job, measure_endpoint, measure_quality

    server = endpoint_of(options)
    if options["tokens"] < LEAST_TOKENS and (server is None or options["tokens"]):
        raise click.UsageError(f"--tokens must be {LEAST_TOKENS} or more" + (", or 0" if server else ""))
    job = Job(load_config(options), **options)
    with terminal.progress_shown() as progress, server or nullcontext():
        if server is None:
            assert model is not None  # click asks for MODEL where no server is named
            found = measure_quality(model, job, progress)
        else:
            found = measure_endpoint(server, job, progress)
    if as_json:
        terminal.print_json(dataclasses.asdict(found))
    else:
        read = f"  ({found.tokens} tokens of {found.text})" if found.tokens else ""
        terminal.table(f"{found.model}{read}", ("figure", "value"), list(_rows(found)))
        if found.unavailable is not None:
            terminal.tell(f"There is no perplexity or KL divergence: {found.unavailable}.")


def _rows(found: Quality) -> Iterator[tuple[str, str]]:
    unknown = found.excerpt.unknown if found.excerpt else 0
    if found.perplexity is not None:
        yield "perplexity" + (", at least" if unknown else ""), f"{found.perplexity:.4f}"
    if (apart := found.divergence) is not None:
        yield f"perplexity of {found.against}", f"{apart.reference_perplexity:.4f}"
        least = f", at least (by {found.excerpt.likeliest} tokens)" if found.excerpt else ""
        yield f"mean KL divergence{least}", f"{apart.mean_kld:.6f} ± {apart.mean_kld_error:.6f}"
        if not least:
            yield "median KL divergence", f"{apart.median_kld:.6f}"
            yield "99 % stay below", f"{apart.p99_kld:.6f}"
        yield "same likeliest token", f"{100 * apart.same_top:.2f} % of {apart.tokens}"
    if (thought := found.thinking) is not None:
        yield "tokens of thinking, mean", f"{thought.mean_tokens:.1f} in {thought.answers} answers"
        yield "tokens of thinking, median", f"{thought.median_tokens:.1f}"
        yield "thinking not closed", f"{100 * thought.unclosed:.1f} %"
    if found.greedy is not None:
        yield "exact match, greedy", _share(found.greedy)
    if found.sampled is not None:
        yield f"exact match, {found.sampled.seeds} sampled", _share(found.sampled)
    if found.drafts is not None:
        yield "drafts that were right", f"{100 * found.drafts.acceptance:.2f} % of {found.drafts.tokens}, greedy"


def _share(found: Share) -> str:
    interval = f"{100 * found.low:.1f} … {100 * found.high:.1f} %"
    return f"{100 * found.share:.1f} % of {found.problems} (95 % interval {interval})"
