"""Pictures, exports and text encoders of whole runs."""

import json
import shutil
import warnings

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from safetensors.torch import load_file

from factories import mamoe, only_run, short_run
from mamoe import LayoutPipeline
from mamoe.data.folder.prompts import read_prompts_csv
from wholeruns import SMALL, assert_equal, cut_back, draw, tensors, trained


def test_pictures_of_a_run(finished_run, scenes, tmp_path):
    words = ["--panoptic", scenes / "panoptic/test", "--prompts", scenes / "prompts_test.csv"]
    words += ["--instance-prompts", scenes / "instance_prompts_test.json", "--steps", "2", "--seed", "7"]
    outcome = mamoe("sample", finished_run, *words, "--out", tmp_path / "all")
    assert outcome.code == 0, outcome
    names = {path.name for path in (tmp_path / "all").iterdir()}
    assert names == {f"scene_00000{i}.{kind}" for i in (0, 1) for kind in ("png", "json")} | {"contact_sheet.png"}
    record = json.loads((tmp_path / "all/scene_000001.json").read_text())
    assert record["prompt"] == read_prompts_csv(scenes / "prompts_test.csv")["scene_000001.png"]
    assert (record["steps"], record["guidance_scale"]) == (2, 4.0)

    # A picture depends on its own map alone, and a checkpoint of the run is as good as the run.
    alone = tmp_path / "one"
    alone.mkdir()
    shutil.copy(scenes / "panoptic/test/scene_000001.png", alone)
    words[1] = alone
    outcome = mamoe("sample", finished_run / "checkpoints/latest", *words, "--out", tmp_path / "again")
    assert outcome.code == 0, outcome
    pictures = [np.asarray(Image.open(tmp_path / out / "scene_000001.png"), int) for out in ("all", "again")]
    assert np.abs(pictures[0] - pictures[1]).max() <= 1
    assert "0 of them new" in " ".join(
        mamoe("sample", finished_run, *words[2:], "--panoptic", alone, "--out", tmp_path / "again").out.split()
    )


def test_best_and_earlier_checkpoints_can_be_drawn_from(finished_run, scenes):
    pictures = [draw(LayoutPipeline.from_pretrained(finished_run, checkpoint=c), scenes) for c in ("2", "4", "latest")]
    assert not np.array_equal(pictures[0], pictures[1])
    assert np.array_equal(pictures[1], pictures[2])


def test_an_exported_run_draws_the_same_picture(finished_run, scenes, tmp_path):
    assert mamoe("export", finished_run, tmp_path / "out", "--weights", "fp32").code == 0
    exported = LayoutPipeline.from_pretrained(tmp_path / "out")
    assert np.array_equal(draw(exported, scenes), draw(LayoutPipeline.from_pretrained(finished_run), scenes))
    assert mamoe("export", finished_run, tmp_path / "half").code == 0
    sizes = [sum(p.stat().st_size for p in (tmp_path / d).rglob("*.safetensors")) for d in ("out", "half")]
    assert sizes[1] == pytest.approx(sizes[0] / 2, rel=0.02)
    half = draw(LayoutPipeline.from_pretrained(tmp_path / "half"), scenes).astype(int)
    assert np.abs(half - draw(exported, scenes)).mean() < 2


def test_a_run_without_layout_is_exported_as_a_stock_pipeline(base_model, scenes, tmp_path):
    words = [
        "layout.moe=false",
        "layout.region_attention=false",
        "layout.global_prompt=true",
        "layout.global_padding=true",
        *SMALL,
        "trainer.max_steps=1",
    ]
    trained(*short_run(base_model, scenes, tmp_path / "runs"), *words)
    run = only_run(tmp_path / "runs")
    outcome = mamoe("export", run, tmp_path / "out", "--weights", "fp32")
    assert (outcome.code, outcome.err) == (0, "")
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        stock = StableDiffusionPipeline.from_pretrained(tmp_path / "out")
    stock.set_progress_bar_config(disable=True)
    theirs = stock(
        "a red car",
        height=64,
        width=64,
        num_inference_steps=2,
        guidance_scale=4.0,
        guidance_rescale=0.7,
        generator=torch.Generator().manual_seed(0),
    ).images[0]
    for folder in (run, tmp_path / "out"):
        pipe = LayoutPipeline.from_pretrained(folder)
        pipe.set_progress_bar_config(disable=True)
        ours = pipe(
            "a red car", height=64, width=64, num_inference_steps=2, generator=torch.Generator().manual_seed(0)
        ).images[0]
        assert np.abs(np.asarray(ours, int) - np.asarray(theirs, int)).max() <= 1


@pytest.mark.slow
def test_a_text_encoder_can_be_trained_too(base_model, scenes, tmp_path):
    words = ["model.train_text_encoder=true", "callbacks.validation=null", "optimizer.lr=1e-2"]
    trained(*short_run(base_model, scenes, tmp_path / "runs"), *words)
    run = only_run(tmp_path / "runs")
    before = load_file(base_model / "text_encoder/model.safetensors")
    folder = run / "checkpoints/latest"
    after, mean = (load_file(folder / name / "model.safetensors") for name in ("text_encoder", "text_encoder_ema"))
    assert before.keys() == after.keys() == mean.keys()
    layer = next(name for name in before if name.endswith("layers.0.self_attn.q_proj.weight"))
    assert not torch.equal(before[layer], after[layer]) and not torch.equal(mean[layer], after[layer])

    pipe = LayoutPipeline.from_pretrained(run)
    assert torch.equal(pipe.text_encoder.state_dict()[layer], mean[layer])
    other = LayoutPipeline.from_pretrained(run)
    other.register_modules(text_encoder=LayoutPipeline.from_pretrained(base_model).text_encoder)
    assert not np.array_equal(draw(pipe, scenes), draw(other, scenes))

    copy = cut_back(run, tmp_path / "copy", 2)
    trained(f"resume={copy}")
    assert_equal(tensors(run, 4), tensors(copy, 4))
