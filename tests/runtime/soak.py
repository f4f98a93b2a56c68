"""Eight threads that use one model at random: ``python -m tests.runtime.soak MODEL SECONDS [SPECULATE [REQUESTS]]``.

Exits with 0 when nothing was wrong. What must hold: only our own errors come out, a greedy generation that ends by
itself has the text that it has alone, nothing hangs (a watchdog shows all stacks and ends the process), and memory does
not grow. Models are closed under whoever uses them, and loaded again. At least REQUESTS operations are done, however
long they take. With 0 for SECONDS models have a queue, in which no thread is told that a model is busy.
"""

from __future__ import annotations

import faulthandler
import json
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mimo_mobile.errors import Cancelled, SessionError
from mimo_mobile.runtime import GeneratedToken, GenerationConfig, LoadConfig, Message, Model, Session, load

THREADS, MODELS, SESSIONS = 8, 2, 3
PATIENCE = 40
"""So often a thread asks again when a model is busy."""
HANG_S = 60.0
"""An operation takes some milliseconds; one that takes so long hangs."""
GROWTH_BYTES = 64_000_000
LEAST = 25
"""So many operations are done, however long that takes beside other work."""

QUESTIONS = ("What is 348 + 27 * 6?", "Solve 7x + 12 = 3x + 52.", "What is 779 - 343?", "What is 5 + 5 + 5 + 5?")
PROMPTS = tuple([Message("user", question)] for question in QUESTIONS)
GREEDY = GenerationConfig(temperature=0, max_tokens=24)
WARM = GenerationConfig(temperature=0.9, max_tokens=12)


class Meddling:
    """A constraint that allows everything, and ends the generation or the model from within a run now and then."""

    def __init__(self, model: Model, dice: random.Random) -> None:
        self._model, self._dice = model, dice

    def mask(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        fate = self._dice.random()
        if fate < 0.02:
            self._model.cancel()
        elif fate < 0.022:
            self._model.close()
        return logits.copy()

    def accept(self, token: int) -> None:
        if self._dice.random() < 0.01:
            self._model.cancel()


class Soak:
    """One model after the other under random use."""

    def __init__(self, path: Path, config: LoadConfig, seconds: float, requests: int | None = None) -> None:
        """Learn what each question's answer is when nothing else goes on."""
        self.path, self.config, self.seconds = path, config, seconds
        self.queue, self.least = not seconds, requests or LEAST
        self.ends = float("inf")
        self.done, self.wrong = Counter[str](), list[str]()
        self.beats = [time.monotonic()] * THREADS
        self.alone = {}
        with load(path, config) as model:
            for question in QUESTIONS:
                self.alone[question] = [each.token_id for each in self._ask(model.session(), question)]
        self.open: list[tuple[Model, list[Session]]] = [(model, [])] * MODELS

    @staticmethod
    def _ask(session: Session, question: str) -> list[Any]:
        return list(session.generate([Message("user", question)], GREEDY))

    def renew(self, place: int) -> None:
        model = load(self.path, self.config, queue=self.queue)
        self.open[place] = model, [model.session() for _ in range(SESSIONS)]
        self.done["loads"] += 1

    def work(self, number: int) -> None:
        dice = random.Random(number)
        operations = [getattr(self, name) for name in dir(Soak) if name.startswith("op_")]
        while (time.monotonic() < self.ends or sum(self.done.values()) < self.least) and not self.wrong:
            self.beats[number] = time.monotonic()
            operation, patience = dice.choice(operations), dice.choice([0, PATIENCE])
            name = operation.__name__.removeprefix("op_")
            model, sessions = dice.choice(self.open)
            while True:
                outcome = self.attempt(operation, name, model, dice.choice(sessions), dice)
                if outcome != "busy" or patience <= 0 or time.monotonic() > self.ends:
                    break
                patience -= 1
                time.sleep(0.005)
            self.done[f"{name} {outcome}"] += 1

    def attempt(self, operation: Any, name: str, model: Model, session: Session, dice: random.Random) -> str:
        """Do it, and say how it ended; what may not happen is kept in ``wrong``."""
        try:
            return str(operation(model, session, dice) or "done")
        except Cancelled:
            return "cancelled"
        except SessionError as error:
            for known in ("closed",) if self.queue else ("busy", "closed"):
                if known in str(error):
                    return known
            self.wrong.append(f"{name}: {error!r}")
        except BaseException as error:
            self.wrong.append(f"{name}: {error!r}")
        return "wrong"

    def op_greedy(self, model: Model, session: Session, dice: random.Random) -> str:
        question = dice.choice(QUESTIONS)
        tokens = self._ask(session, question)
        found, expected = [each.token_id for each in tokens], self.alone[question]
        if tokens[-1].finish_reason != "cancelled" and found != expected:
            self.wrong.append(f"{question}: {found} instead of {expected}")
        return str(tokens[-1].finish_reason)

    op_greedy_again = op_greedy

    def op_sampled(self, model: Model, session: Session, dice: random.Random) -> str:
        return str(list(session.generate(dice.choice(PROMPTS), WARM))[-1].finish_reason)

    def op_of_the_model(self, model: Model, session: Session, dice: random.Random) -> str:
        return str(list(model.generate(dice.choice(PROMPTS), WARM))[-1].finish_reason)

    def op_abandon(self, model: Model, session: Session, dice: random.Random) -> None:
        tokens = session.generate(dice.choice(PROMPTS), WARM)
        for _ in range(dice.randrange(5)):
            next(tokens, None)
        if dice.random() < 0.5:
            tokens.close()

    def op_hand_to_another_thread(self, model: Model, session: Session, dice: random.Random) -> None:
        tokens = session.generate(dice.choice(PROMPTS), WARM)
        next(tokens, None)
        other = threading.Thread(target=tokens.close if dice.random() < 0.5 else lambda: list(tokens))
        other.start()
        other.join()

    def op_cancel(self, model: Model, session: Session, dice: random.Random) -> None:
        dice.choice([model, session]).cancel()

    def op_cancel_from_the_loop(self, model: Model, session: Session, dice: random.Random) -> str:
        reason = None
        for token in session.generate(dice.choice(PROMPTS), WARM):
            reason = token.finish_reason
            if dice.random() < 0.1:
                session.cancel()
        return str(reason)

    def op_meddle(self, model: Model, session: Session, dice: random.Random) -> str:
        tokens = list(session.generate(dice.choice(PROMPTS), WARM, constraint=Meddling(model, dice)))
        return str(tokens[-1].finish_reason)

    def op_logits(self, model: Model, session: Session, dice: random.Random) -> None:
        ids = [dice.randrange(300) for _ in range(dice.randrange(1, 200))]
        logits = model.logits(ids)
        assert len(logits) == len(ids) and np.isfinite(logits).all()

    def op_state(self, model: Model, session: Session, dice: random.Random) -> None:
        never = threading.Event()
        with model.exclusive() as backend:
            expected = backend.decode([7] * 20, 0, never).copy()
            backend.decode([7] * 19, 0, never)
            kept = backend.state(19)
            backend.decode([9] * 30, 0, never)
            backend.restore(kept)
            found = backend.decode([7], 19, never)
            assert np.allclose(found, expected, atol=0.5), np.abs(found - expected).max()

    def op_save(self, model: Model, session: Session, dice: random.Random) -> str:
        question = dice.choice(QUESTIONS)
        talk = session.conversation()
        if self._reason(talk.send(question, GREEDY)) == "cancelled":
            return "cancelled"
        with tempfile.TemporaryDirectory() as folder:
            talk.save(Path(folder) / "talk")
            again = dice.choice([model, session]).load_conversation(Path(folder) / "talk")
        if again.turns != talk.turns:
            self.wrong.append(f"{question}: {again.turns} instead of {talk.turns} was read again")
        return self._reason(again.send(question, WARM))

    @staticmethod
    def _reason(stream: Iterator[GeneratedToken]) -> str:
        return str(list(stream)[-1].finish_reason)

    def op_close(self, model: Model, session: Session, dice: random.Random) -> None:
        if dice.random() < 0.03:
            model.close()

    def op_close_from_the_loop(self, model: Model, session: Session, dice: random.Random) -> str:
        reason = None
        for token in model.generate(dice.choice(PROMPTS), WARM):
            reason = token.finish_reason
            if dice.random() < 0.002:
                model.close()
        return str(reason)

    def watch(self) -> None:
        """End the process when a thread hangs."""
        while True:
            time.sleep(1)
            if time.monotonic() - min(self.beats) > HANG_S:
                print("a thread hangs", file=sys.stderr, flush=True)
                faulthandler.dump_traceback(all_threads=True)
                faulthandler._sigabrt()  # type: ignore[attr-defined]

    def run(self) -> dict[str, Any]:
        """Soak, and tell how often what came out."""
        for place in range(MODELS):
            self.renew(place)
        self.beats = [time.monotonic()] * THREADS
        self.ends = time.monotonic() + self.seconds
        threading.Thread(target=self.watch, daemon=True).start()
        workers = [threading.Thread(target=self.work, args=(number,)) for number in range(THREADS)]
        for worker in workers:
            worker.start()
        sizes = list[int]()
        while (time.monotonic() < self.ends or sum(self.done.values()) < self.least) and not self.wrong:
            time.sleep(0.02)
            for place, (model, _) in enumerate(self.open):
                if not model.turns.is_open:
                    self.renew(place)
                    sizes.append(resident_bytes())
        for number, worker in enumerate(workers):
            worker.join()
            self.beats[number] = time.monotonic() + 1e9
        for model, _ in self.open:
            model.close()
        third = max(1, len(sizes) // 3)
        grown = max(sizes[-third:], default=0) - max(sizes[:third], default=0)
        if len(sizes) > 10 and grown > GROWTH_BYTES:
            self.wrong.append(f"memory grew by {grown / 1e6:.0f} MB over {len(sizes)} models")
        return {
            "operations": sum(self.done.values()),
            "grown_bytes": grown,
            "done": dict(sorted(self.done.items())),
            "wrong": self.wrong,
        }


def resident_bytes() -> int:
    """What the process has in memory now."""
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * 4096


def main() -> None:
    """Soak the model of the first argument."""
    faulthandler.enable()
    sys.setswitchinterval(5e-5)  # provokes what is rare
    path, seconds = Path(sys.argv[1]), float(sys.argv[2])
    speculate: Any = sys.argv[3] if len(sys.argv) > 3 else "off"
    requests = int(sys.argv[4]) if len(sys.argv) > 4 else None
    found = Soak(path, LoadConfig(threads=1, speculate=speculate, context_length=512), seconds, requests).run()
    print(json.dumps(found))
    sys.exit(1 if found["wrong"] else 0)


if __name__ == "__main__":
    main()
