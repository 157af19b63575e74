"""Losses and noise levels by name, through the command."""

import json

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file
from torchvision.models import alexnet

from factories import mamoe, only_run, short_run
from mamoe import LayoutPipeline
from wholeruns import SMALL, WEIGHTS, assert_equal, cut_back, draw, tensors, trained

PLAIN = ["layout.moe=false", "layout.region_attention=false", "layout.global_prompt=true"]


@pytest.fixture(scope="module")
def weights_of(base_model, scenes, tmp_path_factory):
    """Trains four steps with the given words; returns the run."""

    def train(*words: str):
        runs = tmp_path_factory.mktemp("losses") / "runs"
        trained(*short_run(base_model, scenes, runs), *words)
        return only_run(runs)

    return train


def unet(run) -> torch.Tensor:
    return load_file(run / "checkpoints/latest/unet" / WEIGHTS)["conv_out.weight"]


@pytest.mark.slow
def test_classes_are_weighed_by_how_rare_they_are(weights_of):
    run = weights_of("loss=masked_mse", "callbacks.samples=null")
    weights = json.loads((run / "dataset.json").read_text())["class_weights"]
    assert weights["person"] > weights["car"] > weights["road"] > 0
    copy = cut_back(run, run.parent / "copy", 2)
    trained(f"resume={copy}")
    assert_equal(tensors(run, 4), tensors(copy, 4))


@pytest.mark.slow
def test_weights_of_one_for_every_class_change_nothing(weights_of):
    plain = weights_of(*SMALL)
    ones = weights_of("loss=masked_mse", "loss.class_weights={road: 1}", *SMALL)
    torch.testing.assert_close(unet(plain), unet(ones), rtol=1e-4, atol=1e-7)
    heavy = weights_of("loss=masked_mse", "loss.class_weights={car: 50}", *SMALL)
    assert not torch.allclose(unet(plain), unet(heavy), atol=1e-6)


def test_a_weight_for_an_unknown_class_is_refused(base_model, scenes, tmp_path):
    words = ["loss=masked_mse", "loss.class_weights={cra: 2}"]
    outcome = trained(*short_run(base_model, scenes, tmp_path), *words, code=2)
    assert "loss.class_weights names cra" in outcome.err and "car" in outcome.err


@pytest.mark.slow
def test_a_loss_through_frozen_networks_resumes_and_saves_none_of_them(weights_of, finished_run, tmp_path):
    for name in ("perceptual", "lpips"):
        words = [f"loss={name}", "callbacks.samples=null", "objective.snr_gamma=5"]
        if name == "lpips":
            torch.manual_seed(0)
            save_file(
                {f"features.{k}": v for k, v in alexnet().features.state_dict().items()}, tmp_path / "alex.safetensors"
            )
            words += ["loss.net=alex", f"loss.weights={tmp_path / 'alex.safetensors'}", "loss.every=2"]
        run = weights_of(*words)
        assert tensors(run, 4).keys() == tensors(finished_run, 4).keys()
        assert not torch.allclose(unet(run), unet(finished_run), atol=1e-6)
        copy = cut_back(run, run.parent / "copy", 2)
        trained(f"resume={copy}")
        assert_equal(tensors(run, 4), tensors(copy, 4))
        assert (run / "metrics.csv").read_text() == (copy / "metrics.csv").read_text()


def test_what_a_loss_lacks_is_said_before_anything_is_written(base_model, scenes, tmp_path):
    run = short_run(base_model, scenes, tmp_path / "runs")
    outcome = trained(*run, "loss=lpips", f"loss.weights={tmp_path / 'none.pth'}", code=2)
    assert "none.pth" in outcome.err
    outcome = trained(*run, "loss=latent_lpips", code=2)
    assert "CC BY-NC" in outcome.err
    assert {path.name for path in (tmp_path / "runs").glob("*/*")} <= {"check"}  # what is known of the data alone


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["logit_normal", "stratified"])
def test_resumed_runs_draw_the_same_noise_levels(kind, weights_of):
    run = weights_of(f"objective.timesteps={kind}", "callbacks.samples=null")
    copy = cut_back(run, run.parent / "copy", 2)
    trained(f"resume={copy}")
    assert_equal(tensors(run, 4), tensors(copy, 4))


@pytest.mark.slow
def test_a_flow_trains_resumes_to_the_bit_and_is_drawn_by_euler(weights_of, scenes):
    words = ["objective.prediction=flow", "objective.shift=3", "objective.timesteps=logit_normal"]
    run = weights_of(*words, "objective.snr_gamma=5", "callbacks.samples=null")
    copy = cut_back(run, run.parent / "copy", 2)
    trained(f"resume={copy}")
    assert_equal(tensors(run, 4), tensors(copy, 4))
    assert "objective.shift" in trained(f"resume={copy}", "objective.shift=2", "trainer.max_steps=5", code=2).err
    pipe = LayoutPipeline.from_pretrained(run)
    assert type(pipe.scheduler).__name__ == "FlowMatchEulerDiscreteScheduler" and pipe.scheduler.config["shift"] == 3.0
    assert draw(pipe, scenes).std() > 0


def test_a_flow_without_layout_is_exported_as_a_stock_pipeline(weights_of, tmp_path):
    run = weights_of(*SMALL, "objective.prediction=flow", *PLAIN)
    assert mamoe("export", str(run), str(tmp_path / "out"), "--weights", "fp32").code == 0
    stock = StableDiffusionPipeline.from_pretrained(tmp_path / "out")
    stock.set_progress_bar_config(disable=True)
    assert stock("a street", num_inference_steps=2, output_type="np", height=64, width=64).images.std() > 0
    ours = LayoutPipeline.from_pretrained(tmp_path / "out")
    assert type(ours.scheduler).__name__ == "FlowMatchEulerDiscreteScheduler"


@pytest.mark.parametrize("words", [["objective.shift=3"], ["objective.prediction=flow", "objective.zero_snr=true"]])
def test_what_a_flow_alone_has_or_lacks_is_refused(words, base_model, scenes, tmp_path):
    outcome = trained(*short_run(base_model, scenes, tmp_path), *words, code=2)
    assert words[-1].split("=")[0] in outcome.err and "objective.prediction=flow" in outcome.err
