"""The pipeline among diffusers' own: what their fast tests ask of a pipeline of the Stable Diffusion kind.

Batch consistency, pictures per prompt and callbacks are in test_pipeline.py and test_calls.py, pictures to begin with
in test_editing.py, offloading and slicing in tests/field/test_field_pipeline.py; here are schedulers, saving and
loading, optional components, number formats, LoRA files, and the hub.
"""

import copy
import json
import os
import subprocess
import sys
import textwrap
from importlib.util import find_spec
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers
from peft import LoraConfig, get_peft_model_state_dict

from mamoe.errors import ConfigError
from mamoe.models.control.controlnet_xs import ControlledUNet, new_branch
from mamoe.models.unet.model import MaMoEUNet2DConditionModel
from mamoe.sampling.pipeline import LayoutPipeline

STEPS = 3
SAME = 1e-4
LISTED = [member.name for member in KarrasDiffusionSchedulers]
OF_EXTRAS = {"DPMSolverSDEScheduler": "torchsde"}  # a scheduler and the package it wants


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def draw(pipe, **asked) -> np.ndarray:
    given = {"prompt": "a street", "num_inference_steps": STEPS, "output_type": "np", "generator": seeded(0), **asked}
    return pipe(**given).images


def stock_of(parts, scheduler) -> StableDiffusionPipeline:
    stock = StableDiffusionPipeline(
        **parts, scheduler=scheduler, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
    stock.set_progress_bar_config(disable=True)
    return stock


# Schedulers.


@pytest.mark.slow
@pytest.mark.parametrize("name", LISTED)
def test_every_scheduler_listed_for_stable_diffusion(make_pipe, parts, make_map, name):
    if name in OF_EXTRAS and find_spec(OF_EXTRAS[name]) is None:
        pytest.skip(f"{name} wants {OF_EXTRAS[name]}")
    plain, steered = make_pipe(layout=False, zero_snr=False), make_pipe(zero_snr=False)
    config = {**plain.scheduler.config, "skip_prk_steps": True}  # PNDM, as Stable Diffusion has it
    schedulers = [getattr(diffusers, name).from_config(config) for _ in range(3)]
    plain.scheduler, steered.scheduler = schedulers[:2]
    size = {"height": 32, "width": 48, "guidance_scale": 3.0}
    wanted = draw(stock_of(parts, schedulers[2]), **size)
    assert np.abs(draw(plain, **size) - wanted).max() < SAME
    # With a layout: no picture depends on its batch, and what an edit keeps stays.
    maps, photo = [make_map(0), make_map(1)], np.full((32, 48, 3), 120, np.uint8)
    edit = {"panoptic": maps, "image": photo, "only_instances": [7], "border": 0, "strength": 0.7}
    both = draw(steered, **edit, generator=seeded(1, 2))
    alone = draw(steered, **{**edit, "panoptic": maps[1]}, generator=seeded(2))
    assert np.isfinite(both).all() and np.abs(both[1] - alone[0]).max() < SAME
    car = maps[1].segment_id == 7
    assert np.array_equal((alone[0][~car] * 255).round(), photo[~car]) and (alone[0][car] * 255).round().std() > 0


def test_a_scheduler_without_the_models_schedule_is_said(make_pipe):
    pipe = make_pipe(zero_snr=True)
    pipe.scheduler = diffusers.PNDMScheduler.from_config(pipe.scheduler.config, skip_prk_steps=True)
    with pytest.warns(UserWarning, match="zero-terminal-SNR schedule, which PNDMScheduler does not know"):
        draw(pipe, num_inference_steps=1)


# Saving and loading.


def test_the_folder_is_read_by_the_general_class_and_by_a_stock_one(make_pipe, make_map, tmp_path):
    pipe = make_pipe(zero_snr=False)
    pipe.save_pretrained(tmp_path)
    assert "mamoe" not in (tmp_path / "model_index.json").read_text().replace("LayoutPipeline", "").replace(
        json.dumps(pipe.config["layout"]), ""
    )
    general, stock = DiffusionPipeline.from_pretrained(tmp_path), StableDiffusionPipeline.from_pretrained(tmp_path)
    for one in (general, stock):
        one.set_progress_bar_config(disable=True)
    assert isinstance(general, LayoutPipeline) and isinstance(general.unet, MaMoEUNet2DConditionModel)
    asked = {"panoptic": make_map(), "instance_prompts": {7: "a red car"}}
    assert np.abs(draw(general, **asked) - draw(pipe, **asked)).max() < 1e-5
    # The dense part is what the pipeline draws without a map.
    assert type(stock.unet) is UNet2DConditionModel
    size = {"height": 32, "width": 48, "guidance_scale": 4.0}
    assert np.abs(draw(stock, **size) - draw(pipe, **size)).max() < 1e-5


def test_a_branch_the_general_class_does_not_load_is_missed(make_pipe, make_map, tmp_path):
    pipe = make_pipe()
    shown = LayoutPipeline(
        **{**pipe.components, "unet": ControlledUNet(pipe.unet, new_branch(pipe.unet))},
        layout=pipe.config["layout"],
        condition="classes",
    )
    shown.save_pretrained(tmp_path)
    assert isinstance(LayoutPipeline.from_pretrained(tmp_path).unet, ControlledUNet)
    with pytest.raises(ConfigError, match=r"branch was not loaded.*LayoutPipeline\.from_pretrained"):
        draw(DiffusionPipeline.from_pretrained(tmp_path), panoptic=make_map())


FRESH = """
    import sys, numpy, torch
    {first}
    from diffusers import DiffusionPipeline, StableDiffusionPipeline
    pipe = {kind}.from_pretrained(sys.argv[1])
    pipe.set_progress_bar_config(disable=True)
    asked = dict(num_inference_steps=3, height=32, width=48, guidance_scale=4.0, output_type="np")
    numpy.save(sys.argv[2], pipe("a street", generator=torch.Generator().manual_seed(0), **asked).images)
    assert type(pipe).__name__ == "{name}", type(pipe)
    assert ("mamoe" in [m for m in sys.modules if sys.modules[m]]) == {there}
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "told",
    [
        {
            "first": "from mamoe import LayoutPipeline",
            "kind": "DiffusionPipeline",
            "name": "LayoutPipeline",
            "there": True,
        },
        {
            "first": "sys.modules['mamoe'] = None",  # as if it were not installed
            "kind": "StableDiffusionPipeline",
            "name": "StableDiffusionPipeline",
            "there": False,
        },
    ],
    ids=["with mamoe", "without"],
)
def test_the_folder_in_a_fresh_process(make_pipe, tmp_path, told):
    pipe = make_pipe(zero_snr=False)
    pipe.save_pretrained(tmp_path / "pipe")
    script = textwrap.dedent(FRESH).format(**told)
    subprocess.run(
        [sys.executable, "-c", script, tmp_path / "pipe", tmp_path / "got.npy"],
        check=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        timeout=120,
    )
    wanted = draw(pipe, height=32, width=48, guidance_scale=4.0)
    assert np.abs(np.load(tmp_path / "got.npy") - wanted).max() < 1e-5


def test_optional_components_and_number_formats(make_pipe, make_map, tmp_path):
    pipe = make_pipe()
    assert pipe.text_encoder_2 is None and pipe.tokenizer_2 is None
    pipe.save_pretrained(tmp_path)
    half = LayoutPipeline.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    half.set_progress_bar_config(disable=True)
    assert half.dtype == torch.bfloat16 and half.text_encoder_2 is None
    assert np.isfinite(draw(half, panoptic=make_map())).all()
    full = half.to(torch.float32)
    assert np.abs(draw(full, panoptic=make_map()) - draw(pipe, panoptic=make_map())).max() < 0.1
    parts = LayoutPipeline(**pipe.components, layout=pipe.config["layout"])
    parts.set_progress_bar_config(disable=True)
    assert np.array_equal(draw(parts, panoptic=make_map()), draw(pipe, panoptic=make_map()))


def test_pushed_to_the_hub_is_what_is_saved(make_pipe, tmp_path, monkeypatch):
    """The upload itself is diffusers'; here it is caught, and what it would send is looked at."""
    sent = []

    class Url:
        repo_id = "me/street"

    monkeypatch.setattr("diffusers.pipelines.pipeline_utils.create_repo", lambda *a, **k: Url())
    monkeypatch.setattr("diffusers.utils.hub_utils.create_repo", lambda *a, **k: Url())
    monkeypatch.setattr(
        LayoutPipeline,
        "_upload_folder",
        lambda self, folder, repo_id, **_: sent.extend(
            path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file()
        ),
    )
    monkeypatch.setattr("diffusers.pipelines.pipeline_utils.load_or_create_model_card", lambda *a, **k: None)
    monkeypatch.setattr("diffusers.pipelines.pipeline_utils.populate_model_card", lambda card, **k: Card())
    make_pipe().save_pretrained(tmp_path / "pipe", push_to_hub=True, repo_id="me/street")
    assert {"model_index.json", "unet/diffusion_pytorch_model.safetensors", "vae/config.json"} <= set(sent)


class Card:
    def save(self, path) -> None:
        Path(path).write_text("card")


# LoRA files of others.


@pytest.fixture(scope="module")
def lora(parts, tmp_path_factory) -> Path:
    """A LoRA of the stock UNet, attention and feed-forward, as diffusers' scripts write it."""
    folder = tmp_path_factory.mktemp("lora")
    unet = copy.deepcopy(parts["unet"])
    unet.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_v", "to_k", "ff.net.0.proj"]))
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        for name, weight in unet.named_parameters():
            if "lora_" in name:
                weight.copy_(0.5 * torch.randn_like(weight))
    StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=get_peft_model_state_dict(unet))
    return folder


@pytest.mark.slow
def test_lora_weights_and_adapters(make_pipe, parts, layout_unet, make_map, lora):
    ours = make_pipe(layout=False, zero_snr=False, unet=copy.deepcopy(parts["unet"]))
    stock = stock_of({**parts, "unet": copy.deepcopy(parts["unet"])}, ours.scheduler)
    size = {"height": 32, "width": 48, "guidance_scale": 3.0}
    plain = draw(ours, **size)
    for pipe in (ours, stock):
        pipe.load_lora_weights(lora, adapter_name="style")
    styled = draw(stock, **size)
    assert np.abs(styled - plain).max() > 1e-3 and np.abs(draw(ours, **size) - styled).max() < SAME
    for pipe in (ours, stock):
        pipe.set_adapters("style", 0.5)
    assert np.abs(draw(ours, **size) - draw(stock, **size)).max() < SAME
    # On a UNet with experts: the attention of all cells, the feed-forward of the rest expert.
    steered = make_pipe(zero_snr=False, unet=copy.deepcopy(layout_unet))
    before = draw(steered, panoptic=make_map())
    steered.load_lora_weights(lora, adapter_name="style")
    wrapped = {name.rsplit(".lora_A", 1)[0] for name, _ in steered.unet.named_parameters() if ".lora_A" in name}
    assert any(".ff.net.0.proj" in name for name in wrapped) and not any("experts" in name for name in wrapped)
    assert np.abs(draw(steered, panoptic=make_map()) - before).max() > 1e-3
    assert np.abs(draw(steered, **size) - draw(make_loaded(make_pipe, parts, layout_unet, lora), **size)).max() < SAME
    steered.unload_lora_weights()
    assert np.abs(draw(steered, panoptic=make_map()) - before).max() < 1e-5


def make_loaded(make_pipe, parts, layout_unet, lora):
    """The dense part with the LoRA: what the pipeline with experts draws without a map."""
    pipe = make_pipe(layout=False, zero_snr=False, unet=layout_unet.to_dense())
    pipe.load_lora_weights(lora, adapter_name="style")
    return pipe


def test_a_lora_beside_a_branch_is_refused(make_pipe, lora):
    pipe = make_pipe()
    pipe.unet = ControlledUNet(pipe.unet, new_branch(pipe.unet))
    with pytest.raises(ConfigError, match="load_lora_adapter"):
        pipe.load_lora_weights(lora)


def test_adapters_of_a_pipeline_that_is_saved_are_not_lost(make_pipe, layout_unet, lora, make_map, tmp_path):
    pipe = make_pipe(unet=copy.deepcopy(layout_unet))
    pipe.load_lora_weights(lora)
    with pytest.raises(ConfigError, match="fuse_lora"):
        pipe.save_pretrained(tmp_path / "with")
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    wanted = draw(pipe, panoptic=make_map())
    pipe.save_pretrained(tmp_path / "fused")
    again = LayoutPipeline.from_pretrained(tmp_path / "fused")
    again.set_progress_bar_config(disable=True)
    assert np.abs(draw(again, panoptic=make_map()) - wanted).max() < 1e-5
