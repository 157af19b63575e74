"""A tab with the page, as people use it."""

import re
from pathlib import Path

import numpy as np
from playwright.sync_api import expect

from mamoe.vocabulary.panoptic import PanopticMap, read_panoptic

VOID, ROAD, SKY, PERSON, CAR = 19, 0, 10, 11, 13


class Tab:
    """A tab with the page, and what people do in it. Pixels are those of the map."""

    def __init__(self, context, address: str) -> None:
        self.page = context.new_page()
        self.faults: list[str] = []
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.faults.append(dialog.message), dialog.dismiss()))
        self.open(address)

    def open(self, address: str) -> None:
        self.page.goto(address)
        self.ready()

    def ready(self) -> None:
        self.page.wait_for_selector("html[data-ready]", timeout=10_000)

    def reload(self) -> None:
        self.page.wait_for_timeout(500)  # what was painted is kept a moment later
        self.page.reload()
        self.ready()

    def at(self, x: int, y: int) -> tuple[float, float]:
        box = self.page.locator("#map").bounding_box()
        width, height = self.page.evaluate(
            "[document.getElementById('map').width, document.getElementById('map').height]"
        )
        return box["x"] + (x + 0.5) * box["width"] / width, box["y"] + (y + 0.5) * box["height"] / height

    def drag(self, *points: tuple[int, int]) -> None:
        self.page.mouse.move(*self.at(*points[0]))
        self.page.mouse.down()
        for point in points[1:]:
            self.page.mouse.move(*self.at(*point))
        self.page.mouse.up()

    def take(self, tool: str) -> None:
        self.page.check(f"input[name=tool][value={tool}]")

    def choose(self, name: str) -> None:
        self.page.get_by_role("radio", name=name, exact=True).check()

    def rectangle(self, name: str, left: int, top: int, right: int, bottom: int) -> None:
        """A new instance of a class."""
        self.choose(name)
        self.page.click("#new-instance")
        self.take("rectangle")
        self.drag((left, top), (right, bottom))

    def prompt_of(self, segment: int):
        return self.page.get_by_label(f"Prompt of number {segment},")

    def draw(self, steps: int = 2) -> None:
        self.page.fill("#steps", str(steps))
        self.page.click("#draw")
        expect(self.page.locator("#said")).to_have_text(re.compile("^Drawn in"), timeout=20_000)

    def saved(self, button: str, folder: Path) -> Path:
        with self.page.expect_download() as given:
            self.page.click(button)
        path = folder / f"{button[1:]}-{given.value.suggested_filename}"
        given.value.save_as(path)
        return path

    def map(self, folder: Path) -> PanopticMap:
        """What is painted, as it is saved."""
        return read_panoptic(self.saved("#save-map", folder))

    def give(self, *files: Path) -> None:
        self.page.set_input_files("#files", files)

    def complaint(self):
        return self.page.get_by_role("alert")


def boxed(*boxes: tuple[int, int, int, int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Segment and class of boxes (segment, class, left, top, right, bottom; all inclusive) on void."""
    segment, klass = np.zeros((64, 64), np.int32), np.full((64, 64), VOID, np.uint8)
    for number, class_id, left, top, right, bottom in boxes:
        segment[top : bottom + 1, left : right + 1] = number
        klass[top : bottom + 1, left : right + 1] = class_id
    return segment, klass


def assert_painted(panoptic: PanopticMap, *boxes: tuple[int, int, int, int, int, int]) -> None:
    segment, klass = boxed(*boxes)
    assert (panoptic.segment_id == segment).all() and (panoptic.class_id == klass).all()
