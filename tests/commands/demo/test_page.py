import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from mamoe.commands.demo.page import Command, DemoReport, GalleryRow, InstanceLine, render_page, write_page
from mamoe.commands.demo.scores import DemoScores
from mamoe.evaluation.protocol import Better, Interval, Over, Protocol, Score
from mamoe.pages.curve import Series, loss_curve

KINDS = ("panoptic", "real", "base", "mamoe", "swapped")


def share(value: float) -> Score:
    how = Protocol(
        name="a share", extractor=None, preprocessing=None, reference="", images="", generation=None, versions={}
    )
    around = Interval(low=value - 0.1, high=min(1.0, value + 0.1), over=Over.IMAGES)
    return Score(name="a share", value=value, n=8, interval=around, better=Better.HIGHER, protocol=how)


@pytest.fixture
def report() -> DemoReport:
    pictures = {kind: np.full((16, 32, 3), 40 * number, dtype=np.uint8) for number, kind in enumerate(KINDS, 1)}
    line = InstanceLine(
        prompt="a red car", swapped_prompt="a blue car", colour=(200, 10, 20), swapped_colour=(1, 2, 255)
    )
    tree = InstanceLine(prompt="a <b>tree</b>", swapped_prompt="a <b>tree</b>", colour=None, swapped_colour=None)
    return DemoReport(
        title="Town & dusk",
        summary="One paragraph.",
        scores=DemoScores(
            real=share(1.0),
            mamoe=share(37 / 40),
            swapped=share(36 / 40),
            base=share(5 / 40),
            instances=40,
            chance=0.125,
            caption_chance=0.3,
            accuracy_real=share(0.9),
            accuracy_mamoe=share(0.81),
        ),
        rows=(GalleryRow(name="a.png", prompt="a street <script>", instances=(line, tree), **pictures),),
        losses=(Series(name="train & co", points=tuple((i, 1 / (i + 1)) for i in range(100))),),
        commands=(Command(what="Check it", line="mamoe check 'path & more'"),),
        facts=(("Machine", "2 cores"), ("Time", "5 min")),
    )


class Tags(HTMLParser):
    """Open tags must be closed in order; remembers every address."""

    VOID = frozenset({"meta", "img", "br", "line"})

    def __init__(self) -> None:
        super().__init__()
        self.open, self.addresses, self.names = [], [], set()

    def handle_starttag(self, tag, attrs):
        self.names.add(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href", "srcset", "data")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.names.add(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def parsed(page: str) -> Tags:
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    return tags


def test_page_needs_nothing_else(report):
    page = render_page(report)
    tags = parsed(page)
    assert len(tags.addresses) == 5 and all(address.startswith("data:image/") for address in tags.addresses)
    assert not tags.names & {"script", "link", "iframe"} and "url(" not in page and "@import" not in page
    assert "http" not in page


def test_pictures_in_their_columns(report):
    addresses = parsed(render_page(report)).addresses
    for address, kind in zip(addresses, KINDS, strict=True):
        image = np.asarray(Image.open(io.BytesIO(base64.b64decode(address.split(",")[1]))))
        assert image.shape == (16, 32, 3)
        assert np.abs(image.astype(int) - getattr(report.rows[0], kind)).max() <= 3


def test_scores_and_texts_are_on_it(report):
    page = render_page(report)
    for text in (
        "92.5 %",
        "37 of 40",
        "left: 82.50%; width: 17.50%",
        "12.5 %",
        "90.0 %",
        "81.0 %",
        "Town &amp; dusk",
        "mamoe check &#39;path &amp; more&#39;",
    ):
        assert text in page
    assert "#c80a14" in page and "#0102ff" in page and "a blue car" in page
    assert "<b>tree" not in page and "street <script>" not in page
    # A prompt that was not swapped is said once.
    assert page.count("a &lt;b&gt;tree&lt;/b&gt;") == 1


def test_written_whole(report, tmp_path):
    write_page(report, tmp_path / "index.html")
    assert [path.name for path in tmp_path.iterdir()] == ["index.html"]
    with pytest.raises(AttributeError):
        write_page(replace(report, scores=None), tmp_path / "index.html")
    assert (tmp_path / "index.html").read_text() == render_page(report)


def points(svg: str, kind: str) -> np.ndarray:
    text = re.search(rf'<polyline class="{kind}" points="([^"]*)"', svg).group(1)
    return np.array([[float(x) for x in pair.split(",")] for pair in text.split()])


def test_curve_falls_where_the_loss_falls():
    line = points(loss_curve([Series(name="a", points=((0, 3.0), (50, 2.0), (100, 1.0)))]), "line s0")
    assert (np.diff(line[:, 0]) > 0).all() and (np.diff(line[:, 1]) > 0).all()
    assert np.allclose(np.diff(line, axis=0)[0], np.diff(line, axis=0)[1], atol=0.2)


def test_values_close_together_fill_the_frame():
    close = points(loss_curve([Series(name="a", points=((10, 0.45), (20, 0.40)))]), "line s0")
    far = points(loss_curve([Series(name="a", points=((10, 0.45), (20, 0.045)))]), "line s0")
    assert np.diff(close[:, 1]) > 0.8 * np.diff(far[:, 1]) > 100
    assert (close[0, 0] - 52) == pytest.approx((close[1, 0] - 52) / 2)  # the axis begins at step 0


def test_noisy_curve_is_smoothed_and_odd_losses_are_left_out():
    rng = np.random.default_rng(0)
    noisy = [(i, 1 + float(rng.normal(0, 0.1))) for i in range(300)] + [(300, float("nan")), (301, float("inf"))]
    svg = loss_curve([Series(name="a <b>", points=tuple(noisy))])
    raw, smooth = points(svg, "line s0 raw"), points(svg, "line s0")
    assert len(raw) == 300 and np.isfinite(raw).all()
    assert smooth[:, 1].std() < 0.5 * raw[:, 1].std()
    assert "a &lt;b&gt;" in svg
    parsed(svg)


@pytest.mark.parametrize("values", [(), ((1, 0.5),), ((1, float("nan")), (2, 0.1))])
def test_nothing_to_draw(values, report):
    assert loss_curve([Series(name="a", points=values)]) == ""
    page = render_page(replace(report, losses=(Series(name="a", points=values),)))
    assert "<svg" not in page


@pytest.mark.parametrize("loss", [1e-9, 3e-4, 0.9, 1.0, 70.0, 1e6])
def test_any_scale_has_a_few_ticks(loss):
    svg = loss_curve([Series(name="a", points=((0, loss), (1, loss / 2)))])
    assert 4 <= svg.count('class="grid"') <= 12


def test_flat_zero_loss_is_drawn():
    assert "polyline" in loss_curve([Series(name="a", points=((0, 0.0), (1, 0.0)))])
