"""From a data set to its captions: what is to be asked, what was answered, what of that goes into the text files."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mamoe.errors import ConfigError
from mamoe.machine.shares import Share
from mamoe.prepare.captioning.answers import TokenLimit, cleaned, fault_of
from mamoe.prepare.captioning.asking import Asking, Request, requests_for
from mamoe.prepare.captioning.choices import Kind, Mode, Only
from mamoe.prepare.captioning.costs import likely_tokens
from mamoe.prepare.captioning.items import Found, Item
from mamoe.prepare.captioning.ledger import Ledger
from mamoe.prepare.captioning.live import Outcome
from mamoe.storage.hashing import file_hash
from mamoe.storage.lock import in_turn
from mamoe.storage.staging import write_whole

FOLDER = "captions"  # in the data set: journals, reports, previews
NOT_ANSWERED = "not answered"
_ENDS = (".", "!", "?")


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What a session is for."""

    items: tuple[Item, ...]  # that a text is wanted for
    requests: Mapping[str, Request]  # of all items, by item
    todo: tuple[Request, ...]  # that are to be asked, each key once
    answered: int  # items whose answer stands in the journal
    failed: int  # items that are left out, since their answer did not serve
    waiting: int  # items that are in an open batch
    had: int  # items of the data set with a text that nobody wants changed


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """What a session came to."""

    kind: Kind
    wanted: int
    written: int  # texts that were put into the text files
    good: int  # items with an answer that serves
    faults: Mapping[str, str]  # item -> why it has none
    tokens: tuple[int, int]
    spent: float
    files: tuple[Path, ...]
    report: Path
    out_of_money: int = 0
    waiting: int = 0

    @property
    def whole(self) -> bool:
        return self.good == self.wanted


@dataclass(frozen=True, kw_only=True, slots=True)
class Session:
    """One data set, one kind of captions, one process."""

    root: Path
    kind: Kind
    found: Found
    asking: Asking
    ledger: Ledger
    share: Share
    only: Only = Only.MISSING
    mode: Mode | None = None
    limit: TokenLimit | None = None

    def plan(self) -> Plan:
        """What there is to do.

        Raises:
            ConfigError: texts that are there would change, and nobody said how.
            DatasetError: a file cannot be read.
        """
        missing = [item for item in self.found.items if not item.text]
        wanted = missing if self.only is Only.MISSING else list(self.found.items)
        requests = {request.item.id: request for request in requests_for(wanted, self.asking)}
        state = self._states(requests)
        if self.only is Only.FAILED:
            tried = self.ledger.journal.tried
            wanted = [item for item in wanted if state[item.id] != "good" and item.id in tried]
        changed = [item for item in wanted if item.text]
        if changed and self.mode is None:
            raise ConfigError(
                f"{len(changed)} {self.kind}, such as {changed[0].id}, have a text of their own: say what becomes of "
                "it with --mode overwrite, append or prepend."
            )
        asks = ("new",) if self.only is Only.MISSING else ("new", "bad")
        todo = {requests[item.id].key: requests[item.id] for item in wanted if state[item.id] in asks}
        count = Counter(state[item.id] for item in wanted)
        return Plan(
            items=tuple(wanted),
            requests=requests,
            todo=tuple(todo.values()),
            answered=count["good"],
            failed=count["bad"] if self.only is Only.MISSING else 0,
            waiting=count["waiting"],
            had=len(self.found.items) - len(missing) if self.only is Only.MISSING else 0,
        )

    def estimate(self, plan: Plan) -> tuple[float, float]:
        """(read, written) tokens that are likely."""
        each = [likely_tokens(self.asking.template, r.item.subject, self.ledger.counted) for r in plan.todo]
        return sum(read for read, _ in each), sum(written for _, written in each)

    def finish(self, plan: Plan, outcome: Outcome) -> Summary:
        """Put what serves into the text files and write the report; both whole or not at all."""
        good: dict[str, str] = {}
        faults: dict[str, str] = {}
        for item in plan.items:
            text, fault = self.verdict(plan.requests[item.id])
            if fault is None:
                good[item.id] = text
            else:
                faults[item.id] = _why(item.id, outcome, fault)
        written, files = self._write(plan.items, good)
        replies = [
            self.ledger.journal.replies[key]
            for key in {plan.requests[i.id].key for i in plan.items}
            if key in self.ledger.journal.replies
        ]
        summary = Summary(
            kind=self.kind,
            wanted=len(plan.items),
            written=written,
            good=len(good),
            faults=faults,
            tokens=(sum(r.tokens[0] for r in replies if r.tokens), sum(r.tokens[1] for r in replies if r.tokens)),
            spent=self.ledger.spent,
            files=files,
            report=self.ledger.journal.path.with_suffix(".report.json"),
            out_of_money=outcome.out_of_money,
            waiting=len(self.ledger.journal.waiting),
        )
        self._report(plan, summary)
        return summary

    def verdict(self, request: Request) -> tuple[str, str | None]:
        """The text that was answered, as a prompt, and what is wrong with it."""
        reply = self.ledger.journal.replies.get(request.key)
        if reply is None:
            return "", NOT_ANSWERED
        return cleaned(reply.text), fault_of(reply, self.asking.template, self.limit)

    def _states(self, requests: Mapping[str, Request]) -> dict[str, str]:
        """By item: ``new``, ``waiting`` in a batch, answered and ``good``, answered and ``bad``."""
        waiting, replies = self.ledger.journal.waiting, self.ledger.journal.replies
        states = {}
        for name, request in requests.items():
            if request.key in waiting:
                states[name] = "waiting"
            elif request.key not in replies:
                states[name] = "new"
            else:
                states[name] = "good" if self.verdict(request)[1] is None else "bad"
        return states

    def _write(self, items: Sequence[Item], good: Mapping[str, str]) -> tuple[int, tuple[Path, ...]]:
        written, files = 0, []
        for path in dict.fromkeys(item.file for item in items):
            own = [item for item in items if item.file == path and item.id in good]
            if not own:
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            with in_turn(path.parent):  # others that share the work write into the same file
                file, changed = self.found.file(path), 0
                for item in own:
                    before = file.get(item.name, item.segment)
                    text = self._joined(item, before, good[item.id])
                    if text != before:
                        file.put(item.name, item.segment, text)
                        changed += 1
                if changed:
                    file.save()
            written += changed
            files.append(path)
        return written, tuple(files)

    def _joined(self, item: Item, before: str, new: str) -> str:
        """What the file is to say. What was put there before, by a session that was killed later, is not put twice."""
        if not item.text:
            own = before and before != item.subject
            return before if own else new  # somebody wrote one meanwhile: it stays
        if self.mode is Mode.APPEND:
            return before if before.endswith(new) else _both(before, new)
        if self.mode is Mode.PREPEND:
            return before if before.startswith(new) else _both(new, before)
        return new

    def _report(self, plan: Plan, summary: Summary) -> None:
        journal = self.ledger.journal
        said: dict[str, Any] = {
            "kind": self.kind.value,
            "model": self.asking.model,
            "template": self.asking.template.to_dict(),
            "margin": self.asking.margin,
            "only": self.only.value,
            "mode": None if self.mode is None else self.mode.value,
            "share": {"rank": self.share.rank, "count": self.share.count},
            "wanted": summary.wanted,
            "good": summary.good,
            "written": summary.written,
            "not_sent_for_max_cost": summary.out_of_money,
            "waiting_in_batches": summary.waiting,
            "tokens": {"read": summary.tokens[0], "written": summary.tokens[1]},
            "spent": summary.spent if self.ledger.costs else None,
            "text_encoder_checked": self.limit is not None,
            "files": {
                str(path.relative_to(self.root) if path.is_relative_to(self.root) else path): file_hash(path)
                for path in summary.files
            },
            "faults": [
                {
                    "item": name,
                    "why": why,
                    "answer": reply.text if (reply := journal.replies.get(plan.requests[name].key)) else None,
                }
                for name, why in summary.faults.items()
            ],
        }
        summary.report.parent.mkdir(parents=True, exist_ok=True)
        write_whole(json.dumps(said, indent=1, ensure_ascii=False) + "\n", summary.report)


def _why(item: str, outcome: Outcome, fault: str) -> str:
    """What is wrong with an item, in this session's words where it has some."""
    if item in outcome.unread:
        return f"cannot be shown: {outcome.unread[item]}"
    return f"{NOT_ANSWERED}: {outcome.unanswered[item]}" if item in outcome.unanswered else fault


def _both(first: str, second: str) -> str:
    return f"{first} {second}" if first.endswith(_ENDS) else f"{first}, {second}"
