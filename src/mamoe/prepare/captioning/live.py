"""Asking a server one question after the other, several at once.

One thread decides and writes the journal; the others each send what they are given and hand back what came. A request
that failed waits its turn again: as long as the server asks for, or twice as long each time with a share of chance, so
that many clients do not come back at once.
"""

from __future__ import annotations

import heapq
import itertools
import queue
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mamoe.errors import ConfigError, DatasetError, MamoeError
from mamoe.prepare.captioning.answers import Reply
from mamoe.prepare.captioning.asking import Request
from mamoe.prepare.captioning.items import Progress
from mamoe.prepare.captioning.ledger import Ledger
from mamoe.prepare.captioning.server import Failed, ServerError

Ask = Callable[[Request], Reply | Failed]


@dataclass(frozen=True, kw_only=True, slots=True)
class Patience:
    """How failed requests are sent again."""

    attempts: int = 6  # for one request, in one session
    first: float = 1.0  # seconds before the second attempt, doubled with each
    longest: float = 60.0
    in_a_row: int = 5  # requests given up one after the other, after which nothing more is tried
    refused: int = 20  # and requests that the server would not take

    def wait(self, attempt: int) -> float:
        """Seconds before the next attempt after ``attempt`` of them."""
        return min(self.longest, self.first * 2 ** (attempt - 1)) * random.uniform(0.5, 1.0)


@dataclass(kw_only=True, slots=True)
class Outcome:
    """What a session came to."""

    unread: dict[str, str]  # item -> why its picture cannot be shown
    unanswered: dict[str, str]  # item -> why it was given up
    out_of_money: int = 0  # requests that were not sent, for ``--max-cost``
    left: int = 0  # that wait in batches

    @classmethod
    def empty(cls) -> Outcome:
        return cls(unread={}, unanswered={})


def ask_live(
    requests: Sequence[Request],
    ask: Ask,
    ledger: Ledger,
    *,
    workers: int,
    patience: Patience | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """Ask everything; what comes back stands in the journal.

    Args:
        requests: each key once.
        ask: sends one request; called in several threads. Raises DatasetError where there is nothing to show.
        ledger: where everything is noted, and which may say that no more is to be spent.
        workers: requests in flight at once. Until a first answer tells what one costs there is one, if cost is limited.
        patience: with failures.
        progress: called after every answer.

    Raises:
        ServerError: too many requests were given up one after the other.
        ConfigError: the server refuses to serve this at all.
    """
    with _Lanes(ask, workers) as lanes:
        return _Session(requests, ledger, lanes, patience or Patience(), progress).run()


class _Session:
    """What is left to ask, what is in flight, and what came of the rest."""

    def __init__(
        self,
        requests: Sequence[Request],
        ledger: Ledger,
        lanes: _Lanes,
        patience: Patience,
        progress: Progress | None,
    ) -> None:
        self._ledger, self._lanes, self._patience, self._progress = ledger, lanes, patience, progress
        self._order = itertools.count()
        # (not before, order, attempt, request), a heap
        self._waiting = [(0.0, next(self._order), 1, request) for request in requests]
        self._total, self._done = len(requests), 0
        self._gate = 0.0  # nothing is sent before
        self._flying = 0
        self._given_up = self._refused = 0  # in a row
        self._outcome = Outcome.empty()

    def run(self) -> Outcome:
        while self._waiting or self._flying:
            affordable = self._send()
            if not affordable and not self._flying:  # nothing is in flight that could cost less than was set aside
                self._outcome.out_of_money = len(self._waiting)
                break
            came = self._lanes.next(self._pause() if affordable else None)
            if came is not None:
                self._flying -= 1
                self._take(*came)
        return self._outcome

    def _room(self) -> int:
        unknown = self._ledger.limited and not self._ledger.counted.answers
        return (1 if unknown else self._lanes.count) - self._flying

    def _due(self) -> float:
        return max(self._waiting[0][0], self._gate)

    def _pause(self) -> float | None:
        """Seconds until there is something to send; None: not before something comes back."""
        if not self._waiting or self._room() <= 0:
            return None
        return max(0.0, self._due() - time.monotonic())

    def _send(self) -> bool:
        """Send what may be sent now; False: the next one could cost more than is left."""
        while self._waiting and self._room() > 0 and self._due() <= time.monotonic():
            _, _, attempt, request = self._waiting[0]
            if not self._ledger.ask(request):
                return False
            heapq.heappop(self._waiting)
            self._lanes.send(request, attempt)
            self._flying += 1
        return True

    def _take(self, request: Request, attempt: int, came: Reply | Failed | BaseException) -> None:
        if isinstance(came, Failed):
            self._ledger.settle(request, charged=came.charged)
            if attempt < self._patience.attempts:
                self._again(request, attempt, came)
                return
            self._give_up(request, came)
        elif isinstance(came, DatasetError):
            self._ledger.settle(request, charged=False)
            self._outcome.unread[request.item.id] = str(came)
        elif isinstance(came, BaseException):
            self._ledger.settle(request, charged=not isinstance(came, MamoeError))
            raise came
        else:
            self._ledger.answer(request, came)
            self._given_up = 0
            self._refused = 0 if came.error is None else self._refused + 1
            if self._refused >= self._patience.refused:
                raise ConfigError(
                    f"The server refused {self._refused} requests in a row; the last: {came.error}. Look at --model "
                    "and the template; --only failed asks for them again."
                )
        self._done += 1
        if self._progress is not None:
            self._progress(self._done, self._total, "")

    def _again(self, request: Request, attempt: int, failed: Failed) -> None:
        now = time.monotonic()
        wait = self._patience.wait(attempt)
        if failed.wait is not None:  # it is the server that is busy, for all requests alike
            self._gate = max(self._gate, now + failed.wait)
            wait = failed.wait + random.uniform(0, self._patience.first)
        heapq.heappush(self._waiting, (now + wait, next(self._order), attempt + 1, request))

    def _give_up(self, request: Request, failed: Failed) -> None:
        self._outcome.unanswered[request.item.id] = failed.why
        self._given_up += 1
        if self._given_up >= self._patience.in_a_row:
            raise ServerError(
                f"{self._given_up} requests in a row brought nothing after {self._patience.attempts} attempts each; "
                f"the last: {failed.why}. What was answered is kept, and the same command goes on from there."
            )


class _Lanes:
    """Threads that each send one request at a time. They end with the process, whatever they wait for."""

    def __init__(self, ask: Ask, count: int) -> None:
        self._ask, self.count = ask, count
        self._to: queue.SimpleQueue = queue.SimpleQueue()
        self._back: queue.SimpleQueue = queue.SimpleQueue()
        for _ in range(count):
            threading.Thread(target=self._run, daemon=True).start()

    def __enter__(self) -> _Lanes:
        return self

    def __exit__(self, *ended: object) -> None:
        for _ in range(self.count):
            self._to.put(None)

    def send(self, request: Request, attempt: int) -> None:
        self._to.put((request, attempt))

    def next(self, seconds: float | None) -> tuple[Request, int, Reply | Failed | BaseException] | None:
        """What comes back next; None if nothing does in time."""
        try:
            return self._back.get(timeout=seconds)
        except queue.Empty:
            return None

    def _run(self) -> None:
        while (job := self._to.get()) is not None:
            request, attempt = job
            try:
                came = self._ask(request)
            except BaseException as error:  # handed on to the thread that decides
                came = error
            self._back.put((request, attempt, came))
