"""Asking a server by its Batch API: files of many requests, answered within a day, for less.

A batch stands in the journal before it is made, under a mark that the server is given too: after a kill the batch is
found again by it, whether or not its id was heard. What a batch did not answer goes into the next one.
"""

from __future__ import annotations

import itertools
import json
import os
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from mamoe.data.check.split import in_order
from mamoe.errors import ConfigError, DatasetError
from mamoe.prepare.captioning.answers import Reply
from mamoe.prepare.captioning.asking import Request, Sent
from mamoe.prepare.captioning.items import Progress
from mamoe.prepare.captioning.journal import Batch
from mamoe.prepare.captioning.ledger import Ledger
from mamoe.prepare.captioning.live import Outcome, Patience
from mamoe.prepare.captioning.server import Failed, Server, ServerError, shown

T = TypeVar("T")
_MOST_THREADS = 32
_OVER = ("completed", "failed", "expired", "cancelled")


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchSizes:
    """How large a batch gets. The API takes 50,000 requests and 200 MB; servers refuse from about 150 MB."""

    requests: int = 20_000
    megabytes: float = 90.0
    rounds: int = 4  # batches a request is put into, one after the other, before it is given up
    poll: float = 30.0  # seconds between looks


class Batches:
    """The batches of one session.

    Args:
        server: where they are made.
        ledger: where they are noted.
        sizes: how large they get.
        patience: with the server's failures.
    """

    def __init__(self, server: Server, ledger: Ledger, sizes: BatchSizes, patience: Patience | None = None) -> None:
        self._server, self._ledger, self._sizes = server, ledger, sizes
        self._patience = patience or Patience()
        self._most = sizes.requests  # halved when the server finds a batch too large
        self._path = ledger.journal.path.with_suffix(".batch")
        self._rounds: Counter[str] = Counter()  # batches that each key was put into
        self.strange = 0  # lines of results that answer nothing that was asked, or a second time

    def find_unheard(self) -> None:
        """Find out what became of batches that were about to be made when a session was killed.

        Raises:
            ServerError: the server does not answer.
        """
        for batch in [batch for batch in self._ledger.journal.batches if batch.id is None]:
            found = self._patiently(lambda mark=batch.mark: self._server.batch_with(mark))
            if found:
                self._ledger.journal.add({"batch": batch.mark, "id": found})
            else:  # what cannot be known counts as spent
                self._ledger.close_batch(batch, charged=found is not None)

    def ask(
        self, requests: Sequence[Request], known: Mapping[str, Request], progress: Progress | None = None
    ) -> Outcome:
        """Collect the batches that are open, and have everything else answered.

        Args:
            requests: what no open batch holds; each key once.
            known: all requests of the data set by key.
            progress: called when something was answered, with the server's word on what is not.

        Raises:
            ServerError: the server does not answer.
            ConfigError: it refuses to serve this at all.
        """
        self._path.unlink(missing_ok=True)  # what a session that was killed left
        self.find_unheard()
        outcome, waiting = Outcome.empty(), list(requests)
        total = len(waiting) + sum(len(batch.items) for batch in self._ledger.journal.batches)
        while waiting or self._ledger.journal.batches:
            waiting = self._make_all(waiting, outcome)
            if not self._ledger.journal.batches:
                outcome.out_of_money = len(waiting)
                break
            for key, why in self._collect_one(known, total, progress).items():
                if key not in known:
                    continue  # the data set has it no longer
                if self._rounds[key] < self._sizes.rounds:
                    waiting.append(known[key])
                else:
                    outcome.unanswered[known[key].item.id] = why
        return outcome

    def _make_all(self, waiting: list[Request], outcome: Outcome) -> list[Request]:
        """Put what is waiting into batches, as far as they may be paid; returns the rest."""
        while waiting:
            chosen = self._affordable(waiting[: self._most])
            if not chosen:
                break
            try:
                taken, pixels = self._write(chosen, outcome)
                batch = self._ledger.open_batch(uuid.uuid4().hex, taken, pixels) if taken else None
                if batch is not None:
                    self._make(batch)
                    self._rounds.update(taken.keys())
            finally:
                self._path.unlink(missing_ok=True)
            waiting = [one for one in waiting if one.key not in taken and one.item.id not in outcome.unread]
        return waiting

    def _affordable(self, requests: Sequence[Request]) -> list[Request]:
        """As many from the front as may be paid."""
        costs = itertools.accumulate(self._ledger.cost_of([request]) for request in requests)
        return [request for request, cost in zip(requests, costs, strict=True) if self._ledger.affords(cost)]

    def _write(self, requests: Sequence[Request], outcome: Outcome) -> tuple[dict[str, Request], dict[str, int]]:
        """Write requests from the front until the file is full; returns them, and their pictures' pixels, by key."""
        taken: dict[str, Request] = {}
        pixels: dict[str, int] = {}
        size = 0
        self._path.parent.mkdir(parents=True, exist_ok=True)
        threads = min(_MOST_THREADS, os.cpu_count() or 1)
        with self._path.open("wb") as file, ThreadPoolExecutor(threads) as pool:
            made = in_order(pool, self._sent, requests, 2 * threads)
            for request, sent in zip(requests, made, strict=False):  # the file may be full before
                if isinstance(sent, DatasetError):
                    outcome.unread[request.item.id] = str(sent)
                    continue
                line = {"custom_id": request.key, "method": "POST", "url": "/v1/chat/completions", "body": sent.body}
                raw = json.dumps(line).encode() + b"\n"
                if taken and size + len(raw) > self._sizes.megabytes * 1e6:
                    break
                file.write(raw)
                size += len(raw)
                taken[request.key] = request
                pixels[request.key] = sent.pixels
        return taken, pixels

    def _sent(self, request: Request) -> Sent | DatasetError:
        try:
            return request.sent(self._server.limit_key)
        except DatasetError as error:
            return error

    def _make(self, batch: Batch) -> None:
        try:
            file_id = self._patiently(lambda: self._server.upload(self._path))
            made = self._patiently(lambda: self._made(file_id, batch.mark))
        except ConfigError:
            self._ledger.close_batch(batch)
            raise
        self._ledger.journal.add({"batch": batch.mark, "id": made})

    def _made(self, file_id: str, mark: str) -> str | Failed:
        came = self._server.make_batch(file_id, mark)
        if isinstance(came, Failed) and came.charged:  # it may have been made without our hearing of it
            found = self._patiently(lambda: self._server.batch_with(mark))
            if found == "":
                raise ServerError(f"Whether a batch was made cannot be told ({came.why}): look at your server's list.")
            return found or came
        return came

    def _collect_one(self, known: Mapping[str, Request], total: int, progress: Progress | None) -> dict[str, str]:
        """Wait until a batch is over and note what it brought; returns why which keys are to be asked again."""
        while True:
            for batch in self._ledger.journal.batches:
                found = self._patiently(lambda name=batch.id: self._server.batch(name or ""))
                status = str(found.get("status"))
                if progress is not None:
                    progress(min(total, len(self._ledger.journal.replies)), total, f"batch {shown(status)[:20]}")
                if status in _OVER:
                    return self._close(batch, found, known)
            time.sleep(self._sizes.poll)

    def _close(self, batch: Batch, found: Mapping[str, Any], known: Mapping[str, Request]) -> dict[str, str]:
        status = str(found.get("status"))
        why = f"the batch {status}{_reason(found)}"
        left = dict.fromkeys(batch.items, why)
        if status == "failed":
            self._most = max(1, min(self._most, len(batch.items) // 2))
        for name in ("output_file_id", "error_file_id"):
            if (file_id := found.get(name)) is None:
                continue
            for line in self._patiently(lambda name=str(file_id): self._server.lines(name)):
                key = line.get("custom_id") if isinstance(line, dict) else None
                if not isinstance(key, str) or key not in left:
                    self.strange += 1
                    continue
                came = self._reply(line)
                if isinstance(came, Failed):
                    left[key] = came.why
                    continue
                del left[key]
                if key not in batch.answered:  # a session that was killed here has noted some
                    self._ledger.answer_of(batch, key, came, known.get(key))
        self._ledger.close_batch(batch)
        return left

    def _reply(self, line: Mapping[str, Any]) -> Reply | Failed:
        error, response = line.get("error"), line.get("response")
        if isinstance(error, dict):
            return Failed(why=shown(str(error.get("message") or error.get("code"))))
        if not isinstance(response, dict):
            return Failed(why="the batch holds no answer")
        status, body = response.get("status_code"), response.get("body")
        if status == 200:
            return self._server.reply_of(body)
        text = shown(json.dumps(body))
        if type(status) is int and 400 <= status < 500 and status not in (408, 409, 425, 429):
            return Reply(error=f"{status} {text}")
        return Failed(why=f"{status} {text}")

    def _patiently(self, call: Callable[[], T | Failed]) -> T:
        """What a call brings, again and again where it fails.

        Raises:
            ServerError: it failed every time.
        """
        for attempt in itertools.count(1):
            came = call()
            if not isinstance(came, Failed):
                return came
            if attempt >= self._patience.attempts:
                raise ServerError(
                    f"The server brought nothing in {attempt} attempts: {came.why}. What was asked and answered is "
                    "kept, and the same command goes on from there."
                )
            time.sleep(self._patience.wait(attempt) if came.wait is None else came.wait)
        raise AssertionError


def _reason(found: Mapping[str, Any]) -> str:
    """Why a batch failed, to follow that it did."""
    errors = found.get("errors")
    rows = errors.get("data") if isinstance(errors, dict) else None
    first = rows[0] if isinstance(rows, list) and rows and isinstance(rows[0], dict) else {}
    text = str(first.get("message") or found.get("why") or "")
    return f": {shown(text)}" if text else ""
