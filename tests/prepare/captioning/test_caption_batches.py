"""The Batch API with everything that can happen to a batch: all is completed or listed, and nothing is asked twice."""

import json

import pytest
from asked import batch, caption

from fake_openai import completion
from mamoe.data.folder.prompts import read_prompts_csv
from mamoe.errors import ConfigError, DatasetError
from mamoe.prepare.captioning.batches import Batches, BatchSizes
from mamoe.prepare.captioning.choices import Kind
from mamoe.prepare.captioning.ledger import Ledger
from mamoe.prepare.captioning.server import Failed, Server, ServerError, _Refused

PRICES = {"price_in": 100.0, "price_out": 400.0}


def report_of(town):
    return json.loads((town / "captions/pictures.report.json").read_text())


def sizes_of(server):
    return [len(server.files[one["input_file_id"]].splitlines()) for one in server.batches.values()]


def complete(town):
    return report_of(town)["good"] == 11 and len(read_prompts_csv(town / "prompts_train.csv")) == 8


def once(change):
    """What happens to the first batch alone."""

    def of(found, lines):
        if found["id"] == "batch_0":
            change(found, lines)

    return of


def test_the_same_captions_as_live(town, server):
    batch(town, server)
    by_batch = (town / "prompts_train.csv").read_bytes()
    assert complete(town) and len(server.batches) == 1 and not server.chats
    assert server.batches["batch_0"]["endpoint"] == "/v1/chat/completions"
    assert server.batches["batch_0"]["completion_window"] == "24h"
    (town / "prompts_train.csv").unlink()
    caption(town, server, model="another")  # whose answers the journal does not have
    assert (town / "prompts_train.csv").read_bytes() == by_batch


def test_a_preview_is_asked_live_and_is_not_asked_again(town, server):
    batch(town, server, preview=2)
    assert len(server.chats) == 2 and not server.batches
    batch(town, server)
    assert complete(town) and set(server.asked.values()) == {1}


@pytest.mark.parametrize(
    ("change", "again"),
    [
        (lambda found, lines: lines.reverse(), 0),
        (lambda found, lines: lines.extend(lines[:4]), 0),
        (lambda found, lines: lines.append({"custom_id": "strange", "response": None, "error": None}), 0),
        (lambda found, lines: lines.append("[1, 2"), 0),
        (lambda found, lines: lines.__delitem__(slice(0, 3)), 3),
        (lambda found, lines: lines.__setitem__(0, json.dumps(lines[0])[:200]), 1),
        (lambda found, lines: lines.clear(), 11),
    ],
    ids=["out of order", "duplicate", "strange id", "strange line", "missing", "truncated", "empty"],
)
def test_lines_of_results(change, again, town, server):
    server.batch_trouble = once(change)
    batch(town, server)
    assert complete(town)
    assert sum(server.asked.values()) == 11 + again


def expired(found, lines):
    """Five were answered in time."""
    found["status"] = "expired"
    for line in lines[5:]:
        line |= {"response": None, "error": {"code": "batch_expired", "message": "not in time"}}


def half_failed(found, lines):
    for line in lines[::2]:
        line["response"] = {"status_code": 500, "body": {"error": {"message": "oh"}}}


def failed(found, lines):
    found |= {"status": "failed", "errors": {"data": [{"code": "token_limit_exceeded", "message": "too large"}]}}


def cancelled(found, lines):
    found["status"] = "cancelled"
    del lines[2:]


@pytest.mark.parametrize("change", [expired, half_failed, failed, cancelled], ids=lambda change: change.__name__)
def test_batches_that_end_badly_once(change, town, server):
    server.batch_trouble = once(change)
    batch(town, server)
    assert complete(town)
    assert (
        sizes_of(server) == {expired: [11, 6], half_failed: [11, 6], failed: [11, 5, 5, 1], cancelled: [11, 9]}[change]
    )


@pytest.mark.parametrize("change", [expired, half_failed, failed], ids=lambda change: change.__name__)
def test_batches_that_always_end_badly_are_given_up_and_listed(change, town, server):
    server.batch_trouble = change
    if change is expired:
        server.batch_trouble = lambda found, lines: (
            expired(found, lines)
            or [line.update(response=None, error={"code": "batch_expired", "message": "not in time"}) for line in lines]
        )
    with pytest.raises(DatasetError, match="have no text yet"):
        batch(town, server)
    faults = report_of(town)["faults"]
    assert faults and len(faults) + report_of(town)["good"] == 11
    reasons = {expired: "not in time", half_failed: '500 {"error"', failed: "the batch failed: too large"}
    assert all(fault["why"].startswith(f"not answered: {reasons[change]}") for fault in faults)


def test_requests_refused_one_by_one_are_listed_and_not_asked_again(town, server):
    def refuse(found, lines):
        lines[3]["response"] = {"status_code": 400, "body": {"error": {"message": "bad picture"}}}

    server.batch_trouble = refuse
    with pytest.raises(DatasetError, match="1 pictures"):
        batch(town, server)
    assert len(server.batches) == 1 and "bad picture" in report_of(town)["faults"][0]["why"]


def test_batches_are_split_by_count_and_by_size(town, server):
    batch(town, server, sizes=BatchSizes(poll=0.01, requests=4))
    assert complete(town)
    assert sizes_of(server) == [4, 4, 3]
    (town / "prompts_train.csv").unlink()
    batch(town, server, sizes=BatchSizes(poll=0.01, megabytes=0.02), model="another")
    made = [server.files[one["input_file_id"]] for one in [*server.batches.values()][3:]]
    assert len(made) > 1 and all(len(raw) <= 20_000 for raw in made)


def test_a_server_busy_with_files_and_batches(town, server):
    met = []

    def busy(body, number):
        if "batch" in body and len(met) < 2:
            met.append(1)
            return 503, {"error": {"message": "busy"}}
        return None

    server.trouble = busy
    batch(town, server)
    assert complete(town)


def test_batches_are_as_large_as_the_limit_allows(town, server):
    batch(town, server, **PRICES, max_cost=8.0)  # 2.7 each are set aside, before anything is known
    assert complete(town) and sizes_of(server) == [2, 2, 2, 2, 2, 1]
    assert report_of(town)["spent"] == pytest.approx(server.cost(100, 400))


def test_the_limit_holds_for_batches(town, server):
    with pytest.raises(DatasetError, match="9 were not asked for --max-cost"):
        batch(town, server, **PRICES, max_cost=2.8)
    assert sizes_of(server) == [1, 1] and server.cost(100, 400) <= 2.8


# Killed at the moments that matter, one at a time.


class Killed(BaseException):
    pass


@pytest.mark.parametrize("moment", ["_write", "upload", "make_batch", "batch", "lines", "answer_of"])
def test_after_a_kill_the_batch_is_found_again(moment, town, server, monkeypatch):
    owner = {"_write": Batches, "answer_of": Ledger}.get(moment, Server)
    whole = getattr(owner, moment)
    times = []

    def killing(self, *given, **named):
        found = whole(self, *given, **named)
        times.append(1)
        if moment != "answer_of" or len(times) == 5:
            raise Killed
        return found

    monkeypatch.setattr(owner, moment, killing)
    with pytest.raises(Killed):
        batch(town, server)
    monkeypatch.setattr(owner, moment, whole)
    batch(town, server)
    assert complete(town)
    assert set(server.asked.values()) == {1}
    assert not list((town / "captions").glob("*.batch"))


def test_a_batch_nobody_can_find_counts_as_spent(town, server, monkeypatch):
    def killing(self, file_id, mark):
        raise Killed

    whole = Server.make_batch
    monkeypatch.setattr(Server, "make_batch", killing)
    with pytest.raises(Killed):
        batch(town, server, **PRICES, max_cost=30.0)
    monkeypatch.setattr(Server, "make_batch", whole)
    server.lists_batches = False
    with pytest.raises(DatasetError, match="--max-cost"):
        batch(town, server, **PRICES, max_cost=30.0)
    assert not server.batches


def test_what_is_in_a_batch_is_not_asked_live(town, server, monkeypatch):
    def killing(self, batch_id):
        raise Killed

    whole = Server.batch
    monkeypatch.setattr(Server, "batch", killing)
    with pytest.raises(Killed):
        batch(town, server, split=["train"])
    monkeypatch.setattr(Server, "batch", whole)
    with pytest.raises(DatasetError, match="8 pictures have no text yet"):
        caption(town, server)
    assert len(server.chats) == 3
    batch(town, server)
    assert set(server.asked.values()) == {1}
    assert len(read_prompts_csv(town / "prompts_train.csv")) == 8


def test_a_server_without_batches_says_so_and_live_goes_on(town, server, monkeypatch):
    monkeypatch.setattr(Server, "_send", lambda self, *a, **k: whole(self, *a, **k) if "chat" in a[1] else no(self))
    with pytest.raises(ConfigError, match="takes no such batch"):
        batch(town, server)
    caption(town, server)
    assert complete(town)


def no(server):
    return _Refused(why="404 no such thing")


whole = Server._send


def test_a_server_that_is_gone_says_so(town, server, monkeypatch):
    monkeypatch.setattr(Server, "upload", lambda self, path: Failed(why="no connection"))
    with pytest.raises(ServerError, match="no connection"):
        batch(town, server)


def test_objects_by_batch(town, server):
    server.answer = lambda body: completion("a red car, parked")
    batch(town, server, Kind.OBJECTS)
    prompts = json.loads((town / "instance_prompts_train.json").read_text())
    assert prompts and all(text == "a red car, parked" for one in prompts.values() for text in one.values())
