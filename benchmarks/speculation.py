"""Decoding with drafts against decoding without, at every acceptance from 0 to 1: what `auto` must never lose.

Run ``python -m benchmarks.speculation MODEL``, best on random weights of MiMo-7B's shapes. There no draft is ever
right, so acceptance is made: trunk and MTP layer run as always, and what they would have said is replaced by a script,
from which the drafts depart as often as a random number says. Both sides run alternately in one process.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast, get_args

import click
import numpy as np
from numpy.typing import NDArray

from mimo_mobile import terminal
from mimo_mobile.runtime import GenerationConfig, Model, load
from mimo_mobile.runtime.backend import Backend
from mimo_mobile.runtime.decode.mtp_head import MtpHead, MtpLayer
from mimo_mobile.runtime.decode.pace import Costs
from mimo_mobile.runtime.decode.speculator import Speculator
from mimo_mobile.runtime.load_config import Speculate

PROMPT = list(range(100, 132))


@dataclass(frozen=True, slots=True)
class Point:
    """One acceptance."""

    acceptance: float
    drafted: int
    accepted: int
    speedup: float


class Script:
    """The text that comes out, whatever the model says: rounding would decide between random weights' equal logits."""

    def __init__(self, tokens: int, vocabulary: int) -> None:
        """Draw ``tokens`` ids, no three of which stand in the same order twice."""
        random = np.random.Generator(np.random.PCG64(1))
        self.ids = [*PROMPT, *random.integers(0, vocabulary, tokens + 64).tolist()]


class ScriptedBackend:
    """A backend that does all its work, and in whose logits the script's tokens are then the largest."""

    def __init__(self, inner: Backend, script: Script) -> None:
        """Stand in for ``inner``."""
        self._inner, self._script = inner, script
        self.mtp: MtpHead | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def decode(
        self, ids: Sequence[int], position: int, cancel: threading.Event, rows: int = 1, padding: int = 0
    ) -> NDArray[np.float32]:
        """The logits of the inner one, changed."""
        logits = self._inner.decode(ids, position, cancel, rows, padding).copy()
        first = position + len(ids) - rows + 1
        for row in range(rows):
            logits[row, self._script.ids[first + row]] = np.finfo(np.float32).max
        return logits


class ScriptedHead(MtpHead):
    """An MTP layer that does all its work, and whose drafts are right as often as wanted."""

    def __init__(self, layer: MtpLayer, script: Script) -> None:
        """Draft by ``script``."""
        super().__init__(layer)
        self._script, self.acceptance = script, 1.0
        self._random = np.random.Generator(np.random.PCG64(0))

    def draft(self, position: int, token: int) -> NDArray[np.float32]:
        """Logits in which the wanted token is the largest."""
        logits = super().draft(position, token).copy()
        following = self._script.ids[position + 1]
        right = self._random.random() < self.acceptance
        index = int(np.searchsorted(self.draft_ids, following))
        logits[index if right else (index + 1) % len(logits)] = np.finfo(np.float32).max
        return logits


def scripted(model: Model, tokens: int) -> tuple[Model, ScriptedHead]:
    """A model that computes as ``model`` does and says a script."""
    with model.exclusive() as backend:
        if backend.mtp is None:
            raise click.UsageError("the model has no MTP layer")
        script = Script(tokens, 1000)
        head = ScriptedHead(backend.mtp.layer, script)
        backend.mtp = head  # type: ignore[misc]  # read-only to sessions; the backend shows it all hidden states
        proxy = ScriptedBackend(backend, script)
        proxy.mtp = head
        return Model(cast(Backend, proxy), model.tokenizer, speculator=model.speculator), head


def sweep(
    model: Model, head: ScriptedHead, mode: Speculate, acceptances: Sequence[float], tokens: int, rounds: int
) -> list[Point]:
    """Speed with drafts over speed without, at each acceptance: over all rounds, which are short and in turns."""
    plain = GenerationConfig(temperature=0, max_tokens=tokens, speculate=False)
    drafting = GenerationConfig(temperature=0, max_tokens=tokens)
    assert model.speculator is not None
    costs: Costs = model.speculator.costs
    points = []
    for acceptance in acceptances:
        head.acceptance = acceptance
        model.speculator = Speculator(mode, costs, head)  # what was learnt at another acceptance is forgotten
        seconds, drafted, accepted = {True: 0.0, False: 0.0}, 0, 0
        for number in range(rounds):
            for config in (plain, drafting) if number % 2 else (drafting, plain):
                stats = list(model.generate(PROMPT, config))[-1].stats
                assert stats is not None
                seconds[config.speculate] += (stats.generated_tokens - 1) / stats.decode_tps
                drafted, accepted = drafted + stats.drafted_tokens, accepted + stats.accepted_tokens
        points.append(Point(acceptance, drafted, accepted, seconds[False] / seconds[True]))
        click.echo(f"{mode}: {points[-1]}", err=True)
    return points


def plot(points: Mapping[Speculate, list[Point]], file: Path) -> None:
    """Speed-up against acceptance."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    for mode, line in points.items():
        axis.plot([each.acceptance for each in line], [each.speedup for each in line], "-o", label=mode)
    axis.axhline(1, color="grey", linewidth=1)
    axis.set(xlabel="share of drafts that are right", ylabel="tokens/s over decoding without drafts")
    axis.grid(alpha=0.3)
    axis.legend()
    figure.savefig(file, dpi=130)


@click.command()
@click.argument("model", type=click.Path(exists=True, path_type=Path))
@click.option("--modes", default="auto,mtp", show_default=True)
@click.option("--acceptances", default="0,0.1,0.3,0.5,0.7,0.9,1", show_default=True)
@click.option("--tokens", default=48, show_default=True, help="Of each generation.")
@click.option("--rounds", default=10, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("out/bench"), show_default=True)
def main(model: Path, modes: str, acceptances: str, tokens: int, rounds: int, out: Path) -> None:
    """Print a table, and write speculation.json and speculation.png to OUT."""
    out.mkdir(parents=True, exist_ok=True)
    steps = [float(each) for each in acceptances.split(",")]
    drafting: list[Speculate] = [mode for mode in get_args(Speculate) if mode in modes.split(",")]
    with load(model, speculate="mtp", context_length=1024) as loaded:
        saying, head = scripted(loaded, tokens)
        points = {mode: sweep(saying, head, mode, steps, tokens, rounds) for mode in drafting}
        assert loaded.speculator is not None
        costs = loaded.speculator.costs
    step = costs.rows_s[0]
    click.echo(
        f"{model.name}: a step takes {1e3 * step:.1f} ms, of 2…8 rows "
        + ", ".join(f"{seconds / step:.2f}" for seconds in costs.rows_s[1:])
        + f" steps; a draft {costs.draft_s / step:.2f}"
    )
    rows = [
        (str(each.acceptance), *(f"{points[mode][index].speedup:.2f}" for mode in points))
        for index, each in enumerate(next(iter(points.values())))
    ]
    terminal.table("tokens/s over decoding without drafts", ("drafts right", *points), rows)
    record = {
        "model": model.name,
        "costs": asdict(costs),
        "points": {m: [asdict(p) for p in line] for m, line in points.items()},
    }
    (out / "speculation.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    plot(points, out / "speculation.png")
    click.echo(f"{out / 'speculation.json'}, {out / 'speculation.png'}")


if __name__ == "__main__":
    main()
