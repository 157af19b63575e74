"""The report of fake results: numbers, verdicts, failures, escaping; and its Markdown, CSV and JSON."""

import csv
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from benchmark_fakes import DRAWN, a_cell, outcome, result, score

from mamoe.commands.benchmark.plan import View
from mamoe.commands.benchmark.report import About, contents_of, markdown, render, write_report
from mamoe.commands.benchmark.results import Outcome
from mamoe.commands.benchmark.tables import at, equal_time_grid, mean_curve, parts_of
from mamoe.evaluation.table import Row
from mamoe.pages.curve import Series, loss_curve

EVIL = "<script>alert('x')</script>"


def about(**options) -> About:
    given = {
        "name": "small",
        "command": "mamoe benchmark benchmark=small",
        "config": {"seeds": [0, 1], "note": EVIL},
        "facts": (("Machine", f"two cores {EVIL}"),),
        "scores": ("mIoU", "FD*"),
        "sheet": 2,
    }
    return About(**{**given, **options})


@pytest.fixture
def outcomes(tmp_path) -> list[Outcome]:
    found = []
    for seed in (0, 1):
        for method, base in (("full", 0.2), (f"evil{EVIL}", 0.6)):
            values = {"mIoU": base + 0.01 * seed, "FD-pixels": 10 * base, "IoU/road": base, "IoU/bus": None}
            made = outcome(
                "full" if method == "full" else "other", seed, values, tmp_path, pace=0.5 if base < 0.5 else 1.0
            )
            found.append(replace(made, cell=replace(made.cell, method=method)))
    lost = a_cell("lost", 0)
    return [*found, Outcome(cell=lost, folder=tmp_path / "lost", result=None, error=f"no memory {EVIL}")]


class Tags(HTMLParser):
    """Everything the page is made of."""

    def __init__(self) -> None:
        super().__init__()
        self.names, self.sources = [], []

    def handle_starttag(self, tag, attrs) -> None:
        self.names.append(tag)
        self.sources += [value for key, value in attrs if key in ("src", "href")]


def test_page_needs_nothing_else_and_escapes_everything(outcomes):
    page = render(contents_of(outcomes, about()))
    tags = Tags()
    tags.feed(page)
    assert (
        "script" not in tags.names and page.count("&lt;script&gt;") >= 5
    )  # method, error, fact, config, picture texts
    assert tags.sources and all(source.startswith("data:image/jpeg;base64,") for source in tags.sources)
    assert not re.search(r"https?://", page)
    sheet = 2 * 3 + 1 * 2  # two layouts x (real, two methods), and a copying sheet of each method
    assert page.count("<img") == sheet


def test_numbers_verdicts_and_failures(outcomes):
    contents = contents_of(outcomes, about())
    (grid,) = contents.tables
    assert grid.columns == ("mIoU ↑", "FD-pixels ↓")
    lines = {line.label: line for line in grid.lines}
    assert lines["full"].cells[0].startswith("0.205 [") and lines["full"].verdicts == ("worse", "best")
    assert lines[f"evil{EVIL}"].verdicts == ("best", "worse")
    assert lines["lost"].cells == ("n/a (no cell finished)",) * 2
    assert lines["real"].cells[0] == "1 (n=32)"
    (classes,) = contents.per_class
    assert classes.columns == ("full", f"evil{EVIL}", "lost", "real")  # classes downwards: there are many
    assert [line.label for line in classes.lines] == ["IoU/road ↑", "IoU/bus ↑"]
    assert classes.lines[0].verdicts[:2] == ("worse", "best") and "n/a (no such class)" in classes.lines[1].cells
    assert contents.failed == (("images-town-lost-seed0", f"no memory {EVIL}"),)
    assert "no memory &lt;script&gt;" in render(contents)
    assert "1,000" in contents.costs[0].lines[0].cells
    assert [figure.title.split(":")[0] for figure in contents.curves] == ["val/loss"] * 2  # not the learning rate


def test_files_say_the_same(outcomes, tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    assert write_report(outcomes, about(), folder) == folder / "report.html"
    assert {path.name for path in folder.iterdir()} == {"report.html", "report.md", "report.csv", "report.json"}
    plain = json.loads((folder / "report.json").read_text())
    assert len(plain["cells"]) == 5 and plain["cells"][-1]["error"].startswith("no memory")
    rows = list(csv.DictReader((folder / "report.csv").open()))
    assert len(rows) == 4 * 4
    values = [float(row["value"]) for row in rows if row["score"] == "mIoU" and row["method"] == "full"]
    assert values == pytest.approx([0.2, 0.21])
    text = (folder / "report.md").read_text()
    assert "`mamoe benchmark benchmark=small`" in text and "| full | 0.205 [" in text
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in table if "mIoU ↑" in line or "| full | 0.205" in line}) == 1


def test_one_picture_that_is_gone_does_not_stop_the_report(outcomes):
    (outcomes[0].folder / "0.png").unlink()
    assert "no longer there" in render(contents_of(outcomes, about()))


def test_numbers_of_other_protocols_are_reported(outcomes):
    odd = outcomes[1].result
    other = Row(label="cfg", scores=(score("mIoU", 0.9, reference="other"),))
    outcomes[1] = replace(outcomes[1], result=replace(odd, drawn=other))
    (warning,) = contents_of(outcomes, about()).warnings
    assert "reference pictures" in warning and "cannot stand in one table" in warning


def test_models_of_other_samplers_stand_side_by_side_and_the_page_says_so(outcomes):
    assert contents_of(outcomes, about()).notes == ()
    flow = outcomes[1].cell.method
    for place in (1, 3):
        drawn = outcomes[place].result.drawn
        euler = [
            replace(one, protocol=replace(one.protocol, generation=replace(DRAWN, sampler="Euler")))
            for one in drawn.scores
        ]
        found = replace(outcomes[place].result, drawn=replace(drawn, scores=tuple(euler)))
        outcomes[place] = replace(outcomes[place], result=found)
    contents = contents_of(outcomes, about())
    assert not contents.warnings
    assert contents.notes[0].endswith(f"with as much guidance: full by DDIM, {flow} by Euler.")
    assert contents.notes[0] in markdown(contents) and "full by DDIM, evil&lt;script&gt;" in render(contents)
    drawn = outcomes[3].result.drawn
    more = [replace(s, protocol=replace(s.protocol, generation=replace(DRAWN, steps=50))) for s in drawn.scores]
    found = replace(outcomes[3].result, drawn=replace(drawn, scores=tuple(more)))
    (warning,) = contents_of([*outcomes[:3], replace(outcomes[3], result=found)], about()).warnings
    assert warning.count("steps 12 against 50") == 1 and "(and 8 more pairs of numbers)" in warning


def test_nothing_finished_is_a_report_too(tmp_path):
    lost = Outcome(cell=a_cell("full"), folder=tmp_path, result=None, error=None)
    contents = contents_of([lost], about())
    assert "No cell has finished." in render(contents) and "not run yet" in markdown(contents)


def test_views_have_tables_of_their_own(outcomes, tmp_path):
    again = outcome("full", 0, {"mIoU": 0.3}, tmp_path / "time", view=View.TIME)
    titles = [grid.title for grid in contents_of([*outcomes, again], about()).tables]
    assert titles == ["Scores: town, equal pictures seen", "Scores: town, equal wall-clock"]


def test_loss_at_equal_time(outcomes):
    """The other method takes twice as long per step: it is read half-way, between 0.5 at 50 and 0.2 at 100."""
    (part,) = parts_of(outcomes)
    grid = equal_time_grid(part)
    assert [line.cells[0] for line in grid.lines] == ["0.2 (2 seeds)", "0.5 (2 seeds)", "n/a (no curve)"]
    assert "after 50 s" in grid.title


def test_curves_between_points():
    curve = ((0.0, 1.0), (10.0, 3.0))
    assert [at(curve, step) for step in (0, 2.5, 10, 99)] == [1.0, 1.5, 3.0, 3.0]
    assert mean_curve([curve, ((0.0, 3.0), (5.0, 9.0), (10.0, 5.0))]) == ((0.0, 2.0), (10.0, 4.0))
    assert result({"mIoU": 1.0}).curves["val/loss"][0] == (0.0, 1.0)


def test_a_curve_below_zero_is_no_obstacle():
    """As KID's, whose estimate of a small distance may be negative at every step."""
    body = loss_curve([Series(name="full", points=((0.0, -0.02), (10.0, -0.01)))])
    assert body.count("<polyline") == 1
