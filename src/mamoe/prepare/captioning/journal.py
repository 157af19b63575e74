"""What was asked and answered, as lines of JSON on disk: each is flushed to it before anything else happens.

One file for every process that shares the work, read together. A line is one of

    {"asked": key, "item": name, "cost": c}              before a request is sent; c is the most it may cost
    {"settled": key, "cost": c}                          it brought no answer and cost c
    {"answered": key, "item": name, "cost": c, "text": …, "tokens": [r, w], …}     see :func:`answer_line`
    {"batch": mark, "items": {key: name}, "pixels": {key: n}, "cost": c}     before a batch is made
    {"batch": mark, "id": id}                            when the server named it
    {"closed": mark}                                     when all that came of it stands here

and beside "cost" has "unpriced": [r, w], tokens read and written, where nobody had said what they cost.

What was asked and never settled, because the process was killed, counts as spent in full. A last line that a kill cut
off is left aside.
"""

from __future__ import annotations

import json
import os
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mamoe.machine.shares import Share
from mamoe.prepare.captioning.answers import Reply
from mamoe.prepare.captioning.costs import Amount, Shares

_MOST_TEXT = 4000  # letters of an answer that are kept


@dataclass(kw_only=True, slots=True)
class Batch:
    """A batch that was made and not yet collected."""

    mark: str  # ours: the server is given it, to find the batch by
    items: Mapping[str, str]  # key -> item
    cost: Amount  # at most, of all of it
    id: str | None = None  # the server's; None: it was not heard whether it was made
    pixels: Mapping[str, int] = field(default_factory=dict)  # of the picture each key shows
    answered: set[str] = field(default_factory=set)  # keys whose answers stand in the journal
    closed: bool = False


@dataclass(kw_only=True, slots=True)
class Account:
    """What the lines of one file add up to."""

    spent: Amount = field(default_factory=Amount)
    asked: dict[str, list[Amount]] = field(default_factory=lambda: defaultdict(list))  # by key, not yet settled
    batches: list[Batch] = field(default_factory=list)

    @property
    def committed(self) -> Amount:
        """Spent, or set aside for what may yet be charged."""
        asked = (cost for costs in self.asked.values() for cost in costs)
        open_batches = (batch.cost for batch in self.batches if not batch.closed)
        return sum((*asked, *open_batches), self.spent)


class Journal:
    """All lines of one kind of captions in a folder, and a file to add to.

    Args:
        folder: of the journals; need not exist before something is added.
        kind: how the files are called.
        share: which process this is, and so which of the files it adds to.
    """

    def __init__(self, folder: Path, kind: str, share: Share) -> None:
        self.path = folder / (
            f"{kind}.jsonl" if share.count == 1 else f"{kind}.{share.rank + 1}-of-{share.count}.jsonl"
        )
        self.replies: dict[str, Reply] = {}  # by key; the last one holds
        self.latest: dict[str, str] = {}  # item -> key of its last reply
        self.tried: set[str] = set()  # items that were asked about, answered or not
        self.shares: list[Shares] = []  # of every answer
        self.torn: list[str] = []  # lines that cannot be read
        self.own = Account()
        self.others = Account()  # of processes that shared the work in another way before
        self.beside = Account()  # of those that share it now
        self._file: int | None = None
        self._share = share
        self._batches: dict[str, Batch] = {}  # by mark
        self._read = _size(self.path)
        alike = f"-of-{share.count}.jsonl"
        lines = []
        for path in sorted({folder / f"{kind}.jsonl", *folder.glob(f"{kind}.*-of-*.jsonl")}):
            same = self.beside if share.count > 1 and path.name.endswith(alike) else self.others
            account = self.own if path == self.path else same
            at = 0.0
            for number, raw in _lines(path):
                try:
                    line = json.loads(raw)
                    at = max(at, float(line["at"]))  # a clock may have been put back
                    lines.append((at, line, account, f"{path}, line {number}"))
                except (ValueError, KeyError, TypeError):
                    self.torn.append(f"{path}, line {number}")
        # A batch may be closed by another process than made it: in the order of time, whatever file a line stands in.
        for _, line, account, place in sorted(lines, key=lambda one: one[0]):
            try:
                self._take(line, account)
            except (ValueError, KeyError, TypeError, AttributeError, IndexError):
                self.torn.append(place)

    @property
    def batches(self) -> list[Batch]:
        """Those that are open and this process's to collect: its own; the first one's, earlier ones too."""
        others = self.others.batches if self._share.rank == 0 else []
        return [batch for batch in (*self.own.batches, *others) if not batch.closed]

    @property
    def waiting(self) -> set[str]:
        """Keys that are in an open batch, of any process."""
        return {key for batch in self._batches.values() if not batch.closed for key in batch.items}

    @property
    def is_stale(self) -> bool:
        """Whether another process has written to this one's file since it was read."""
        return self._file is None and _size(self.path) != self._read

    def add(self, line: Mapping[str, Any]) -> None:
        """Write a line, flushed to the disk, and take it into account."""
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
            _flush_folder(self.path.parent)
            size = os.fstat(self._file).st_size
            if size and os.pread(self._file, 1, size - 1) != b"\n":  # a kill cut the last line off
                os.write(self._file, b"\n")
        raw = json.dumps({**line, "at": round(time.time(), 3)}, ensure_ascii=True).encode() + b"\n"
        while raw:
            raw = raw[os.write(self._file, raw) :]
        os.fsync(self._file)
        self._take(line, self.own)

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _take(self, line: Mapping[str, Any], account: Account) -> None:
        if "asked" in line:
            account.asked[line["asked"]].append(_cost(line))
            self.tried.add(line["item"])
        elif "settled" in line:
            _settle(account, line["settled"], _cost(line))
        elif "answered" in line:
            key, item = line["answered"], line["item"]
            _settle(account, key, _cost(line))
            self.replies[key] = _reply(line)
            self.latest[item] = key
            self.tried.add(item)
            if line.get("batch") is not None:
                self._batches[line["batch"]].answered.add(key)
            if line.get("share") is not None:
                read, written, largest = line["share"]
                self.shares.append((float(read), float(written), float(largest)))
        elif "closed" in line:
            self._batches[line["closed"]].closed = True
        elif "id" in line:
            self._batches[line["batch"]].id = line["id"]
        elif "batch" in line:
            batch = Batch(mark=line["batch"], items=dict(line["items"]), cost=_cost(line))
            batch.pixels = dict(line["pixels"])
            self._batches[batch.mark] = batch
            account.batches.append(batch)
            self.tried |= set(batch.items.values())


def answer_line(
    key: str, item: str, reply: Reply, cost: Amount, share: Shares | None, batch: str | None
) -> dict[str, Any]:
    """The line that says what came back, and by which batch."""
    return {
        "answered": key,
        "item": item,
        **cost_in_line(cost),
        "text": reply.text[:_MOST_TEXT],
        "finish": reply.finish,
        "refusal": reply.refusal,
        "error": reply.error,
        "tokens": reply.tokens,
        "share": share,
        "batch": batch,
    }


def cost_in_line(cost: Amount) -> dict[str, Any]:
    """What a line says of a cost."""
    return {"cost": cost.money, **({"unpriced": list(cost.tokens)} if any(cost.tokens) else {})}


def _cost(line: Mapping[str, Any]) -> Amount:
    read, written = line.get("unpriced", (0, 0))
    return Amount(money=float(line["cost"]), tokens=(float(read), float(written)))


def _reply(line: Mapping[str, Any]) -> Reply:
    tokens = line.get("tokens")
    return Reply(
        text=line["text"],
        finish=line.get("finish"),
        refusal=line.get("refusal"),
        error=line.get("error"),
        tokens=None if tokens is None else (int(tokens[0]), int(tokens[1])),
    )


def _flush_folder(folder: Path) -> None:
    """So that a file that was just made is still there after a power cut."""
    with suppress(OSError):  # a system that opens no folders
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _settle(account: Account, key: str, cost: Amount) -> None:
    aside = account.asked.get(key)
    if aside:
        aside.pop()
        if not aside:
            del account.asked[key]
    account.spent += cost


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield number, line
