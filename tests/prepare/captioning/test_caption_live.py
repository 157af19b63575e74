"""A server that fails in every way, asked live: all is completed or listed, nothing is paid beyond the limit."""

import errno
import json
import os
import struct
import threading
import time
import zlib
from collections import Counter

import pytest
from asked import caption, files_of

from fake_openai import SENTINEL, completion, fingerprint, picture_of
from mamoe.data.folder.prompts import read_instance_prompts, read_prompts_csv
from mamoe.errors import ConfigError, DatasetError
from mamoe.prepare.captioning.choices import Kind, Only
from mamoe.prepare.captioning.server import ServerError
from mamoe.prepare.check import check_folder
from mamoe.vocabulary.panoptic import read_panoptic

PRICES = {"price_in": 100.0, "price_out": 400.0}


def first_times(times, trouble):
    """A trouble that every picture meets that many times."""
    met, lock = Counter(), threading.Lock()

    def of(body, number):
        with lock:
            met[fingerprint(body)] += 1
            return trouble if met[fingerprint(body)] <= times else None

    return of


def report_of(town, kind=Kind.PICTURES):
    return json.loads((town / f"captions/{kind}.report.json").read_text())


def test_captions_are_what_the_trainer_reads(town, server):
    *_, last = caption(town, server)
    assert last.startswith("11 of 11 pictures have their text, 11 of them new")
    assert len(read_prompts_csv(town / "prompts_train.csv")) == 8
    assert not check_folder(town).problems
    assert report_of(town)["good"] == 11 and not report_of(town)["faults"]
    assert all(header["Authorization"] == f"Bearer {SENTINEL}" for header in server.headers)


def test_objects_are_shown_alone_and_answers_go_to_their_segments(town, server):
    server.answer = lambda body: completion(f"thing of {picture_of(body).width} by {picture_of(body).height}")
    caption(town, server, Kind.OBJECTS, margin=0.0)
    prompts = read_instance_prompts(town / "instance_prompts_train.json")
    seen = 0
    for name, by_segment in prompts.items():
        panoptic = read_panoptic(town / "panoptic/train" / name)
        for segment, text in by_segment.items():
            rows, columns = (panoptic.segment_id == segment).nonzero()
            assert text == f"thing of {columns.max() - columns.min() + 1} by {rows.max() - rows.min() + 1}"
            assert (panoptic.segment_id == segment).sum() >= 60
            seen += 1
    assert seen >= 10
    assert not check_folder(town).problems


def test_only_the_classes_asked_for(town, server):
    caption(town, server, Kind.OBJECTS, classes="person")
    prompts = read_instance_prompts(town / "instance_prompts_train.json")
    classes = {read_panoptic(town / "panoptic/train" / name).classes[s] for name, one in prompts.items() for s in one}
    assert classes == {11}
    with pytest.raises(ConfigError, match="did you mean 'person'"):
        caption(town, server, Kind.OBJECTS, classes="persen")


@pytest.mark.parametrize(
    "trouble",
    [
        (500, {}, b"{}"),
        (503, {"Retry-After": "0.05"}, b"<html>busy</html>"),
        (429, {"Retry-After": "0.05"}, b'{"error": {"message": "slow down"}}'),
        (200, {}, b'{"choices": [{"mess'),  # JSON that ends too soon
        (200, {"Content-Length": "5000"}, b'{"choices": ['),  # a connection that does
        (200, {}, b"[]"),
        (200, {}, b'{"choices": []}'),
    ],
    ids=lambda trouble: f"{trouble[0]} {trouble[2][:12]!r}",
)
def test_passing_trouble(trouble, town, server):
    server.trouble = first_times(2, trouble)
    caption(town, server)
    assert report_of(town)["good"] == 11
    assert len(server.chats) == 33 and set(server.asked.values()) == {1}


def test_time_outs(town, server):
    met = first_times(1, 0.6)
    server.trouble = met
    caption(town, server, timeout=0.2, split=["val"])
    assert report_of(town)["good"] == 3


def test_retry_after_is_heeded_by_all_requests(town, server):
    times = []

    def trouble(body, number):
        times.append(time.monotonic())
        return (429, {"Retry-After": "0.4"}, b"{}") if number == 1 else None

    server.trouble = trouble
    caption(town, server, workers=1)
    assert times[1] - times[0] >= 0.4 and times[-1] - times[1] < 3


def test_a_server_that_is_down_ends_it_and_keeps_what_is_done(town, server):
    server.trouble = lambda body, number: None if number <= 4 else (500, {}, b"{}")
    with pytest.raises(ServerError, match="5 requests in a row"):
        caption(town, server, workers=1)
    assert ServerError.exit_code == 75
    assert len(read_prompts_csv(town / "prompts_train.csv")) == 4
    server.trouble = lambda body, number: None
    caption(town, server)
    assert len(read_prompts_csv(town / "prompts_train.csv")) == 8 and set(server.asked.values()) == {1}


@pytest.mark.parametrize(
    ("status", "code"),
    [(401, "invalid_api_key"), (403, "x"), (404, "model_not_found"), (302, "x"), (429, "insufficient_quota")],
)
def test_what_asking_again_cannot_mend_ends_it_at_once(status, code, town, server):
    said = json.dumps({"error": {"message": f"no: {SENTINEL}", "code": code}}).encode()
    server.trouble = lambda body, number: (status, {"Location": "http://127.0.0.1:1/v1"}, said)
    with pytest.raises(ConfigError) as raised:
        caption(town, server, workers=1)
    assert len(server.chats) == 1
    assert SENTINEL not in str(raised.value) and "no: [key]" in str(raised.value)


def test_answers_that_do_not_serve_are_listed_and_not_written(town, server):
    bad = [
        completion(""),
        completion("I'm sorry, I can't help with that."),
        completion(None, refusal="no"),
        completion("a street", finish="length"),
        completion("Sure! Here is a caption"),
        completion("word " * 200),
    ]
    given = iter(bad)
    lock = threading.Lock()

    def answer(body):
        with lock:
            return next(given, completion("a street"))

    server.answer = answer
    with pytest.raises(DatasetError, match="6 pictures have no text yet"):
        caption(town, server)
    kinds = Counter(fault["why"].partition(":")[0] for fault in report_of(town)["faults"])
    assert kinds == {
        "empty": 1,
        "refusal": 2,
        "cut off after max_tokens (200)": 1,
        "leaked instructions": 1,
        "too long": 1,
    }
    # Asked again by the same words, nothing is sent: it is answered. --only failed asks again.
    before = len(server.chats)
    with pytest.raises(DatasetError, match="6 pictures"):
        caption(town, server)
    assert len(server.chats) == before
    caption(town, server, only=Only.FAILED)
    assert len(server.chats) == before + 6
    assert not check_folder(town).problems


def test_a_request_the_server_will_not_take_is_listed(town, server):
    refused = []

    def trouble(body, number):
        if not refused or fingerprint(body) in refused:
            refused.append(fingerprint(body))
            return 400, {}, b'{"error": {"message": "bad picture"}}'
        return None

    server.trouble = trouble
    with pytest.raises(DatasetError, match="1 pictures have no text yet"):
        caption(town, server, workers=1)
    (fault,) = report_of(town)["faults"]
    assert fault["why"] == "refused by the server: 400 bad picture" and len(refused) == 1


def test_a_server_that_takes_nothing_ends_it(town, server):
    server.trouble = lambda body, number: (400, {}, b'{"error": {"message": "no \\u001b[31m such setting"}}')
    with pytest.raises(ConfigError, match=r"refused 20 requests in a row; the last: 400 no  ?\[31m such setting"):
        caption(town, server, Kind.OBJECTS)
    assert 20 <= len(server.chats) < 30


def test_a_full_disk_loses_nothing_that_was_answered(town, server, monkeypatch):
    write, count = os.write, []

    def full(file, raw):
        count.append(1)
        if len(count) == 12:
            write(file, raw[: len(raw) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, raw)

    monkeypatch.setattr("mamoe.prepare.captioning.journal.os.write", full)
    with pytest.raises(OSError, match="No space left"):
        caption(town, server, workers=2)
    monkeypatch.undo()
    monkeypatch.setenv("OPENAI_API_KEY", SENTINEL)
    done = len(read_prompts_csv(town / "prompts_train.csv"))
    assert done >= 3
    caption(town, server)
    assert report_of(town)["good"] == 11 - done and not report_of(town)["faults"]
    assert sum(server.asked.values()) <= 13  # of at most two the answer could not be noted


def bomb() -> bytes:
    """A PNG that says it has 50,000 x 50,000 pixels."""
    parts = [(b"IHDR", struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)), (b"IDAT", b"\0" * 1000), (b"IEND", b"")]
    made = [struct.pack(">I", len(d)) + name + d + struct.pack(">I", zlib.crc32(name + d)) for name, d in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(made)


@pytest.mark.parametrize("raw", [b"no picture", bomb()], ids=["no picture", "bomb"])
def test_a_damaged_picture_is_listed_and_the_others_go_on(raw, town, server):
    (town / "images/val/scene_000001.png").write_bytes(raw)
    with pytest.raises(DatasetError, match="1 pictures"):
        caption(town, server)
    (fault,) = report_of(town)["faults"]
    assert fault["item"] == "val/scene_000001.png" and "Cannot read the picture" in fault["why"]
    assert report_of(town)["good"] == 10


def test_the_same_picture_is_asked_about_once(town, server):
    first, second = (town / f"images/train/scene_00000{i}.png" for i in (0, 1))
    second.write_bytes(first.read_bytes())
    caption(town, server)
    assert len(server.chats) == 10
    prompts = read_prompts_csv(town / "prompts_train.csv")
    assert prompts["scene_000000.png"] == prompts["scene_000001.png"]


def test_no_more_workers_than_said(town, server):
    server.trouble = lambda body, number: 0.05
    caption(town, server, workers=3)
    assert server.most_in_flight == 3


# Money.


@pytest.mark.parametrize("share", [0.0, 0.05, 0.3, 0.9])
def test_never_above_the_limit(share, town, server):
    whole = 11 * (700 * 100 + 12 * 400) / 1e6
    with pytest.raises(DatasetError, match="were not asked for --max-cost"):
        caption(town, server, **PRICES, max_cost=share * whole)
    assert server.cost(100, 400) <= share * whole
    assert report_of(town)["spent"] == pytest.approx(server.cost(100, 400))


def test_never_above_the_limit_with_pictures_of_many_sizes(town, server):
    """Objects come small ones first; a model counts by patches."""

    def answer(body):
        width, height = picture_of(body).size
        return completion("a thing", tokens=(300 + width * height // 2, 10))

    server.answer = answer
    with pytest.raises(DatasetError, match="--max-cost"):
        caption(town, server, Kind.OBJECTS, **PRICES, max_cost=2.5, workers=4)
    assert 1.0 < server.cost(100, 400) <= 2.5


def test_with_enough_all_are_asked_and_earlier_sessions_count(town, server):
    aside = 3 * 4  # the most that one request may cost before the first answer came is about 2.6
    with pytest.raises(DatasetError, match="--max-cost"):
        caption(town, server, **PRICES, max_cost=2.0)
    assert not server.chats
    caption(town, server, **PRICES, max_cost=aside)
    assert len(server.chats) == 11
    (town / "prompts_train.csv").unlink()
    with pytest.raises(DatasetError, match="--max-cost"):
        caption(town, server, **PRICES, max_cost=server.cost(100, 400), model="another")
    assert len(server.chats) == 11


def test_what_was_asked_before_anybody_gave_prices_counts_at_todays(town, server):
    caption(town, server, preview=5)
    before = server.cost(100, 400)
    assert before > 0 and len(server.chats) == 5
    with pytest.raises(DatasetError, match="--max-cost"):
        caption(town, server, **PRICES, max_cost=before)
    assert len(server.chats) == 5 and report_of(town)["spent"] == pytest.approx(before)
    caption(town, server, **PRICES, max_cost=before + 6 * 3)
    assert len(server.chats) == 11 and report_of(town)["spent"] == pytest.approx(server.cost(100, 400))


def test_a_request_that_was_lost_before_anybody_gave_prices_counts_in_full(town, server):
    server.trouble = lambda body, number: 0.5
    with pytest.raises((DatasetError, ServerError)):
        caption(town, server, timeout=0.1, workers=1)
    asked = len(server.chats)
    with pytest.raises(DatasetError, match="--max-cost"):
        caption(town, server, **PRICES, max_cost=2.5 * asked)
    assert len(server.chats) == asked and report_of(town)["spent"] >= 2.5 * asked


def test_what_may_have_been_charged_counts_in_full(town, server):
    server.trouble = lambda body, number: 0.5 if number <= 2 else None
    with pytest.raises(DatasetError, match="--max-cost"):
        caption(town, server, **PRICES, max_cost=8.0, timeout=0.1, workers=2)
    assert server.cost(100, 400) <= report_of(town)["spent"] <= 8.0


def test_a_server_that_does_not_count_is_charged_the_most(town, server):
    server.answer = lambda body: completion("a street", tokens=None)
    with pytest.raises(DatasetError, match="--max-cost"):
        caption(town, server, **PRICES, max_cost=9.0)
    assert len(server.chats) == 3  # 2.7 each


def test_a_server_that_counts_more_than_was_published_stops_it_early(town, server):
    server.answer = lambda body: completion("a street", tokens=(40_000, 10))
    with pytest.raises(DatasetError, match="--max-cost"):
        caption(town, server, **PRICES, max_cost=13.0)
    assert server.cost(100, 400) <= 13.0


def test_a_dry_run_asks_and_writes_nothing(town, server):
    before = files_of(town)
    (line,) = caption(town, server, dry_run=True, **PRICES)
    assert "11 to ask" in line and "at these prices" in line
    assert files_of(town) == before and not server.chats
