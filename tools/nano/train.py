"""Train MiMo-nano from nothing and write its checkpoint folder.

Run as ``python -m tools.nano.train``; the README beside this file says how long it takes and what comes out.
"""

from __future__ import annotations

import json
import math
import time
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import click
import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional

from tools.nano import checkpoint, tokenizer
from tools.nano.conversations import Sample, prompt, reply, samples
from tools.nano.problems import Problem, held_out, stream
from tools.nano.quantization_noise import int4_weights

TRAINING_SEED, HELD_OUT_SEED, DEVELOPMENT_SEED = 20261124, 7001, 7002
HELD_OUT_EACH = 60
CORPUS = 40_000
POOL = 2048
"""Samples to choose from when a row is filled."""

WIDTH = 448
"""Tokens of a row; a longer sample is left out."""

MTP_WEIGHT = 0.3
"""As in MiMo-7B's pretraining (arXiv 2505.07608, section 2)."""

WEIGHTS: dict[str, float] = {"multiplication": 1.6, "loop": 1.4, "fraction": 1.2, "chain": 1.4}


@dataclass(frozen=True, slots=True)
class Batch:
    """`[B, T]` ids, for each whether it is learnt, and `[B, 1, T, T]` which earlier ones it may look at."""

    ids: Tensor
    learnt: Tensor
    mask: Tensor


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("src/mimo_mobile/nano"), show_default=True)
@click.option("--steps", default=2600, show_default=True)
@click.option("--rows", default=20, show_default=True)
@click.option("--learning-rate", default=2e-3, show_default=True)
@click.option("--noise-from", default=0.6, show_default=True, help="Share of the steps after which int4 noise begins.")
@click.option("--log", type=click.Path(path_type=Path), default=Path("tools/nano/curve.jsonl"), show_default=True)
@click.option("--resume", type=click.Path(path_type=Path), help="State of an interrupted run (OUT is left alone).")
@click.option("--state", type=click.Path(path_type=Path), default=Path("build/nano.pt"), show_default=True)
def main(
    out: Path, steps: int, rows: int, learning_rate: float, noise_from: float, log: Path, resume: Path | None,
    state: Path,
) -> None:  # fmt: skip
    """Train MiMo-nano from nothing and write its checkpoint folder."""
    from tools.nano.model import Mimo

    torch.manual_seed(TRAINING_SEED)
    out.mkdir(parents=True, exist_ok=True)
    state.parent.mkdir(parents=True, exist_ok=True)
    words = prepare(out)
    avoided = held_out(HELD_OUT_SEED, HELD_OUT_EACH) + held_out(DEVELOPMENT_SEED, 12)
    avoid = {(problem.kind, problem.key) for problem in avoided}
    development = held_out(DEVELOPMENT_SEED, 12)
    model = Mimo(checkpoint.CONFIG)
    click.echo(f"{sum(weight.numel() for weight in model.parameters()):,} parameters")
    decayed = [weight for weight in model.parameters() if weight.dim() == 2]
    others = [weight for weight in model.parameters() if weight.dim() != 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}],
        lr=learning_rate, betas=(0.9, 0.95), fused=True,
    )  # fmt: skip
    first = 0
    if resume:
        saved = torch.load(resume, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        first = saved["step"]
    forward = torch.compile(model)
    source = samples(TRAINING_SEED + first, words, avoid, WEIGHTS)
    stream_of = batches((s for s in source if len(s.ids) <= WIDTH), rows)
    started, tokens = time.monotonic(), 0
    for step in range(first, steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * schedule(step, steps)
        batch = next(stream_of)
        noisy = step >= noise_from * steps and step % 2 == 1
        with int4_weights(model, ("absmax", "q4_0")[step // 2 % 2] if noisy else None):
            with torch.autocast("cpu", torch.bfloat16):
                loss, mtp_loss = losses(model, forward(batch.ids, batch.mask), batch)
            (loss + MTP_WEIGHT * mtp_loss).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        tokens += int((batch.mask[:, 0].diagonal(dim1=1, dim2=2) & (batch.ids != checkpoint.CONFIG.bos_token_id)).sum())
        if step % 50 == 49:
            record = {"step": step + 1, "tokens": tokens, "seconds": round(time.monotonic() - started),
                      "loss": round(loss.item(), 4), "mtp_loss": round(mtp_loss.item(), 4)}  # fmt: skip
            if step % 250 == 249 or step + 1 == steps:
                record |= evaluate(model, words, development)
                torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1}, state)
                checkpoint.save_weights(model.state_dict(), out)
            click.echo(json.dumps(record))
            with log.open("a", encoding="utf-8") as handle:
                handle.write(json.dumps(record) + "\n")


def prepare(out: Path) -> Tokenizer:
    """The tokenizer, learnt anew; with configuration and held-out problems it is written to ``out``."""
    corpus = (text for problem in islice(stream(1), CORPUS) for text in (prompt(problem.question), reply(problem)))
    words = tokenizer.train(corpus)
    tokenizer.save(words, out)
    checkpoint.save_config(out)
    checkpoint.save_held_out(held_out(HELD_OUT_SEED, HELD_OUT_EACH), out)
    return words


def schedule(step: int, steps: int) -> float:
    """Share of the learning rate: a short warm-up, then a cosine to one fiftieth."""
    warm = min(1.0, (step + 1) / 100)
    return warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))


def batches(source: Iterator[Sample], rows: int) -> Iterator[Batch]:
    """Batches of ``rows`` rows of ``WIDTH`` tokens, each filled with whole samples that do not see each other."""
    pool = sorted(islice(source, POOL), key=lambda sample: len(sample.ids))
    while True:
        ids = torch.full((rows, WIDTH), checkpoint.CONFIG.bos_token_id or 0)
        learnt = torch.zeros((rows, WIDTH), dtype=torch.bool)
        owner = torch.full((rows, WIDTH), -1)
        for row in range(rows):
            used = 0
            # A random sample first, then the longest that still fits: little is left over.
            index = int(torch.randint(len(pool), ()).item())
            while index >= 0:
                sample = pool.pop(index)
                end = used + len(sample.ids)
                ids[row, used:end] = torch.tensor(sample.ids)
                learnt[row, used:end] = torch.tensor(sample.learnt)
                owner[row, used:end] = used
                used = end
                index = bisect_right(pool, WIDTH - used, key=lambda sample: len(sample.ids)) - 1
        pool = sorted([*pool, *islice(source, POOL - len(pool))], key=lambda sample: len(sample.ids))
        same = owner[:, None, :, None] == owner[:, None, None, :]
        yield Batch(ids, learnt, same & torch.ones(WIDTH, WIDTH, dtype=torch.bool).tril())


def losses(model: torch.nn.Module, outputs: tuple[Tensor, Tensor], batch: Batch) -> tuple[Tensor, Tensor]:
    """Cross entropy of the next token and of the MTP layer's token after it, learnt tokens only."""
    hidden, drafted = outputs
    found = []
    for states, ahead in ((hidden[:, :-1], 1), (drafted[:, :-1], 2)):
        chosen = batch.learnt[:, ahead:]
        rows = states[chosen]
        logits = model.lm_head(model.model.norm(rows) if ahead == 1 else rows)
        found.append(functional.cross_entropy(logits.float(), batch.ids[:, ahead:][chosen]))
    return found[0], found[1]


@torch.no_grad()
def evaluate(model: torch.nn.Module, words: Tokenizer, problems: list[Problem]) -> dict[str, object]:
    """Share of problems whose every token is the greedy choice, by kind; MTP's first draft right; the same in int4.

    A reply of which every token is the first choice given those before it is the greedy reply: no generation.
    """
    report: dict[str, object] = {}
    for name, grid in (("", None), ("_int4", "q4_0")):
        right: dict[str, list[bool]] = {}
        drafts = torch.zeros(2)
        with int4_weights(model, grid):
            for problem in problems:
                start = words.encode(prompt(problem.question)).ids
                whole = start + words.encode(reply(problem)).ids
                ids = torch.tensor([whole])
                with torch.autocast("cpu", torch.bfloat16):
                    hidden, drafted = model(ids)
                    top = model.lm_head(model.model.norm(hidden[0, :-1])).argmax(-1)
                    draft = model.lm_head(drafted[0, :-1]).argmax(-1)
                right.setdefault(problem.kind, []).append(bool((top == ids[0, 1:])[len(start) - 1 :].all()))
                hits = (draft == ids[0, 2:])[len(start) - 1 :]
                drafts += torch.tensor([hits.sum(), hits.numel()])
        flat = [each for kind in right.values() for each in kind]
        report[f"exact{name}"] = round(sum(flat) / len(flat), 4)
        report[f"kinds{name}"] = {kind: round(sum(each) / len(each), 2) for kind, each in right.items()}
        report[f"mtp{name}"] = round((drafts[0] / drafts[1]).item(), 4)
    return report


if __name__ == "__main__":
    main()
