"""The page in a real browser when things go wrong: cancelled, hostile, lost; headless Chromium, or it skips."""

import json
import re

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("playwright.sync_api", reason="needs playwright")

from browsing import CAR, PERSON, SKY, Tab, assert_painted, expect
from serving import Served

pytestmark = pytest.mark.browser

HOSTILE = "<img src=x onerror=alert(1)>\"'`&</textarea><script>alert(2)</script>"


def test_a_drawing_is_cancelled(tab):
    tab.rectangle("car", 5, 5, 30, 30)
    tab.page.fill("#steps", "1000")
    tab.page.click("#draw")
    expect(tab.page.locator("#said")).to_have_text(re.compile(r"Step \d+ of 1000"), timeout=10_000)
    tab.page.keyboard.press("Escape")
    expect(tab.page.locator("#said")).to_have_text("Cancelled.")
    expect(tab.page.locator("#cancel")).to_be_hidden()
    tab.draw()
    expect(tab.complaint()).to_be_hidden()


def test_two_tabs_do_not_mix(tab, context, served, tmp_path):
    other = Tab(context, served.address)
    other.rectangle("sky", 30, 30, 63, 63)
    tab.page.bring_to_front()
    tab.rectangle("car", 0, 0, 20, 20)
    for one in (tab, other):  # at once: one waits for the other
        one.page.bring_to_front()
        one.page.fill("#steps", "8")
        one.page.click("#draw")
    for one in (tab, other):
        expect(one.page.locator("#said")).to_have_text(re.compile("^Drawn in"), timeout=20_000)
    for one in (tab, other):
        one.page.bring_to_front()
        one.reload()
        expect(one.page.locator("#history li")).to_have_count(1)
    assert_painted(tab.map(tmp_path), (1, CAR, 0, 0, 20, 20))
    assert_painted(other.map(tmp_path), (1, SKY, 30, 30, 63, 63))
    other.page.close()

    tab.page.click("#new")
    tab.page.click("#start-again")  # the closed tab's work
    assert_painted(tab.map(tmp_path), (1, SKY, 30, 30, 63, 63))


def test_hostile_text_stays_text(tab, tmp_path):
    tab.rectangle("car", 5, 5, 40, 40)
    tab.prompt_of(1).fill(HOSTILE)
    tab.page.fill("#prompt", HOSTILE)
    tab.draw()
    expect(tab.page.locator("#history li p")).to_contain_text(HOSTILE)
    assert tab.page.locator("#history script, #history [onerror]").count() == 0
    assert json.loads(tab.saved("#save-words", tmp_path).read_text())["instance_prompts"] == {"1": HOSTILE}
    tab.reload()
    expect(tab.prompt_of(1)).to_have_value(HOSTILE)

    odd = tmp_path / "<img src=x onerror=alert(3)>.json"
    odd.write_text(json.dumps({"prompt": "x", "instance_prompts": {HOSTILE: "x"}}))
    tab.give(odd)
    expect(tab.complaint()).to_contain_text("is no number of a segment")
    assert tab.page.locator("[role=alert] img").count() == 0


def test_wrong_files_change_nothing(tab, tmp_path):
    tab.rectangle("car", 5, 5, 40, 40)
    picture = tmp_path / "photo.png"
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(picture, format="JPEG")
    foreign, large = tmp_path / "foreign.png", tmp_path / "large.png"
    Image.fromarray(np.full((64, 64, 3), 200, np.uint8)).save(foreign)
    large.write_bytes(bytes(25 * 2**20))
    words, broken, none = tmp_path / "list.json", tmp_path / "broken.json", tmp_path / "none.json"
    words.write_text('["a"]')
    broken.write_text("{")
    none.write_text('{"seed": 1}')
    for file, said in [
        (picture, "Lossy formats change ids"),
        (foreign, "of other classes"),
        (large, "larger than any map"),
        (words, "it holds no prompts"),
        (broken, "broken.json is no JSON"),
        (none, "neither prompt nor instance_prompts"),
    ]:
        tab.give(file)
        expect(tab.complaint()).to_contain_text(said)
        tab.page.get_by_label("Close this message").click()
    assert_painted(tab.map(tmp_path), (1, CAR, 5, 5, 40, 40))

    more = tmp_path / "more.json"
    more.write_text(json.dumps({"prompt": "x", "instance_prompts": {"1": "a red car", "77": "a cat"}}))
    tab.give(more)
    expect(tab.complaint()).to_contain_text("1 prompts are for segments that this map does not have: 77")
    expect(tab.prompt_of(1)).to_have_value("a red car")


def test_nothing_is_lost_when_the_server_is_started_again(tab, served, tmp_path):
    tab.rectangle("car", 5, 5, 40, 40)
    served.stop()
    try:
        tab.rectangle("person", 50, 50, 60, 60)
        tab.page.fill("#steps", "2")
        tab.page.click("#draw")
        expect(tab.complaint()).to_contain_text("The server does not answer")
        assert_painted(tab.map(tmp_path), (1, CAR, 5, 5, 40, 40), (2, PERSON, 50, 50, 60, 60))
    finally:
        served.start()
    tab.draw()
    expect(tab.complaint()).to_be_hidden()
    tab.reload()
    assert_painted(tab.map(tmp_path), (1, CAR, 5, 5, 40, 40), (2, PERSON, 50, 50, 60, 60))


def test_a_token_opens_the_page_and_leaves_the_address(studio, context):
    served = Served(studio, token="open-sesame")
    try:
        page = context.new_page()
        page.goto(served.address)
        expect(page.get_by_role("alert")).to_contain_text("needs the token")
        tab = Tab(context, f"{served.address}#token=open-sesame")
        assert tab.page.url == served.address
        tab.reload()
        tab.rectangle("car", 5, 5, 40, 40)
        tab.draw()
    finally:
        served.stop()
