"""What has to hold on a GPU: `python -m pytest -n 0 -m gpu tests/gpu`. Skips where there is none."""

import copy
import csv
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from factories import mamoe, only_run, short_run
from mamoe.machine.replay import ReplayedSteps
from mamoe.methods.decoder import Decoder
from mamoe.methods.lora import Lora
from mamoe.models.experts.moe import prepare_experts
from mamoe.models.precast import precast
from mamoe.sampling.fast import speed_up
from mamoe.sampling.pipeline import LayoutPipeline
from mamoe.training.step.module import DiffusionModule
from mamoe.vocabulary.conditioning import ExpertRouting, LevelConditioning
from small_models import models as models
from wholeruns import SMALL, assert_equal, tensors, trained

DEVICE = "cuda"
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here"),
]
METHODS = {
    "full": [],
    "decoder": [],
    "lora": ["method.rank=8", "method.alpha=8"],
    "dora": ["method.rank=8", "method.alpha=8"],
    "lora_experts": ["method.rank=8", "method.alpha=8"],
    "shared_expert": [],
    "controlnet_xs": ["data.condition=classes"],
    "concat": ["data.condition=edges"],
}
ON_GPU = [*SMALL, "trainer.accelerator=gpu"]


@pytest.fixture(autouse=True)
def plain_float32(monkeypatch):
    """Convolutions in float32 as on a CPU; and no test leaves behind that waiting is an error."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    yield
    torch.cuda.set_sync_debug_mode("default")


def moved(levels, device):
    return tuple(
        LevelConditioning(
            grid=level.grid,
            attend=level.attend.to(device),
            routing=ExpertRouting(
                token=level.routing.token.to(device), offsets=level.routing.offsets.to(device), weight=None
            ),
        )
        for level in levels
    )


def outcome(model, models, device, dtype=torch.float32):
    """A prediction and its gradients, on the CPU."""
    given = {name: value.to(device) for name, value in models.inputs().items()}
    layout = {"regions": moved(models.levels(2, (9, 14), 7), device)}
    with torch.autocast(device, dtype, enabled=dtype != torch.float32):
        out = model(**given, cross_attention_kwargs=layout).sample
    learns = [weight for weight in model.parameters() if weight.requires_grad]
    gradients = torch.autograd.grad(out.float().square().mean(), learns)
    return [value.float().cpu() for value in (out, *gradients)]


def assert_near(one, other, tolerance):
    for a, b in zip(one, other, strict=True):
        assert (a - b).abs().max() <= tolerance * (1 + b.abs().max())


# Core identities and fused paths.


@pytest.mark.parametrize("shared", [False, True])
def test_values_and_gradients_are_those_of_the_cpu(models, shared):
    model = models.mamoe(shared_expert=shared)
    assert_near(outcome(copy.deepcopy(model).to(DEVICE), models, DEVICE), outcome(model, models, "cpu"), 1e-4)


def test_grouped_and_stacked_products_are_the_plain_ones(models, monkeypatch):
    model = models.mamoe().to(DEVICE)
    apart = outcome(model, models, DEVICE)
    half_apart = outcome(model, models, DEVICE, torch.bfloat16)
    prepare_experts(model)  # end to end in memory: no copy
    assert_near(outcome(model, models, DEVICE), apart, 1e-6)
    assert_near(outcome(model, models, DEVICE, torch.bfloat16), half_apart, 1e-6)
    monkeypatch.setattr("mamoe.models.experts.grouped.grouped_suits", lambda rows: False)
    assert_near(outcome(model, models, DEVICE), apart, 1e-5)
    assert_near(outcome(model, models, DEVICE, torch.bfloat16), half_apart, 3e-2)


def test_a_fresh_conversion_computes_what_the_stock_unet_computes(models):
    stock = models.unet().to(DEVICE)
    ours = type(models.mamoe()).from_unet(stock, num_experts=3).to(DEVICE).eval()
    given = {name: value.to(DEVICE) for name, value in models.inputs().items()}
    layout = {"regions": moved(models.levels(2, (9, 14), 7, covering=True), DEVICE)}
    with torch.no_grad():
        assert_near([ours(**given, cross_attention_kwargs=layout).sample], [stock(**given).sample], 1e-5)


@pytest.mark.parametrize("method", [Lora(rank=8, alpha=8.0), Decoder()])
def test_frozen_weights_in_bfloat16_are_what_autocast_makes_of_them(models, method):
    model = method.prepare(models.mamoe(), seed=0).to(DEVICE)
    wanted = outcome(model, models, DEVICE, torch.bfloat16)
    precast(model, torch.bfloat16)
    prepare_experts(model)
    got = outcome(model, models, DEVICE, torch.bfloat16)
    assert torch.equal(got[0], wanted[0])
    assert_near(got[1:], wanted[1:], 1e-3)  # whose sums are taken in another order every time


# Whole runs.


@pytest.mark.parametrize("name", METHODS)
def test_every_method_learns_in_bfloat16(name, base_model, scenes, tmp_path):
    words = [f"method={name}", *METHODS[name], "trainer.max_steps=20", "trainer.precision=bf16-mixed"]
    trained(*short_run(base_model, scenes, tmp_path), *ON_GPU, *words)
    with (only_run(tmp_path) / "metrics.csv").open() as file:
        losses = [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]
    assert losses and all(map(math.isfinite, losses))


def test_no_step_waits_for_the_device(base_model, scenes, tmp_path, monkeypatch):
    # torch itself raises where the host waits.
    start, step = DiffusionModule.on_train_batch_start, DiffusionModule.optimizer_step

    def on_train_batch_start(module, batch, batch_idx):
        torch.cuda.set_sync_debug_mode("error" if batch_idx > 1 else "default")
        start(module, batch, batch_idx)

    def optimizer_step(module, *args, **kwargs):
        step(module, *args, **kwargs)
        torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(DiffusionModule, "on_train_batch_start", on_train_batch_start)
    monkeypatch.setattr(DiffusionModule, "optimizer_step", optimizer_step)
    words = ["cache.latents=true", "trainer.max_steps=8", "trainer.precision=bf16-mixed"]
    trained(*short_run(base_model, scenes, tmp_path), *ON_GPU, *words)


def test_resuming_is_bit_equal_where_that_is_asked_for(base_model, scenes, tmp_path):
    words = [*ON_GPU, "trainer.deterministic=true", "trainer.precision=bf16-mixed", "trainer.max_steps=6"]
    for name in ("whole", "again"):
        trained(*short_run(base_model, scenes, tmp_path / name), *words, "callbacks.checkpoints.every=3")
    whole, again = only_run(tmp_path / "whole"), only_run(tmp_path / "again")
    assert_equal(tensors(whole, 6), tensors(again, 6))
    first, kept = again / "checkpoints/step-00000003", tensors(again, 6)
    trained(f"resume={first}")
    assert_equal(tensors(again, 6), kept)


def test_a_step_that_is_not_finite_leaves_weights_and_moments(base_model, scenes, tmp_path, monkeypatch):
    losses = DiffusionModule._losses

    def poisoned(module, batch, batch_idx):
        found = losses(module, batch, batch_idx)
        return found * float("nan") if batch_idx == 3 else found

    words = [*ON_GPU, "trainer.deterministic=true"]
    trained(*short_run(base_model, scenes, tmp_path / "sound"), *words, "trainer.max_steps=3")
    monkeypatch.setattr(DiffusionModule, "_losses", poisoned)
    ended = mamoe("train", *short_run(base_model, scenes, tmp_path / "nan"), *words, "trainer.max_steps=8")
    assert ended.code == 4 and "Step 4: loss nan" in ended.err
    run = only_run(tmp_path / "nan")
    assert json.loads((run / "nonfinite-step-00000004.json").read_text())["step"] == 4
    assert_equal(tensors(only_run(tmp_path / "sound"), 3), tensors(run, 3))


def test_sharded_over_one_device(base_model, scenes, tmp_path):
    words = ["trainer.strategy=fsdp", "model.channels_last=false", "trainer.max_steps=3", "optimizer=adamw"]
    trained(*short_run(base_model, scenes, tmp_path), *ON_GPU, *words)


def test_compiled_blocks_learn_the_same(base_model, scenes, tmp_path):
    losses = {}
    for how in ("off", "blocks"):
        words = [f"trainer.compile={how}", "trainer.max_steps=4"]
        trained(*short_run(base_model, scenes, tmp_path / how), *ON_GPU, *words)
        with (only_run(tmp_path / how) / "metrics.csv").open() as file:
            losses[how] = [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]
    assert losses["off"] == pytest.approx(losses["blocks"], rel=1e-2)


def test_recorded_steps_learn_the_same(base_model, scenes, tmp_path, monkeypatch):
    recorded, losses = [], {}
    record = ReplayedSteps.record

    def noted(steps, *args, **kwargs):
        record(steps, *args, **kwargs)
        recorded.append(steps)

    monkeypatch.setattr(ReplayedSteps, "record", noted)
    for how in ("off", "graph"):
        words = [f"trainer.compile={how}", "trainer.max_steps=6", "trainer.precision=bf16-mixed"]
        trained(*short_run(base_model, scenes, tmp_path / how), *ON_GPU, *words)
        with (only_run(tmp_path / how) / "metrics.csv").open() as file:
            losses[how] = [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]
    assert recorded, (only_run(tmp_path / "graph") / "log.txt").read_text()
    assert losses["off"] == pytest.approx(losses["graph"], rel=2e-2)


# Drawing.


def test_recorded_pictures_with_channels_last_are_the_same(base_model, scenes, tmp_path):
    trained(*short_run(base_model, scenes, tmp_path), *ON_GPU)
    pipe = LayoutPipeline.from_pretrained(only_run(tmp_path)).to(DEVICE, torch.bfloat16)
    pipe.set_progress_bar_config(disable=True)
    said: list[str] = []

    def drawn():
        noise = torch.Generator().manual_seed(0)
        return pipe("a street", num_inference_steps=4, height=64, width=64, generator=noise, output_type="pt").images

    plain = drawn()
    speed_up(pipe, (64, 64), said.append)
    assert not said and pipe.unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    assert (drawn() - plain).abs().mean() < 0.01


def test_sampling_in_both_formats(base_model, scenes, tmp_path):
    trained(*short_run(base_model, scenes, tmp_path / "runs"), *ON_GPU)
    run, drawn = only_run(tmp_path / "runs"), {}
    for name, words in {"bf16": [], "fp32": ["--precision", "fp32"], "cpu": ["--device", "cpu"]}.items():
        panoptic = ["--panoptic", scenes / "panoptic/test", "--steps", 4, "--out", tmp_path / name]
        found = mamoe("sample", run, *panoptic, *words)
        assert found.code == 0, found.err
        names = sorted(path.name for path in (tmp_path / name).glob("scene*.png"))
        drawn[name] = np.stack([np.asarray(Image.open(tmp_path / name / one), dtype=np.float32) for one in names])
    assert np.abs(drawn["fp32"] - drawn["cpu"]).mean() < 1 and np.abs(drawn["bf16"] - drawn["cpu"]).mean() < 8


def test_no_denoising_step_waits_for_the_device(base_model, scenes, tmp_path):
    trained(*short_run(base_model, scenes, tmp_path), *ON_GPU)
    pipe = LayoutPipeline.from_pretrained(only_run(tmp_path)).to(DEVICE, torch.bfloat16)
    pipe.set_progress_bar_config(disable=True)
    calls = []

    def before(*_):
        calls.append(1)
        torch.cuda.set_sync_debug_mode("error")

    pipe.unet.register_forward_pre_hook(before)
    decode = pipe._decode

    def decoded(*args):
        torch.cuda.set_sync_debug_mode("default")
        return decode(*args)

    pipe._decode = decoded
    try:
        pipe("a street", num_inference_steps=4, height=64, width=64)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(calls) == 4
