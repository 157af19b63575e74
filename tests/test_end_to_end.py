"""Whole runs through the command: train, resume, sample, export, and every way a training can end."""

import json
import os
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from diffusers import StableDiffusionPipeline
from PIL import Image
from safetensors.torch import load_file

from factories import break_picture, drawn_data, mamoe, only_run, short_run
from mamoe import LayoutPipeline, PanopticMap
from mamoe.data.prompts import read_instance_prompts, read_prompts_csv
from mamoe.training.data import epoch_order
from mamoe.training.metrics import read_rows
from mamoe.training.module import DiffusionModule

WEIGHTS = "diffusion_pytorch_model.safetensors"
SMALL = [
    "callbacks.validation=null",
    "callbacks.samples=null",
    "callbacks.checkpoints.every=null",
]  # nothing but the steps and the last checkpoint


def trained(*overrides: str, code: int = 0):
    outcome = mamoe("train", *overrides)
    assert outcome.code == code, outcome
    assert "Traceback" not in outcome.err
    return outcome


def tensors(run: Path, step: int) -> dict[str, torch.Tensor]:
    """Every tensor of a checkpoint: weights, averages, moments."""
    folder = run / f"checkpoints/step-{step:08d}"
    return {
        f"{path.relative_to(folder)}:{name}": value
        for path in sorted(folder.rglob("*.safetensors"))
        for name, value in load_file(path).items()
    }


def assert_equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys() and a
    different = [name for name, value in a.items() if not torch.equal(value, b[name])]
    assert not different


def cut_back(run: Path, copy: Path, step: int) -> Path:
    """A copy of ``run`` as it was right after the checkpoint of ``step``."""
    shutil.copytree(run, copy, symlinks=True)
    for folder in (copy / "checkpoints").glob("step-*"):
        if int(folder.name.removeprefix("step-")) > step:
            shutil.rmtree(folder)
    for name in ("latest", "best"):
        link = copy / "checkpoints" / name
        link.unlink(missing_ok=True)
        link.symlink_to(f"step-{step:08d}")
    return copy


def draw(pipe: LayoutPipeline, scenes: Path, **options) -> np.ndarray:
    pipe.set_progress_bar_config(disable=True)
    name = "scene_000001.png"
    picture = pipe(
        prompt=read_prompts_csv(scenes / "prompts_test.csv")[name],
        panoptic=PanopticMap.read(scenes / "panoptic/test" / name),
        instance_prompts=read_instance_prompts(scenes / "instance_prompts_test.json")[name],
        num_inference_steps=2,
        generator=torch.Generator().manual_seed(3),
        **options,
    ).images[0]
    return np.asarray(picture)


# A run.


def test_a_run_leaves_what_is_needed_to_understand_it(finished_run, base_model):
    names = {path.name for path in finished_run.iterdir()}
    files = {"config.yaml", "overrides.txt", "environment.json", "dataset.json", "log.txt", "metrics.csv"}
    assert names == files | {"checkpoints", "samples"}
    assert (finished_run.parent / "latest").resolve() == finished_run

    config = yaml.safe_load((finished_run / "config.yaml").read_text())
    assert config["trainer"]["max_steps"] == 4 and config["model"]["path"] == str(base_model)
    assert "trainer.max_steps=4" in (finished_run / "overrides.txt").read_text().splitlines()
    versions = json.loads((finished_run / "environment.json").read_text())["packages"]
    assert torch.__version__.startswith(versions["torch"])
    assert json.loads((finished_run / "dataset.json").read_text())["train_images"] == 6

    measured = [
        (int(row["step"]), row["val/loss"]) for row in read_rows(finished_run / "metrics.csv") if row["val/loss"]
    ]
    assert [step for step, _ in measured] == [0, 2, 4]
    assert len({value for _, value in measured}) == 3  # something was learned
    assert "Trained to step 4" in (finished_run / "log.txt").read_text()


def test_its_checkpoints_and_samples(finished_run):
    checkpoints = finished_run / "checkpoints"
    assert {path.name for path in checkpoints.iterdir()} == {"step-00000002", "step-00000004", "latest", "best"}
    assert (checkpoints / "latest").resolve().name == "step-00000004"
    recipe = json.loads((checkpoints / "latest/recipe.json").read_text())
    assert recipe["scheduler"]["prediction_type"] == "v_prediction" and recipe["layout"]["grouping"] == "streets"
    folder = finished_run / "samples/step-00000004"
    pictures = {f"scene_00000{i}.{mode}.png" for i in (0, 1) for mode in ("cond", "uncond", "cfg")}
    assert {path.name for path in folder.glob("*.png")} == pictures | {"grid.png"}
    # map | real | cond | uncond | cfg, two rows, under a line of titles
    width, height = Image.open(folder / "grid.png").size
    assert width == 5 * 64 + 4 * 2 and height > 2 * 64


def test_it_learns_experts_and_regions(finished_run, base_model):
    before = load_file(base_model / "unet" / WEIGHTS)
    after = load_file(finished_run / "checkpoints/latest/unet" / WEIGHTS)
    assert before.keys() < after.keys()
    assert any(".experts." in name for name in after.keys() - before.keys())
    assert all(not torch.equal(before[name], after[name]) for name in before if "attn2.to_k" in name)


def test_only_our_lines_are_printed(finished_run, base_model, scenes, tmp_path):
    outcome = trained(*short_run(base_model, scenes, tmp_path), *SMALL)
    assert outcome.err == ""
    lines = outcome.out.splitlines()
    assert all(line.startswith(("Step ", "step ", "Trained ")) for line in lines), lines


# Going on.


def test_resumed_equals_uninterrupted(finished_run, tmp_path):
    copy = cut_back(finished_run, tmp_path / "copy", 2)
    (tmp_path / "latest").symlink_to("copy")
    outcome = trained(f"resume={tmp_path / 'latest'}")
    assert "step-00000002 at step 2" in outcome.out
    assert_equal(tensors(finished_run, 4), tensors(copy, 4))
    assert read_rows(finished_run / "metrics.csv") == read_rows(copy / "metrics.csv")
    grids = [(run / "samples/step-00000004/grid.png").read_bytes() for run in (finished_run, copy)]
    assert grids[0] == grids[1]
    assert not (tmp_path / "runs").exists()


def test_resumed_from_a_named_checkpoint_for_longer(finished_run, tmp_path):
    copy = cut_back(finished_run, tmp_path / "copy", 4)
    trained("experiment=demo", f"resume={copy / 'checkpoints/step-00000002'}", "trainer.max_steps=3", *SMALL)
    rows = [int(row["step"]) for row in read_rows(copy / "metrics.csv")]
    assert max(rows) == 3 and (copy / "checkpoints/step-00000003").is_dir()


def test_resuming_a_finished_run_changes_nothing(finished_run, tmp_path):
    copy = cut_back(finished_run, tmp_path / "copy", 4)
    outcome = trained(f"resume={copy}")
    assert outcome.err == "" and "Trained to step 4" in outcome.out
    assert_equal(tensors(finished_run, 4), tensors(copy, 4))


def test_resuming_with_other_data_is_refused(finished_run, tmp_path):
    copy = cut_back(finished_run, tmp_path / "copy", 2)
    outcome = trained(f"resume={copy}", "seed=5", code=2)
    assert "seed was 0 and is 5" in outcome.err
    outcome = trained(f"resume={copy}", "layout.grouping=per_class", code=2)
    assert "Resume with the model settings of that run" in outcome.err


def test_resuming_before_the_first_checkpoint_is_refused(finished_run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(finished_run, copy, symlinks=True)
    shutil.rmtree(copy / "checkpoints")
    assert "checkpoint" in trained(f"resume={copy}", code=2).err


# Pictures.


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
    words = ["layout.moe=false", "layout.region_attention=false", *SMALL, "trainer.max_steps=1"]
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


# Configuration that reaches the training.


@pytest.mark.parametrize("debug", ["default", "fdr", "limit", "overfit", "profiler"])
def test_debugging_runs(debug, base_model, scenes, tmp_path):
    shorter = {"overfit": ["trainer.max_steps=3"], "profiler": ["trainer.max_steps=2"], "limit": []}.get(debug, [])
    own = ("trainer.max_steps", "callbacks")  # what the debug option is to decide itself
    words = [w for w in short_run(base_model, scenes, tmp_path) if not w.startswith(own)]
    few = ["callbacks.samples.steps=1"] if debug in ("limit", "overfit") else []
    trained(*words, f"debug={debug}", *shorter, *few)
    run = only_run(tmp_path, "debug")
    last = max(int(row["step"]) for row in read_rows(run / "metrics.csv"))
    # limit: one epoch of 6 pictures by 2
    assert last == {"default": 4, "fdr": 1, "limit": 3, "overfit": 3, "profiler": 2}[debug]
    assert (run / "checkpoints/latest").is_dir()
    assert (run / "samples").is_dir() == (debug != "profiler")
    profile = run / "fit-profile.txt"
    assert profile.exists() == (debug == "profiler")
    if debug == "profiler":
        assert "optimizer_step" in profile.read_text()
    if debug == "overfit":
        assert json.loads((run / "dataset.json").read_text())["val_images"] == 6  # the training pictures


def test_limits_and_anomaly_detection_reach_the_training(base_model, scenes, tmp_path, monkeypatch):
    seen, step = [], DiffusionModule.training_step

    def watched(self, batch, batch_idx):
        seen.append((torch.is_anomaly_enabled(), *batch.index.tolist()))
        return step(self, batch, batch_idx)

    monkeypatch.setattr(DiffusionModule, "training_step", watched)
    words = ["trainer.limit_train_images=3", "trainer.limit_val_images=1", "trainer.detect_anomaly=true"]
    words += ["trainer.max_steps=1"]  # autograd's anomaly detection takes a second per step
    trained(*short_run(base_model, scenes, tmp_path), *words, *SMALL, "trainer.accumulate_grad_batches=3")
    assert len(seen) == 3 and all(anomaly for anomaly, *_ in seen)
    assert {index for _, *indices in seen for index in indices} == {0, 1, 2}
    facts = json.loads((only_run(tmp_path) / "dataset.json").read_text())
    assert (facts["train_images"], facts["val_images"]) == (3, 1)


def test_loggers_and_callbacks_by_name(base_model, scenes, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    extra = [
        "logger=tensorboard",
        f"logger.extra=[{{_target_: lightning.pytorch.loggers.CSVLogger, save_dir: {tmp_path / 'more'}}}]",
        "callbacks.extra=[{_target_: lightning.pytorch.callbacks.LearningRateMonitor}]",
    ]
    trained(*short_run(base_model, scenes, tmp_path / "runs"), *extra)
    events = EventAccumulator(str(only_run(tmp_path / "runs") / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Images("samples")] == [4]
    assert [event.step for event in events.Scalars("val/loss")] == [0, 2, 4]
    assert any(tag.startswith("lr-") for tag in events.Tags()["scalars"])
    assert "val/loss" in next((tmp_path / "more").rglob("metrics.csv")).read_text()


# Bad ends.


def test_a_loss_out_of_hand_stops_before_the_weights_change(base_model, scenes, tmp_path):
    words = [
        "optimizer.lr=1e30",
        "trainer.gradient_clip_val=null",
        "callbacks.validation=null",
        "callbacks.samples=null",
        "callbacks.checkpoints.every=1",
    ]
    words += ["lr_scheduler.warmup_steps=0"]
    outcome = trained(*short_run(base_model, scenes, tmp_path), *words, code=4)
    run = only_run(tmp_path)
    assert "The weights were not changed" in outcome.err and "scene_00000" in outcome.err
    assert "NonFiniteLossError" in (run / "log.txt").read_text()
    latest = run / "checkpoints/latest"
    assert outcome.err.startswith(f"Error: Step {int(latest.resolve().name.removeprefix('step-')) + 1}:")
    assert all(torch.isfinite(value).all() for value in load_file(latest / "unet" / WEIGHTS).values())


def test_a_broken_picture_is_named_and_nothing_is_lost(base_model, scenes, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(scenes, data)
    words = [
        *short_run(base_model, data, tmp_path / "runs"),
        "callbacks.validation=null",
        "callbacks.samples=null",
        "callbacks.checkpoints.every=1",
    ]
    name = f"scene_{int(epoch_order(0, 0, 6)[-1]):06d}.png"  # seen in the third step
    break_picture(data / "images/train" / name)
    outcome = trained(*words, code=3)
    assert outcome.err.startswith("Error: ") and str(data / "images/train" / name) in outcome.err
    run = only_run(tmp_path / "runs")
    assert (run / "checkpoints/latest").resolve().name == "step-00000002"
    # Mended, the run goes on from where it was.
    shutil.copy(scenes / "images/train" / name, data / "images/train")
    trained(f"resume={run}")
    assert (run / "checkpoints/latest").resolve().name == "step-00000004"


@pytest.mark.slow
def test_a_broken_picture_is_named_by_data_workers_too(base_model, tmp_path):
    data = drawn_data(tmp_path / "data", {"train": 4, "val": 1})
    for path in (data / "images/train").iterdir():
        break_picture(path)
    words = [*short_run(base_model, data, tmp_path / "runs"), *SMALL, "data.num_workers=2"]
    done = subprocess.run([*COMMAND, "train", *words], capture_output=True, text=True, timeout=600)
    assert done.returncode == 3
    assert "data/images/train/scene_" in done.stderr and "Traceback" not in done.stderr


# Through the shell.

COMMAND = [sys.executable, "-m", "mamoe.cli"]


def run_folders(runs: Path, name: str) -> list[Path]:
    return [path for path in (runs / name).iterdir() if not path.is_symlink()]


@pytest.mark.slow
def test_two_processes_share_one_run_folder(base_model, scenes, tmp_path):
    words = [w for w in short_run(base_model, scenes, tmp_path) if not w.startswith(("callbacks", "trainer"))]
    done = subprocess.run(
        [*COMMAND, "train", *words, "debug=data_parallel", "trainer.max_steps=2"],
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (run,) = run_folders(tmp_path, "debug")
    assert (run / "checkpoints/step-00000002/MANIFEST.json").exists()
    assert "Traceback" not in done.stderr
    assert done.stdout.count("Trained to step 2") == 1


@pytest.mark.slow
def test_a_sweep_makes_a_run_for_every_value(base_model, scenes, tmp_path):
    words = [*short_run(base_model, scenes, tmp_path / "runs"), *SMALL, "trainer.max_steps=1"]
    done = subprocess.run(
        [*COMMAND, "train", "-m", *words, "seed=1,2"], cwd=tmp_path, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr[-3000:]
    runs = run_folders(tmp_path / "runs", "demo")
    seeds = sorted(yaml.safe_load((run / "config.yaml").read_text())["seed"] for run in runs)
    assert seeds == [1, 2]
    a, b = (tensors(run, 1) for run in runs)
    assert any(not torch.equal(a[name], b[name]) for name in a)


@pytest.mark.slow
def test_a_sweep_with_a_mistake_ends_as_a_single_run_does(base_model, scenes, tmp_path):
    words = [*short_run(base_model, scenes, tmp_path / "runs"), *SMALL]
    done = subprocess.run(
        [*COMMAND, "train", "-m", *words, "trainer.max_stepz=1,2"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "did you mean trainer.max_steps" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_interrupted_and_resumed_equals_uninterrupted(number, code, base_model, scenes, tmp_path):
    steps = 60
    words = [
        *short_run(base_model, scenes, tmp_path / "runs"),
        "callbacks.validation=null",
        "callbacks.samples=null",
        f"trainer.max_steps={steps}",
    ]
    process = subprocess.Popen(
        [*COMMAND, "train", *words, "callbacks.checkpoints.every=5"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "checkpoint" in line:
            break
    process.send_signal(number)
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, err
    assert "Traceback" not in err and "everything is saved" in out
    run = only_run(tmp_path / "runs")
    stopped = int((run / "checkpoints/latest").resolve().name.removeprefix("step-"))
    assert 5 <= stopped < steps
    trained(f"resume={run}")
    trained(*words, f"runs={tmp_path / 'whole'}")
    assert_equal(tensors(run, steps), tensors(only_run(tmp_path / "whole"), steps))
