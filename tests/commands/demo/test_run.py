"""The demo from end to end, with a base model of random weights: everything is there but the pictures' quality."""

import json
import re
from pathlib import Path

import pytest

from factories import mamoe
from mamoe.commands.demo import run
from mamoe.commands.demo.models import DemoModel
from mamoe.errors import ConfigError
from mamoe.training.loop.fit import FitResult
from mamoe.training.loop.interruption import Stop
from mamoe.training.loop.metrics import read_rows
from mamoe.vocabulary.drawing import Drawing

README = Path(__file__).parents[3] / "README.md"
FIGURES = {
    "colour_real",
    "colour_mamoe",
    "colour_swapped",
    "colour_base",
    "colour_instances",
    "colour_chance",
    "colour_caption_chance",
    "colour_mamoe_to_real",
    "colour_swapped_to_real",
    "layout_accuracy_real",
    "layout_accuracy_mamoe",
    "layout_mamoe_to_real",
    "seconds",
    "peak_gib",
}


def last_line(capsys) -> dict:
    return json.loads(capsys.readouterr().out.strip().splitlines()[-1])


def times(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.slow
def test_demo_leaves_a_page_and_goes_on_where_it_stopped(base_model, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run, "COUNTS", {"train": 24, "val": 2, "test": 6})
    monkeypatch.setattr(DemoModel, "drawing", Drawing(steps=2))
    out = tmp_path / "demo"
    settings = [f"model.path={base_model}", "trainer.accelerator=cpu", "callbacks.samples=null"]
    settings += ["callbacks.checkpoints.every=2"]

    earlier = "regions.strength=hard"  # as a demo of an earlier version
    assert run.run_demo(out, steps=4, settings=[*settings, earlier]) == 0
    figures = last_line(capsys)
    assert figures.keys() == FIGURES
    assert json.loads((out / "scores.json").read_text()) == figures
    assert figures["colour_instances"] > 10 and figures["colour_real"] > 0.8
    assert figures["colour_chance"] == pytest.approx(1 / len(run.COLOUR_WORDS), abs=1e-4)
    assert figures["layout_accuracy_real"] > figures["layout_accuracy_mamoe"]  # random weights draw no streets
    drawn = [json.loads(path.read_text()) for path in (out / "drawn").glob("*/scene*.json")]
    assert len(drawn) == 18 and {one["scheduler"] for one in drawn} == {"UniPCMultistepScheduler"}
    page = (out / "index.html").read_text()
    assert len(re.findall("data:image", page)) == 6 * 5
    assert f"mamoe sample {out}/runs/demo/latest" in page and "mamoe train experiment=mamoe" in page

    before = times(out / "data")
    assert run.run_demo(out, steps=6, settings=settings) == 0
    assert last_line(capsys).keys() == FIGURES
    assert times(out / "data") == before
    (folder,) = (path for path in (out / "runs/demo").iterdir() if not path.is_symlink())
    assert "Resuming from" in (folder / "log.txt").read_text()
    assert "strength: hard" in (folder / "config.yaml").read_text()
    assert (folder / "checkpoints/latest").resolve().name == "step-00000006"
    measured = [int(row["step"]) for row in read_rows(folder / "metrics.csv") if row["val/loss"]]
    assert measured == [0, 4, 6]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_demo_tells_its_story_on_the_transformer_too(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run, "COUNTS", {"train": 8, "val": 2, "test": 2})
    monkeypatch.setattr(DemoModel, "drawing", Drawing(steps=2))
    out = tmp_path / "demo"
    settings = ["trainer.accelerator=cpu", "callbacks.checkpoints.every=2"]
    assert run.run_demo(out, model=DemoModel.TINY_DIT, steps=2, settings=settings) == 0
    assert last_line(capsys).keys() == FIGURES
    assert "transformer" in (out / "index.html").read_text()
    recipe = json.loads((out / "runs/demo/latest/checkpoints/latest/recipe.json").read_text())
    assert "tiny_dit" in json.dumps(recipe["base"])
    # Another model's is not gone on with.
    with pytest.raises(ConfigError, match=r"demo of tiny_dit\. Go on with that \(--model tiny_dit\)"):
        run.run_demo(out, steps=2, settings=settings)
    # One that is finished, of a version whose demo was longer, has its page made again.
    shorter = [*settings, "trainer.max_steps=1"]
    assert run.run_demo(out, model=DemoModel.TINY_DIT, settings=shorter) == 0
    assert last_line(capsys).keys() == FIGURES


def test_demo_interrupted_in_training_stops_there(base_model, tmp_path, monkeypatch):
    stopped = FitResult(step=1, checkpoint=None, stopped_by=Stop.INTERRUPTED, message="")
    monkeypatch.setattr(run, "COUNTS", {"train": 2, "val": 1, "test": 1})
    monkeypatch.setattr(run, "train", lambda *args, **options: (stopped, tmp_path))
    assert run.run_demo(tmp_path / "demo", settings=[f"model.path={base_model}"]) == 130
    assert not (tmp_path / "demo/index.html").exists()


def test_it_goes_where_the_readme_says_unless_it_is_told(monkeypatch):
    given = []
    monkeypatch.setattr(run, "run_demo", lambda folder, **options: given.append(str(folder)) or 0)
    for words in ([], ["--model", "tiny_dit"], ["--out", "town"]):
        assert mamoe("demo", *words).code == 0
    assert given == ["demo", "demo_tiny_dit", "town"]
    assert {folder for folder in re.findall(r"leaves (\w+)/index.html", README.read_text())} == {"demo"}
