"""What the tests of runs of large transformers share: a LoRA from a base model's folder to pictures and back out."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from factories import mamoe, only_run, short_run
from mamoe import LayoutPipeline
from wholeruns import SMALL, assert_equal, cut_back, draw, tensors, trained

LORA = ["method=lora", "method.rank=4", "method.alpha=8", "method.conv=false"]
METHODS = {"lora": LORA, "lora_experts": ["method=lora_experts", "method.rank=4", "method.alpha=8"]}
PLAIN = ["layout.moe=false", "layout.region_attention=false", "layout.global_prompt=true", "layout.global_padding=true"]
PICTURE = {"num_inference_steps": 2, "output_type": "np", "height": 64, "width": 64}


@dataclass(frozen=True, kw_only=True)
class Family:
    """A base model, its own pipeline, and the picture this draws where ours draws :func:`own_picture`."""

    base: Path
    pipeline: type[Any]
    picture: Callable[[Any], np.ndarray]
    atol: float = 2e-5  # between pictures that are the same
    differs: float = 2e-4  # the least that training changes


def words_of(base, scenes, runs, *more):
    return [*short_run(base, scenes, runs), "optimizer.lr=1e-2", "objective.timesteps=logit_normal", *more]


def noise():
    """The latents of :func:`own_picture`, before the first step."""
    return torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(1))


def own_picture(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe("a street", generator=torch.Generator().manual_seed(1), guidance_scale=3.5, **PICTURE).images


def trained_and_resumed(base, scenes, out, *words):
    """A run; resumed half way it came to the same bits."""
    trained(*words_of(base, scenes, out / "runs", *words, "callbacks.samples=null"))
    run = only_run(out / "runs")
    copy = cut_back(run, out / "copy", 2)
    trained(f"resume={copy}")
    assert_equal(tensors(run, 4), tensors(copy, 4))
    return run


def assert_goes_out(run, family, scenes, out, method):
    """Exported as ours a run draws the same and is a base; without a map it is a stock pipeline, and a LoRA of one."""

    def export(name, *words):
        exported = mamoe("export", str(run), str(out / name), *words, "--weights", "fp32")
        assert exported.code == 0, exported.err
        return out / name

    drawn = draw(LayoutPipeline.from_pretrained(run), scenes)
    whole = export("whole")
    np.testing.assert_array_equal(draw(LayoutPipeline.from_pretrained(whole), scenes), drawn)
    trained(*words_of(whole, scenes, out / "more"), *SMALL, *METHODS[method], "trainer.max_steps=1")
    dense = family.picture(family.pipeline.from_pretrained(export("dense", "--format", "dense")))
    file = export("lora", "--format", "diffusers-lora")
    stock, ours = family.pipeline.from_pretrained(family.base), LayoutPipeline.from_pretrained(family.base)
    before = family.picture(stock)
    for pipe, picture in ((stock, family.picture), (ours, own_picture)):
        pipe.load_lora_weights(file, weight_name="pytorch_lora_weights.safetensors")
        np.testing.assert_allclose(picture(pipe), dense, atol=family.atol)
    assert np.abs(before - dense).max() > family.differs


def assert_is_its_own_pipeline(family, scenes, out):
    """Without a layout a run is exported as the stock pipeline, which draws what ours does."""
    trained(*words_of(family.base, scenes, out / "runs"), *SMALL, *PLAIN, *LORA)
    run = only_run(out / "runs")
    assert mamoe("export", str(run), str(out / "out"), "--weights", "fp32").code == 0
    assert f'"_class_name": "{family.pipeline.__name__}"' in (out / "out/model_index.json").read_text()
    stock = family.pipeline.from_pretrained(out / "out")
    np.testing.assert_allclose(family.picture(stock), own_picture(LayoutPipeline.from_pretrained(run)), atol=1e-4)


def assert_grids_and_jobs_are_drawn(base, scenes, out, *words):
    """A run leaves its sample grid, and `mamoe sample` draws two pictures from it."""
    trained(*words_of(base, scenes, out / "runs", *words))
    run = only_run(out / "runs")
    assert list((run / "samples").glob("step-*/grid.png"))
    maps = ["--panoptic", str(scenes / "panoptic/test"), "--prompts", str(scenes / "prompts_test.csv")]
    job = mamoe("sample", str(run), *maps, "--out", str(out / "out"), "--steps", "2")
    assert job.code == 0, job.err
    assert len(list((out / "out").glob("scene*.png"))) == 2
