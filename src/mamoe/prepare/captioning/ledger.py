"""The journal with the purse: nothing is asked that could cost more than is left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from mamoe.machine.shares import Share
from mamoe.prepare.captioning.answers import Reply
from mamoe.prepare.captioning.asking import Request
from mamoe.prepare.captioning.costs import Counted, Prices, most_tokens, set_aside, shares_of
from mamoe.prepare.captioning.journal import Batch, Journal, answer_line


class Ledger:
    """What was asked, what came back, what it cost.

    Args:
        journal: on disk.
        share: processes that share the work share ``max_cost`` in equal parts.
        prices: None: unknown, and every cost is 0.
        max_cost: of everything in the journals, earlier sessions included; None: no limit.
    """

    def __init__(self, journal: Journal, share: Share, prices: Prices | None, max_cost: float | None) -> None:
        self.journal, self.prices = journal, prices
        self._limit = None if max_cost is None else (max_cost - journal.others.committed) / share.count
        self.counted = Counted()
        for used in journal.shares:
            self.counted = self.counted.and_one(used)
        self._aside: dict[str, float] = {}  # of requests in flight

    @property
    def spent(self) -> float:
        """By this process, sessions before it included; what is not known counts as the most it may be."""
        return self.journal.own.committed

    @property
    def limited(self) -> bool:
        return self._limit is not None

    def cost_of(self, requests: Sequence[Request]) -> float:
        """What they cost at most."""
        if self.prices is None:
            return 0.0
        return sum(self.prices.of(set_aside(_most(request), self.counted)) for request in requests)

    def affords(self, cost: float) -> bool:
        """Whether that much may be spent on top of all that is spent and set aside."""
        return self._limit is None or self.journal.own.committed + cost <= self._limit

    def ask(self, request: Request) -> bool:
        """Note that a request is about to be sent; False: it could cost more than is left, and is not to be."""
        cost = self.cost_of([request])
        if not self.affords(cost):
            return False
        self.journal.add({"asked": request.key, "item": request.item.id, "cost": cost})
        self._aside[request.key] = cost
        return True

    def settle(self, request: Request, *, charged: bool) -> None:
        """Note that no answer came; ``charged``: the server may count it all the same."""
        cost = self._aside.pop(request.key)
        self.journal.add({"settled": request.key, "cost": cost if charged else 0.0})

    def answer(self, request: Request, reply: Reply) -> None:
        """Note what came back for a request noted by :meth:`ask`."""
        self._note(request.key, request.item.id, reply, self._aside.pop(request.key), request, None)

    def answer_of(self, batch: Batch, key: str, reply: Reply, request: Request | None) -> None:
        """Note what came back for one request of a batch; ``request`` is None where the data set has it no longer."""
        aside = batch.cost / len(batch.items)
        reply = replace(reply, pixels=batch.pixels.get(key))
        self._note(key, batch.items[key], reply, aside, request, batch.mark)

    def _note(
        self, key: str, item: str, reply: Reply, aside: float, request: Request | None, batch: str | None
    ) -> None:
        share = None
        if reply.tokens is not None and request is not None:
            share = shares_of(reply.tokens, reply.pixels, request.asking.template, request.item.subject)
            self.counted = self.counted.and_one(share)
        cost = 0.0 if reply.error is not None else aside  # what is refused is not charged
        if self.prices is not None and reply.tokens is not None:
            cost = self.prices.of(reply.tokens)
        self.journal.add(answer_line(key, item, reply, cost, share, batch))

    def open_batch(self, mark: str, requests: Mapping[str, Request], pixels: Mapping[str, int]) -> Batch | None:
        """Note that a batch is about to be made, with pictures of so many pixels; None: it could cost too much."""
        cost = self.cost_of([*requests.values()])
        if not self.affords(cost):
            return None
        items = {key: request.item.id for key, request in requests.items()}
        self.journal.add({"batch": mark, "items": items, "pixels": dict(pixels), "cost": cost})
        return self.journal.own.batches[-1]

    def close_batch(self, batch: Batch, *, charged: float = 0.0) -> None:
        """Note that a batch is over, and what it cost beside its answers."""
        if charged:
            self.journal.add({"settled": batch.mark, "cost": charged})
        self.journal.add({"closed": batch.mark})


def _most(request: Request) -> tuple[int, int]:
    return most_tokens(request.asking.template, request.item.subject)
