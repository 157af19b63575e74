"""The files under examples/ do what their first lines say, on tiny models."""

import json
import os
import runpy
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from PIL import Image

from apart import mamoe_apart
from factories import mamoe, only_run
from mamoe.data.folder.prompts import read_instance_prompts
from mamoe.data.reading.pictures import read_picture
from mamoe.errors import DatasetError

EXAMPLES = Path(__file__).parents[1] / "examples"


def run_example(monkeypatch, name: str, *words: str | Path) -> None:
    monkeypatch.setattr(sys, "argv", [name, *map(str, words)])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


@pytest.fixture
def commands_apart(monkeypatch, tmp_path):
    """Commands that an example starts are forked from a process that has imported everything, and draw fewer scenes."""
    as_shells_do = subprocess.run
    few = {"64": "8"}

    def run(words, **how):
        if words[:3] != [sys.executable, "-m", "mamoe"]:
            return as_shells_do(words, **how)
        ended = mamoe_apart([few.get(word, word) for word in words[3:]], tmp_path / "said.txt")
        assert ended.code == 0, ended
        return ended

    monkeypatch.setattr(subprocess, "run", run)


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        return picture.size


def test_draw_a_layout_with_a_run(finished_run, tmp_path, monkeypatch):
    run_example(monkeypatch, "street/draw_a_layout.py", finished_run, "--out", tmp_path / "picture.png", "--steps", "1")
    assert size_of(tmp_path / "picture.png") == (256, 128)


def test_draw_a_layout_with_a_base_that_knows_none(base_model, tmp_path, monkeypatch, capsys):
    run_example(monkeypatch, "street/draw_a_layout.py", base_model, "--out", tmp_path / "picture.png", "--steps", "1")
    assert size_of(tmp_path / "picture.png") == (256, 128) and "by the caption alone" in capsys.readouterr().out


def test_own_classes(base_model, tmp_path, monkeypatch):
    harbour = tmp_path / "harbour"
    run_example(monkeypatch, "own_classes/draw.py", harbour)
    checked = mamoe("check", harbour)
    assert checked.code == 0 and "boat" in checked.out and "arning" not in checked.out
    words = ["data=folder", f"data.root={harbour}", "data.crop=null", "data.batch_size=4", "trainer.max_steps=2"]
    tiny = [f"model.path={base_model}", f"runs={tmp_path / 'runs'}", "data.num_workers=0", "callbacks=none"]
    trained = mamoe("train", *words, *tiny, "trainer.accelerator=cpu")
    assert trained.code == 0, trained.err
    assert "harbour" in (only_run(tmp_path / "runs", "train") / "checkpoints/latest/recipe.json").read_text()


@pytest.mark.filterwarnings("ignore")
def test_use_in_diffusers(finished_run, tmp_path, monkeypatch):
    words = ["--out", tmp_path / "picture.png", "--steps", "1", "--size", "64", "64"]
    run_example(monkeypatch, "use_in_diffusers/draw.py", finished_run, tmp_path / "exported", *words)
    assert size_of(tmp_path / "picture.png") == (64, 64)


@pytest.mark.slow
def test_the_story_of_a_street(tmp_path, monkeypatch, commands_apart):
    run_example(monkeypatch, "street/story.py", tmp_path / "street", "--steps", "2")
    (picture,) = (tmp_path / "street/pictures").glob("scene_*.png")
    assert size_of(picture) == (256, 128) and (tmp_path / "street/model/README.md").is_file()


@pytest.mark.slow
def test_the_tour_runs_cell_by_cell(tmp_path, monkeypatch, commands_apart):
    notebook = json.loads((EXAMPLES / "tour.ipynb").read_text(encoding="utf-8"))
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] for cell in notebook["cells"] if cell["cell_type"] == "code")
    assert "STEPS = 300" in cells[0]
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for number, cell in enumerate(cells):
        exec(compile(cell.replace("STEPS = 300", "STEPS = 2"), f"cell {number}", "exec"), names)
    assert names["both"].size == (256, 256) and names["cars"]
    assert (tmp_path / "tour/model/README.md").is_file()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_finish_tiny_base(tmp_path, monkeypatch, capsys):
    for name, words in {"streets": [], "close": ["--domain", "close_ups", "--height", "64", "--width", "64"]}.items():
        drawn = mamoe("scenes", tmp_path / name, "--train", "4", "--val", "1", "--test", "0", *words)
        assert drawn.code == 0, drawn.err
    folders = ["--pictures", tmp_path / "streets", tmp_path / "close"]
    for part in ("autoencoder", "unet"):
        run_example(
            monkeypatch, "finish_tiny_base.py", part, tmp_path / "base", *folders, "--seconds", "1", "--batch", "2"
        )
    assert "dB" in capsys.readouterr().out
    (tmp_path / "streets/prompts_train.csv").rename(tmp_path / "all.csv")
    first = (tmp_path / "all.csv").read_text().splitlines(keepends=True)[:3]
    (tmp_path / "streets/prompts_train.csv").write_text("".join(first))
    with pytest.raises(DatasetError, match=r"no caption of 2 of 4 pictures, such as scene_000002\.png"):
        run_example(monkeypatch, "finish_tiny_base.py", "unet", tmp_path / "base", *folders, "--seconds", "1")
    pieces_name_what_they_show(tmp_path / "streets")
    run_example(
        monkeypatch, "street/draw_a_layout.py", tmp_path / "base", "--out", tmp_path / "picture.png", "--steps", "1"
    )
    assert size_of(tmp_path / "picture.png") == (256, 128)


def pieces_name_what_they_show(folder: Path) -> None:
    example = runpy.run_path(str(EXAMPLES / "finish_tiny_base.py"))
    places, texts = example["pieces_of"](folder)
    own, names = (
        read_instance_prompts(folder / "instance_prompts_train.json"),
        sorted(os.listdir(folder / "images/train")),
    )
    assert len(texts) == len(places) == 4 * len(names)
    for (number, row, column), text in zip(places.tolist(), texts, strict=True):
        shown = read_picture(folder / "panoptic/train" / names[number])[
            8 * row : 8 * row + 64, 8 * column : 8 * column + 64
        ]
        assert shown.shape == (64, 64, 3)
        segments = Counter((shown[..., 0].astype(int) * 256 + shown[..., 1]).ravel().tolist())
        prompts = {prompt for segment, prompt in own[names[number]].items() if segments[segment] >= 128}
        assert prompts == {prompt for prompt in own[names[number]].values() if prompt in text.split(", ")}
    cells = torch.arange(4 * 16 * 32).reshape(len(names), 1, 16, 32)  # each its own number
    cut = example["_cut"](cells, places, torch.arange(len(places)))
    corners = [cells[number, 0, row, column].item() for number, row, column in places.tolist()]
    assert cut.shape == (len(places), 1, 8, 8) and cut[:, 0, 0, 0].tolist() == corners
    assert cut[0, 0, 7, 7] - cut[0, 0, 0, 0] == 7 * 32 + 7


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_train_tiny_dit_writes_a_base_and_goes_on(tmp_path, monkeypatch, capsys):
    for name, words in {"streets": [], "close": ["--domain", "close_ups", "--height", "64", "--width", "64"]}.items():
        drawn = mamoe("scenes", tmp_path / name, "--train", "4", "--val", "1", "--test", "0", *words)
        assert drawn.code == 0, drawn.err
    monkeypatch.syspath_prepend(EXAMPLES)
    words = ["--close-ups", tmp_path / "close", "--streets", tmp_path / "streets", "--batch", "2", "2"]
    steps = []
    for seconds in ("2", "3"):
        run_example(monkeypatch, "train_tiny_dit.py", tmp_path / "base", *words, "--seconds", seconds)
        steps.append(int(capsys.readouterr().out.split()[-2]))
    assert 0 < steps[0] < steps[1]
    assert sorted(path.name for path in (tmp_path / "base").iterdir()) == [
        "model_index.json",
        "scheduler",
        "transformer",
    ]
