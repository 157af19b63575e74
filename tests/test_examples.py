"""The files under examples/ do what their first lines say, on tiny models."""

import runpy
import sys
from pathlib import Path

import pytest
from PIL import Image

from factories import mamoe, only_run

EXAMPLES = Path(__file__).parents[1] / "examples"


def run_example(monkeypatch, name: str, *words: str | Path) -> None:
    monkeypatch.setattr(sys, "argv", [name, *map(str, words)])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        return picture.size


def test_draw_a_layout_with_a_run(finished_run, tmp_path, monkeypatch):
    run_example(monkeypatch, "draw_a_layout.py", finished_run, "--out", tmp_path / "picture.png", "--steps", "1")
    assert size_of(tmp_path / "picture.png") == (256, 128)


def test_draw_a_layout_with_a_base_that_knows_none(base_model, tmp_path, monkeypatch, capsys):
    run_example(monkeypatch, "draw_a_layout.py", base_model, "--out", tmp_path / "picture.png", "--steps", "1")
    assert size_of(tmp_path / "picture.png") == (256, 128) and "by the caption alone" in capsys.readouterr().out


def test_own_taxonomy(base_model, tmp_path, monkeypatch):
    harbour = tmp_path / "harbour"
    run_example(monkeypatch, "own_taxonomy/draw.py", harbour)
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
    run_example(monkeypatch, "use_in_diffusers.py", finished_run, tmp_path / "exported", *words)
    assert size_of(tmp_path / "picture.png") == (64, 64)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_finish_tiny_base(tmp_path, monkeypatch, capsys):
    for name, words in {"streets": [], "close": ["--domain", "close_ups", "--height", "64", "--width", "64"]}.items():
        drawn = mamoe("scenes", tmp_path / name, "--train", "4", "--val", "1", "--test", "0", *words)
        assert drawn.code == 0, drawn.err
    folders = ["--pictures", tmp_path / "streets", tmp_path / "close"]
    for part in ("decoder", "unet"):
        run_example(
            monkeypatch, "finish_tiny_base.py", part, tmp_path / "base", *folders, "--seconds", "1", "--batch", "2"
        )
    assert "dB" in capsys.readouterr().out
    run_example(monkeypatch, "draw_a_layout.py", tmp_path / "base", "--out", tmp_path / "picture.png", "--steps", "1")
    assert size_of(tmp_path / "picture.png") == (256, 128)
