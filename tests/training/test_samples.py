import json
from contextlib import contextmanager

import numpy as np
import pytest
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from training_fakes import CPU, Pictures, fit, make_data, make_module

from mamoe.errors import ConfigError
from mamoe.training.watch.samples import SampleGrids, tiled
from mamoe.vocabulary.drawing import Drawing
from mamoe.vocabulary.taxonomy import Taxonomy


class Painter:
    """A sampler whose pictures show the seed and the mode they were asked for."""

    def __init__(self):
        self.calls = []

    @contextmanager
    def __call__(self, module):
        assert not module.unet.training
        yield self.draw

    def draw(self, samples, drawing, seeds):
        mode = drawing.mode
        self.calls.append((mode, [s.key for s in samples], seeds))
        shade = {"cond": 10, "uncond": 20, "cfg": 30}[mode]
        return [Image.new("RGB", (16, 16), (shade, seed % 251, 0)) for seed in seeds]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    painter, data = Painter(), Pictures(3)
    grids = SampleGrids(
        folder,
        sampler=painter,
        samples=[data[0, i] for i in range(3)],
        taxonomy=Taxonomy.load("cityscapes"),
        every_n_steps=2,
        drawing=Drawing(batch_size=2),
    )
    tensorboard = TensorBoardLogger(folder, name="tensorboard", version="")
    fit(
        make_module(),
        make_data(),
        folder,
        max_steps=3,
        checkpoint_every_n_steps=3,
        trainer=CPU,
        callbacks=[grids],
        loggers=[tensorboard],
    )
    return folder, painter


def test_every_time_the_same_layouts_and_seeds_in_every_mode(run):
    _, painter = run
    half = len(painter.calls) // 2
    assert painter.calls[:half] == painter.calls[half:]
    assert [mode for mode, _, _ in painter.calls[:half]] == ["cond", "cond", "uncond", "uncond", "cfg", "cfg"]
    seeds = [seed for mode, _, seeds in painter.calls[:half] if mode == "cfg" for seed in seeds]
    assert len(set(seeds)) == 3
    assert [key for mode, keys, _ in painter.calls[:half] if mode == "cfg" for key in keys] == [
        "000.png",
        "001.png",
        "002.png",
    ]


def test_pictures_and_facts_are_written_per_sample_and_mode(run):
    folder, painter = run
    assert sorted(p.name for p in (folder / "samples").iterdir()) == ["step-00000002", "step-00000003"]
    facts = json.loads((folder / "samples/step-00000002/001.cfg.json").read_text())
    (seeds,) = [seeds for mode, keys, seeds in painter.calls[:6] if mode == "cfg" and "001.png" in keys]
    assert facts == {
        "key": "001.png",
        "mode": "cfg",
        "steps": 50,
        "guidance_scale": 4.0,
        "size": [16, 16],
        "step": 2,
        "seed": seeds[1],
        "prompt": "word1",
        "instance_prompts": {},
    }
    picture = np.asarray(Image.open(folder / "samples/step-00000002/001.cfg.png"))
    assert (picture == [30, seeds[1] % 251, 0]).all()


def test_grid_shows_map_real_and_modes_in_order(run):
    folder, _ = run
    grid = np.asarray(Image.open(folder / "samples/step-00000003/grid.png"))
    assert grid.shape == (14 + 3 * 18 - 2, 5 * 18 - 2, 3)
    cells = [[grid[14 + 18 * r : 30 + 18 * r, 18 * c : 16 + 18 * c] for c in range(5)] for r in range(3)]
    road = Taxonomy.load("cityscapes").palette[0]
    for row, cell in enumerate(cells):
        assert (cell[0] == road).all()
        assert (cell[1] == Pictures(3)[0, row].image.permute(1, 2, 0).numpy()).all()
        assert [int(c[0, 0, 0]) for c in cell[2:]] == [10, 20, 30]


def test_grid_reaches_tensorboard(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder, _ = run
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    assert [image.step for image in events.Images("samples")] == [2, 3]


def test_tiles_keep_their_places():
    colours = [["red", "green"], ["blue", "black"]]
    rows = [[Image.new("RGB", (4, 4), colour) for colour in row] for row in colours]
    grid = tiled(rows, ["", ""])
    assert grid.getpixel((0, 14)) == (255, 0, 0)
    assert grid.getpixel((9, 14)) == (0, 128, 0)
    assert grid.getpixel((0, 20)) == (0, 0, 255)


def test_impossible_settings_are_refused(tmp_path):
    settings = {"sampler": Painter(), "taxonomy": Taxonomy.load("cityscapes"), "every_n_steps": 1}
    with pytest.raises(ConfigError, match="no mode cgf; there are cond, uncond, cfg"):
        SampleGrids(tmp_path, samples=[Pictures(1)[0, 0]], modes=["cgf"], **settings)
    with pytest.raises(ConfigError, match="got 0 samples"):
        SampleGrids(tmp_path, samples=[], **settings)
