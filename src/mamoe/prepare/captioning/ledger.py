"""The journal with the purse: nothing is asked that could cost more than is left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from mamoe.machine.shares import Share
from mamoe.prepare.captioning.answers import Reply
from mamoe.prepare.captioning.asking import Request
from mamoe.prepare.captioning.costs import FREE, Amount, Counted, Prices, most_tokens, set_aside, shares_of
from mamoe.prepare.captioning.journal import Batch, Journal, answer_line, cost_in_line


class Ledger:
    """What was asked, what came back, what it cost.

    Args:
        journal: on disk.
        share: processes that share the work share ``max_cost`` in equal parts.
        prices: None: unknown, and tokens are noted, for a later session that knows prices.
        max_cost: of everything in the journals, earlier sessions included; None: no limit.
    """

    def __init__(self, journal: Journal, share: Share, prices: Prices | None, max_cost: float | None) -> None:
        self.journal, self.prices = journal, prices
        self._limit = None if max_cost is None else (max_cost - journal.others.committed.at(prices)) / share.count
        self.counted = Counted()
        for used in journal.shares:
            self.counted = self.counted.and_one(used)
        self._aside: dict[str, Amount] = {}  # of requests in flight

    @property
    def spent(self) -> float:
        """By this process, sessions before it included; what is not known counts as the most it may be."""
        return self.journal.own.committed.at(self.prices)

    @property
    def costs(self) -> bool:
        """Whether money is spent, by all that is known."""
        return self.prices not in (None, FREE)

    @property
    def limited(self) -> bool:
        return self._limit is not None

    def cost_of(self, requests: Sequence[Request]) -> float:
        """What they cost at most; without prices 0."""
        return self._most_of(requests).at(self.prices)

    def affords(self, cost: float) -> bool:
        """Whether that much may be spent on top of all that is spent and set aside."""
        return self._limit is None or self.spent + cost <= self._limit

    def ask(self, request: Request) -> bool:
        """Note that a request is about to be sent; False: it could cost more than is left, and is not to be."""
        cost = self._most_of([request])
        if not self.affords(cost.at(self.prices)):
            return False
        self.journal.add({"asked": request.key, "item": request.item.id, **cost_in_line(cost)})
        self._aside[request.key] = cost
        return True

    def settle(self, request: Request, *, charged: bool) -> None:
        """Note that no answer came; ``charged``: the server may count it all the same."""
        cost = self._aside.pop(request.key)
        self.journal.add({"settled": request.key, **cost_in_line(cost if charged else Amount())})

    def answer(self, request: Request, reply: Reply) -> None:
        """Note what came back for a request noted by :meth:`ask`."""
        self._note(request.key, request.item.id, reply, self._aside.pop(request.key), request, None)

    def answer_of(self, batch: Batch, key: str, reply: Reply, request: Request | None) -> None:
        """Note what came back for one request of a batch; ``request`` is None where the data set has it no longer."""
        aside = batch.cost.part(len(batch.items))
        reply = replace(reply, pixels=batch.pixels.get(key))
        self._note(key, batch.items[key], reply, aside, request, batch.mark)

    def _note(
        self, key: str, item: str, reply: Reply, aside: Amount, request: Request | None, batch: str | None
    ) -> None:
        share = None
        if reply.tokens is not None and request is not None:
            share = shares_of(reply.tokens, reply.pixels, request.asking.template, request.item.subject)
            self.counted = self.counted.and_one(share)
        cost = Amount() if reply.error is not None else aside  # what is refused is not charged
        if reply.tokens is not None:
            cost = self._amount(reply.tokens)
        self.journal.add(answer_line(key, item, reply, cost, share, batch))

    def open_batch(self, mark: str, requests: Mapping[str, Request], pixels: Mapping[str, int]) -> Batch | None:
        """Note that a batch is about to be made, with pictures of so many pixels; None: it could cost too much."""
        cost = self._most_of([*requests.values()])
        if not self.affords(cost.at(self.prices)):
            return None
        items = {key: request.item.id for key, request in requests.items()}
        self.journal.add({"batch": mark, "items": items, "pixels": dict(pixels), **cost_in_line(cost)})
        return self.journal.own.batches[-1]

    def close_batch(self, batch: Batch, *, charged: bool = False) -> None:
        """Note that a batch is over; ``charged``: nobody knows what it cost, and all of it may have been."""
        if charged:
            self.journal.add({"settled": batch.mark, **cost_in_line(batch.cost)})
        self.journal.add({"closed": batch.mark})

    def _most_of(self, requests: Sequence[Request]) -> Amount:
        aside = (self._amount(set_aside(_most(request), self.counted)) for request in requests)
        return sum(aside, Amount())

    def _amount(self, tokens: tuple[float, float]) -> Amount:
        """What tokens cost: money where prices are known."""
        return Amount(tokens=tokens) if self.prices is None else Amount(money=self.prices.of(tokens))


def _most(request: Request) -> tuple[int, int]:
    return most_tokens(request.asking.template, request.item.subject)
