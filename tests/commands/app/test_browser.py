"""The page in a real browser, painted in and drawn with: headless Chromium; skips where there is none."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from mamoe.vocabulary.panoptic import read_panoptic

pytest.importorskip("playwright.sync_api", reason="needs playwright")

from browsing import CAR, PERSON, ROAD, SKY, VOID, Tab, assert_painted, expect

pytestmark = pytest.mark.browser


def test_paint_prompt_draw_save_reload_and_open_again(tab, context, served, tmp_path):
    boxes = (1, SKY, 0, 0, 63, 20), (2, ROAD, 0, 40, 63, 63), (3, CAR, 8, 30, 30, 50), (4, CAR, 36, 30, 60, 50)
    for (_, _, *box), name in zip(boxes, ("sky", "road", "car", "car"), strict=True):
        tab.rectangle(name, *box)
    tab.prompt_of(3).fill("a red car")
    tab.prompt_of(4).fill("a yellow car")
    tab.page.fill("#seed", "7")
    assert_painted(tab.map(tmp_path), *boxes)

    tab.draw()
    size = tab.page.evaluate(
        "[document.getElementById('picture').naturalWidth, document.getElementById('picture').naturalHeight]"
    )
    assert size == [64, 64]
    expect(tab.page.locator("#history li")).to_have_count(1)
    words = json.loads(tab.saved("#save-words", tmp_path).read_text())
    assert words["instance_prompts"] == {"3": "a red car", "4": "a yellow car"} and words["seed"] == 7
    with tab.page.expect_download() as given:
        tab.page.get_by_label("Save picture: picture 1").click()
    first = np.array(Image.open(given.value.path()))

    tab.reload()
    assert_painted(tab.map(tmp_path), *boxes)
    expect(tab.prompt_of(3)).to_have_value("a red car")
    expect(tab.page.locator("#history li")).to_have_count(1)
    expect(tab.page.locator("#seed")).to_have_value("7")

    other = Tab(context, served.address)  # the files, in a tab that knows nothing of it
    other.give(tmp_path / "save-map-layout.png", tmp_path / "save-words-layout.json")
    expect(other.prompt_of(4)).to_have_value("a yellow car")
    assert_painted(other.map(tmp_path), *boxes)
    other.draw()
    with other.page.expect_download() as given:
        other.page.get_by_label("Save picture: picture 1").click()
    assert (np.array(Image.open(given.value.path())) == first).all() and not other.faults


def test_tools_paint_whole_numbers(tab, tmp_path):
    y, x = np.mgrid[:64, :64]
    tab.choose("car")
    tab.page.fill("#brush", "9")
    tab.take("brush")
    tab.drag((20, 20), (20, 20))
    disc = np.hypot(x - 20, y - 20) <= 4.5
    painted = tab.map(tmp_path)
    assert ((painted.segment_id == 1) == disc).all() and (painted.class_id[disc] == CAR).all()
    assert (painted.class_id[~disc] == VOID).all()

    tab.drag((20, 20), (44, 20))  # on with the same car
    line = (np.abs(y - 20) <= 4.5) & (x >= 20) & (x <= 44) | disc | (np.hypot(x - 44, y - 20) <= 4.5)
    assert ((tab.map(tmp_path).segment_id == 1) == line).all()

    tab.choose("sky")
    tab.take("fill")
    tab.drag((60, 60))
    filled = tab.map(tmp_path)
    assert ((filled.class_id == SKY) == ~line).all() and filled.classes == {1: CAR, 2: SKY}

    tab.choose("person")
    tab.take("lasso")
    tab.drag((10, 40), (30, 40), (30, 60), (10, 60))
    inside = (x >= 10) & (x <= 30) & (y >= 40) & (y <= 60)
    assert ((tab.map(tmp_path).class_id == PERSON) == inside).all()

    tab.take("eraser")
    tab.drag((20, 50), (20, 50))
    erased = tab.map(tmp_path)
    assert ((erased.class_id == VOID) == (np.hypot(x - 20, y - 50) <= 4.5)).all()
    assert (erased.segment_id[erased.class_id == VOID] == 0).all()

    for _ in range(5):
        tab.page.keyboard.press("Control+z")
    assert (tab.map(tmp_path).class_id == VOID).all()
    for _ in range(5):
        tab.page.keyboard.press("Control+Shift+Z")
    again = tab.map(tmp_path)
    assert (again.class_id == erased.class_id).all() and (again.segment_id == erased.segment_id).all()


def test_a_stroke_is_seen_while_it_is_painted(tab):
    tab.rectangle("road", 0, 0, 63, 63)
    tab.choose("car")
    tab.page.fill("#brush", "7")
    tab.take("brush")
    shown = "document.getElementById('map').toDataURL()"
    before = tab.page.evaluate(shown)
    tab.page.mouse.move(*tab.at(10, 10))
    tab.page.mouse.down()
    for point in [(40, 12), (50, 50), (0, 63)]:
        tab.page.mouse.move(*tab.at(*point))
        tab.page.wait_for_timeout(50)
    during = tab.page.evaluate(shown)
    tab.page.mouse.up()
    assert during == tab.page.evaluate(shown) != before  # what is painted piece by piece is what is painted at once


def test_colours_are_found_both_ways(tab):
    tab.rectangle("car", 5, 5, 30, 30)
    tab.rectangle("person", 40, 40, 60, 60)
    tab.take("pick")
    tab.drag((10, 10))
    expect(tab.page.get_by_role("radio", name="car", exact=True)).to_be_checked()
    expect(tab.page.locator("#current")).to_have_text("car, number 1")
    tab.page.keyboard.down("Alt")
    tab.drag((50, 50))
    tab.page.keyboard.up("Alt")
    expect(tab.page.locator("#current")).to_have_text("person, number 2")
    tab.page.get_by_role("radio", name="car", exact=True).hover()
    dimmed = "([x, y]) => document.getElementById('above').getContext('2d').getImageData(x, y, 1, 1).data[3]"
    assert tab.page.evaluate(dimmed, [10, 10]) == 0 and tab.page.evaluate(dimmed, [50, 50]) > 100


def test_zoom_and_the_picture_over_the_map(tab, tmp_path):
    page = tab.page
    zoom = float(page.locator("#zoom").text_content().split()[0])
    page.locator("#map").focus()
    page.keyboard.press("-")
    assert float(page.locator("#zoom").text_content().split()[0]) < zoom
    page.keyboard.press("0")
    assert float(page.locator("#zoom").text_content().split()[0]) == zoom
    page.keyboard.press("-")
    tab.rectangle("car", 3, 7, 50, 60)
    assert_painted(tab.map(tmp_path), (1, CAR, 3, 7, 50, 60))
    tab.draw()
    over = page.locator("#over-picture")
    expect(over).to_have_css("opacity", "0")
    page.fill("#over", "50")
    expect(over).to_have_css("opacity", "0.5")
    assert over.bounding_box() == page.locator("#map").bounding_box()


def test_what_vanishes_is_said_before_drawing(tab):
    tab.rectangle("car", 0, 0, 31, 31)
    tab.rectangle("person", 40, 40, 42, 42)
    warning = tab.page.locator("#vanishing")
    expect(warning).to_contain_text("person, number 2")
    expect(warning).not_to_contain_text("car")
    expect(tab.page.locator("#instances tbody tr").nth(0)).to_contain_text("16.0")
    expect(tab.page.locator("#instances tbody tr").nth(1)).to_contain_text("0.1 – vanishes")
    tab.take("rectangle")
    tab.drag((40, 40), (60, 60))
    expect(warning).to_be_hidden()


def test_one_instance_is_redrawn(tab):
    tab.rectangle("road", 0, 0, 63, 63)
    tab.rectangle("car", 20, 20, 40, 40)
    tab.page.get_by_label("Redraw number 2, car, alone").click()
    expect(tab.complaint()).to_contain_text("There is no picture yet")
    tab.draw()
    tab.prompt_of(2).fill("a red car")
    tab.page.fill("#seed", "9")
    tab.page.get_by_label("Redraw number 2, car, alone").click()
    expect(tab.page.locator("#picture-words")).to_contain_text("number 2 redrawn", timeout=20_000)
    expect(tab.page.locator("#history li")).to_have_count(2)
    pictures = []
    for number in (1, 2):
        with tab.page.expect_download() as given:
            tab.page.get_by_label(f"Save picture: picture {number}").click()
        pictures.append(np.array(Image.open(given.value.path())))
    changed = (pictures[0] != pictures[1]).any(axis=2)
    assert changed[20:41, 20:41].any() and not changed[:12].any() and not changed[:, 49:].any()


def test_starts(tab, scenes, tmp_path):
    page = tab.page
    page.click("#new")
    page.click("#start-template")
    expect(page.locator("#instances tbody tr").first).to_be_visible()
    template = tab.map(tmp_path)
    assert SKY in template.classes.values() and CAR not in template.classes.values()

    page.click("#new")
    page.select_option("#split", "test")
    name = sorted(path.name for path in (scenes / "panoptic" / "test").glob("*.png"))[1]
    page.fill("#map-name", name)
    page.click("#start-map")
    wanted = read_panoptic(scenes / "panoptic" / "test" / name)
    segment = next(iter(json.loads((scenes / "instance_prompts_test.json").read_text())[name]))
    expect(tab.prompt_of(int(segment))).not_to_have_value("")
    assert (tab.map(tmp_path).segment_id == wanted.segment_id).all()

    page.click("#new")
    page.fill("#new-width", "96")
    page.click("#start-empty")
    expect(page.locator("#map-size")).to_have_text("96 × 64 pixels, 12 × 8 latent cells")
    page.click("#undo")
    assert (tab.map(tmp_path).class_id == wanted.class_id).all()


def test_all_of_it_by_keyboard(tab, tmp_path):
    page = tab.page
    page.get_by_role("radio", name="road", exact=True).focus()
    page.keyboard.press("ArrowDown")  # sidewalk
    page.keyboard.press("n")
    page.keyboard.press("r")
    page.locator("#map").focus()
    page.keyboard.press("ArrowRight")  # (40, 32): the cursor begins in the middle, and moves by cells
    page.keyboard.press(" ")
    for key in ("ArrowRight", "ArrowDown", "Shift+ArrowDown"):
        page.keyboard.press(key)
    page.keyboard.press(" ")
    expect(page.locator("#status")).to_have_text("48, 41: sidewalk, number 1")
    assert_painted(tab.map(tmp_path), (1, 1, 40, 32, 48, 41))
    page.fill("#steps", "2")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#said")).to_have_text(re.compile("^Drawn in"), timeout=20_000)


def test_everything_has_a_name(tab):
    tab.rectangle("car", 5, 5, 40, 40)
    tab.draw()
    tab.page.click("#new")
    nameless = """[...document.querySelectorAll('button, input, select, textarea, img[src], [tabindex], progress')]
        .filter((one) => !(one.ariaLabel || one.labels?.length || one.textContent.trim() || one.alt))
        .map((one) => one.outerHTML)"""
    (over,) = tab.page.evaluate(nameless)  # the picture over the map, which is beside it too
    assert 'id="over-picture"' in over


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(browser, served, scheme):
    """Contrast of at least 4.5, as WCAG asks for."""
    context = browser.new_context(color_scheme=scheme)
    tab = Tab(context, served.address)
    tab.rectangle("person", 5, 5, 6, 6)
    expect(tab.page.locator("#vanishing")).to_be_visible()
    for selector in ("body", ".soft", "#vanishing", "#draw", ".lost", "#undo"):
        ink, ground = tab.page.evaluate(
            """(selector) => {
                let one = document.querySelector(selector);
                const ink = getComputedStyle(one).color;
                while (getComputedStyle(one).backgroundColor === 'rgba(0, 0, 0, 0)') one = one.parentElement;
                return [ink, getComputedStyle(one).backgroundColor].map((text) => text.match(/[\\d.]+/g).map(Number));
            }""",
            selector,
        )
        light, dark = sorted((luminance(ink[:3]), luminance(ground[:3])), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, (selector, ink, ground)
    context.close()


def luminance(rgb: list[float]) -> float:
    linear = [c / 255 / 12.92 if c / 255 <= 0.04045 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in rgb]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
