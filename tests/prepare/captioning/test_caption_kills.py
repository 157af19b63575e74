"""Killed at any moment, nothing that was answered is asked again and nothing is lost."""

import json
import random
import time
from pathlib import Path

import pytest
from asked import batch, caption

import apart
from fake_openai import fingerprint
from mamoe.data.folder.prompts import read_instance_prompts
from mamoe.machine.shares import Share
from mamoe.prepare.captioning.batches import BatchSizes
from mamoe.prepare.captioning.choices import Kind
from mamoe.prepare.captioning.journal import Journal

pytestmark = pytest.mark.slow  # twenty processes

KILLS = 20
MONEY = {"price_in": 1.0, "price_out": 4.0, "max_cost": 3.0}


class Url:
    """All that a session needs of the server."""

    def __init__(self, url: str) -> None:
        self.url = url


def session(town: str, url: str, by_batch: bool) -> None:
    if by_batch:
        batch(Path(town), Url(url), Kind.OBJECTS, sizes=BatchSizes(poll=0.02, requests=8), **MONEY)
    else:
        caption(Path(town), Url(url), Kind.OBJECTS, workers=3, **MONEY)


def answered(town: Path) -> set[str]:
    """Fingerprints of what the journal holds an answer to."""
    journal = Journal(town / "captions", Kind.OBJECTS.value, Share())
    return {reply.text.split()[-1] for reply in journal.replies.values()}


@pytest.mark.parametrize("by_batch", [False, True], ids=["live", "batch"])
def test_killed_at_twenty_random_moments(by_batch, town, server):
    chance = random.Random(7)
    server.trouble = lambda body, number: 0.01  # so that some answers are on their way when it happens
    server.polls_needed = 3
    kept: set[str] = set()
    for _ in range(KILLS):
        before = len(server.chats)
        target = server.requests + chance.randint(1, 4)
        process = apart.process(session, str(town), server.url, by_batch)
        process.start()
        while process.is_alive() and server.requests < target:
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.03))
        process.kill()
        process.join()
        asked_now = {fingerprint(body) for body in server.chats[before:]}
        assert not asked_now & kept
        assert kept <= answered(town)
        kept = answered(town)
    before = len(server.chats)
    session(str(town), server.url, by_batch)
    assert not {fingerprint(body) for body in server.chats[before:]} & kept

    given = {
        text.split()[-1]
        for split in ("train", "val")
        for one in read_instance_prompts(town / f"instance_prompts_{split}.json").values()
        for text in one.values()
    }
    assert given == answered(town) and len(given) >= 50
    report = json.loads((town / "captions/objects.report.json").read_text())
    assert report["good"] == report["wanted"] and not report["faults"]
    # What was on its way when it was killed counts as spent, so that the bill is never above what the journal says.
    assert server.cost(1.0, 4.0) <= report["spent"] + 1e-9 <= MONEY["max_cost"]
    if by_batch:
        assert set(server.asked.values()) == {1}
