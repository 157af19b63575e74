"""Real photographs from their official formats to pictures: import, check, train, sample, through the command."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from factories import mamoe, only_run
from mamoe import Taxonomy
from mamoe.training.loop.metrics import read_rows
from wholeruns import SMALL, trained

REAL = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.mark.real
@pytest.mark.skipif(not REAL.exists(), reason="the real photographs are not here")
@pytest.mark.parametrize(("name", "grouping"), [("camvid", "extreme"), ("cityscapes", "extreme_things")])
def test_from_official_files_to_pictures(name, grouping, base_model, tmp_path):
    data, out = tmp_path / "data", tmp_path / "pictures"
    assert mamoe("prepare", name, REAL / name, data).code == 0
    assert mamoe("check", data).code == 0
    words = [
        f"data={name}",
        f"data.root={data}",
        "data.size=[64,128]",
        "data.crop=null",
        "data.batch_size=2",
        "data.num_workers=0",
    ]
    shorter = ["trainer.max_steps=3", "trainer.accelerator=cpu", f"layout.grouping={grouping}", f"runs={tmp_path}"]
    trained(*words, f"model.path={base_model}", *shorter, *SMALL)
    run = only_run(tmp_path, "train")
    losses = [float(row["train/loss"]) for row in read_rows(run / "metrics.csv") if row.get("train/loss")]
    assert losses and np.isfinite(losses).all()

    maps = data / "panoptic/val"
    options = ["--prompts", data / "prompts_val.csv", "--size", "64", "128", "--steps", "1", "--batch-size", "8"]
    outcome = mamoe("sample", run, "--panoptic", maps, *options, "--out", out)
    assert outcome.code == 0, outcome.err
    pictures = {path.name for path in out.glob("*.png")} - {"contact_sheet.png"}
    assert pictures == {path.name for path in maps.glob("*.png")} and pictures
    assert {Image.open(out / name).size for name in pictures} == {(128, 64)}
    assert len(Taxonomy.load(name).grouping(grouping).names) > 2
