"""What `mamoe export` writes, read by the programs it is for, and the card that goes along."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from diffusers import DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from PIL import Image
from safetensors import safe_open

from factories import mamoe, only_run, short_run
from mamoe import LayoutPipeline, MaMoEUNet2DConditionModel
from mamoe.bases.pretrained import load_base
from mamoe.commands.card.facts import facts_of
from mamoe.commands.card.page import card_text
from mamoe.commands.export import stock_pipeline
from mamoe.runs.lookup import find_checkpoint
from wholeruns import trained

BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def exported(run, out, form, *words):
    outcome = mamoe("export", run, out, "--format", form, "--weights", "fp32", *words)
    assert outcome.code == 0, outcome.err
    return outcome


def picture(pipe, scheduler=None):
    if scheduler is not None:
        pipe.scheduler = DDIMScheduler.from_config(scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    options = {"height": 64, "width": 64, "num_inference_steps": 2, "output_type": "np"}
    return pipe("a car on a street", generator=torch.Generator().manual_seed(0), **options).images[0]


def run_card(folder: Path, monkeypatch, steps: int = 1):
    """Run the card's code where the card lies, in a step or two instead of fifty."""
    (code,) = BLOCK.findall((folder / "README.md").read_text(encoding="utf-8"))
    monkeypatch.chdir(folder)
    exec(compile(code.replace("generator=", f"num_inference_steps={steps}, generator="), "card", "exec"), {})


def test_a_pipeline_comes_with_a_card_that_runs(finished_run, tmp_path, monkeypatch):
    exported(finished_run, tmp_path / "out", "pipeline")
    text = (tmp_path / "out/README.md").read_text(encoding="utf-8")
    about = yaml.safe_load(text.split("---")[1])
    assert about["license"] == "unknown" and about["library_name"] == "mamoe" and "base_model" not in about
    assert "Look it up before you pass this model on" in text and "this checkpoint was not evaluated" in text
    assert "| 11 | person | thing | person | persons |" in text
    assert str(tmp_path.parent) not in text and "/tmp" not in text and "/work" not in text  # no path of this machine
    samples = sorted((finished_run / "samples/step-00000004").glob("*.cfg.png"))
    assert (tmp_path / "out/picture.png").read_bytes() == samples[0].read_bytes()
    run_card(tmp_path / "out", monkeypatch)
    with Image.open(tmp_path / "out/drawn.png") as drawn:
        assert drawn.size == (64, 64)


def test_dense_is_what_the_model_draws_without_a_map(finished_run, tmp_path, monkeypatch):
    said = exported(finished_run, tmp_path / "dense", "dense")
    assert "Left out" in said.err and "region attention" in said.err and "experts of" in said.err
    stock = StableDiffusionPipeline.from_pretrained(tmp_path / "dense", safety_checker=None)
    assert type(stock.unet) is UNet2DConditionModel
    ours = LayoutPipeline.from_pretrained(finished_run)
    wanted = picture(stock_pipeline(ours, unet=ours.unet.to_dense()))
    assert np.abs(picture(stock) - wanted).max() < 1e-5
    assert "does not have" in (tmp_path / "dense/README.md").read_text()
    run_card(tmp_path / "dense", monkeypatch)
    assert (tmp_path / "dense/drawn.png").is_file()


def test_a_single_file_goes_round_through_diffusers_own_reader(finished_run, tmp_path, monkeypatch):
    exported(finished_run, tmp_path / "dense", "dense")
    exported(finished_run, tmp_path / "file", "single-file")
    with safe_open(tmp_path / "file/model.safetensors", "pt") as file:
        names = set(file.keys())
        assert file.metadata()["modelspec.prediction_type"] == "v"
    assert "model.diffusion_model.input_blocks.0.0.weight" in names
    assert "first_stage_model.decoder.conv_in.weight" in names
    assert any(name.startswith("cond_stage_model.transformer.text_model.") for name in names)
    read = StableDiffusionPipeline.from_single_file(
        str(tmp_path / "file/model.safetensors"), config=str(tmp_path / "file/config"), torch_dtype=torch.float32
    )
    stock = StableDiffusionPipeline.from_pretrained(tmp_path / "dense", safety_checker=None)
    for part in ("unet", "vae", "text_encoder"):
        wanted, got = getattr(stock, part).state_dict(), getattr(read, part).state_dict()
        assert wanted.keys() == got.keys() and all(torch.equal(wanted[name], got[name]) for name in wanted), part
    assert np.abs(picture(read, stock.scheduler) - picture(stock, stock.scheduler)).max() < 1e-5
    again = load_base(str(tmp_path / "file/model.safetensors"), config=str(tmp_path / "file/config"))  # and ours
    assert torch.equal(again.unet.conv_in.weight, stock.unet.conv_in.weight)
    run_card(tmp_path / "file", monkeypatch)


@pytest.mark.slow
def test_a_single_file_with_two_text_encoders(xl_base, scenes, tmp_path):
    words = ["callbacks.samples=null", "callbacks.validation=null"]
    words += ["objective.prediction=v_prediction", "objective.zero_snr=true"]
    trained(*short_run(xl_base, scenes, tmp_path / "runs"), *words)
    run = only_run(tmp_path / "runs")
    exported(run, tmp_path / "file", "single-file")
    exported(run, tmp_path / "dense", "dense")
    read = StableDiffusionXLPipeline.from_single_file(
        str(tmp_path / "file/model.safetensors"), config=str(tmp_path / "file/config"), torch_dtype=torch.float32
    )
    with safe_open(tmp_path / "file/model.safetensors", "pt") as file:
        names = set(file.keys())
    assert {"v_pred", "ztsnr"} <= names  # by which others know what it predicts
    stock = StableDiffusionXLPipeline.from_pretrained(tmp_path / "dense")
    for part in ("unet", "vae", "text_encoder", "text_encoder_2"):
        wanted, got = getattr(stock, part).state_dict(), getattr(read, part).state_dict()
        assert wanted.keys() == got.keys() and all(torch.equal(wanted[name], got[name]) for name in wanted), part


def test_the_unet_alone(finished_run, tmp_path, monkeypatch, capsys):
    exported(finished_run, tmp_path / "unet", "unet")
    ours = LayoutPipeline.from_pretrained(finished_run).unet
    read = MaMoEUNet2DConditionModel.from_pretrained(tmp_path / "unet")
    assert all(torch.equal(value, read.state_dict()[name]) for name, value in ours.state_dict().items())
    run_card(tmp_path / "unet", monkeypatch)
    assert capsys.readouterr().out.strip() == str(ours.config["num_experts"])


def test_a_saved_pipeline_takes_another_form_and_has_no_card(base_model, tmp_path, caplog):
    exported(base_model, tmp_path / "file", "single-file")
    assert "no model card is written" in caplog.text and not (tmp_path / "file/README.md").exists()
    again = load_base(str(tmp_path / "file/model.safetensors"), config=str(tmp_path / "file/config"))
    assert torch.equal(again.unet.conv_in.weight, load_base(str(base_model)).unet.conv_in.weight)


def test_only_adapters_are_merged(finished_run, tmp_path):
    refused = mamoe("export", finished_run, tmp_path / "out", "--format", "merged")
    assert refused.code == 2 and "no adapter to merge" in refused.err and not (tmp_path / "out").exists()


@pytest.mark.slow
def test_merged_draws_what_the_run_draws(base_model, scenes, tmp_path):
    trained(*short_run(base_model, scenes, tmp_path / "runs"), "method=lora", "method.rank=4", "callbacks.samples=null")
    run = only_run(tmp_path / "runs")
    exported(run, tmp_path / "out", "merged")
    wanted, got = LayoutPipeline.from_pretrained(run).unet, LayoutPipeline.from_pretrained(tmp_path / "out").unet
    assert all(torch.equal(value, got.state_dict()[name]) for name, value in wanted.state_dict().items())


@pytest.mark.slow
def test_condition_pictures_have_no_place_in_a_dense_model(base_model, scenes, tmp_path):
    words = ["method=concat", "data.condition=classes", "callbacks.samples=null", "callbacks.validation=null"]
    trained(*short_run(base_model, scenes, tmp_path / "runs"), *words)
    refused = mamoe("export", only_run(tmp_path / "runs"), tmp_path / "out", "--format", "single-file")
    assert refused.code == 2 and "condition picture" in refused.err and "--format pipeline" in refused.err


def test_the_card_has_scores_with_their_protocols(finished_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished_run, run, symlinks=True)
    checkpoint = find_checkpoint(run)
    said = Path(__file__).parents[1] / "golden/disk"
    found = next(said.rglob("metrics.json"))
    (run / "eval/test" / checkpoint.name).mkdir(parents=True)
    shutil.copy(found, run / "eval/test" / checkpoint.name / "metrics.json")
    text = card_text(facts_of(checkpoint, form="pipeline", stock=False))
    assert "| FD-pixels ↓ |" in text and "Split test" in text
    assert "- FD-pixels: Frechet distance, pixels, resized to 64x64" in text and "2 steps, guidance 4.0, n = 2" in text


def test_hostile_names_stay_text(finished_run):
    from dataclasses import replace

    facts = facts_of(find_checkpoint(finished_run), form="pipeline", stock=False)
    text = card_text(replace(facts, title="<script>|x\n# y", base="a`b](c)"))
    assert "<script>" not in text and "\n# y" not in text and "&lt;script&gt;\\|x # y" in text
