"""Whole runs through the command: what a run leaves, and going on with one."""

import json
import shutil
import signal
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from apart import Command
from factories import only_run, short_run
from mamoe.training.loop.metrics import read_rows
from wholeruns import SMALL, WEIGHTS, assert_equal, cut_back, tensors, trained


def test_a_run_leaves_what_is_needed_to_understand_it(finished_run, base_model):
    names = {path.name for path in finished_run.iterdir()}
    files = {"config.yaml", "overrides.txt", "environment.json", "dataset.json", "log.txt", "metrics.csv", "cost.json"}
    assert names == files | {"sessions.jsonl", "checkpoints", "samples"}
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


def errors(text: str) -> list[str]:
    """What a command said on standard error besides notes."""
    return [line for line in text.splitlines() if not line.startswith("Note: ")]


def test_only_our_lines_are_printed(finished_run, base_model, scenes, tmp_path):
    outcome = trained(*short_run(base_model, scenes, tmp_path), *SMALL)
    assert errors(outcome.err) == []
    lines = outcome.out.splitlines()
    ours = ("Checking ", "Encoding ", "Note: ", "Step ", "step ", "Trained ")
    assert all(line.startswith(ours) for line in lines), lines


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
    assert errors(outcome.err) == [] and "is done: step 4 of 4" in outcome.out
    assert_equal(tensors(finished_run, 4), tensors(copy, 4))


def test_resuming_with_other_data_is_refused(finished_run, tmp_path):
    copy = cut_back(finished_run, tmp_path / "copy", 2)
    outcome = trained(f"resume={copy}", "seed=5", code=2)
    assert "seed was 0 and is 5" in outcome.err
    outcome = trained(f"resume={copy}", "layout.grouping=per_class", code=2)
    assert "layout.grouping was streets and is per_class" in outcome.err


def test_resuming_before_the_first_checkpoint_is_refused(finished_run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(finished_run, copy, symlinks=True)
    shutil.rmtree(copy / "checkpoints")
    assert "checkpoint" in trained(f"resume={copy}", code=2).err


STEPS = 30
NOTHING_BESIDE = [
    "callbacks.validation=null",
    "callbacks.samples=null",
    f"trainer.max_steps={STEPS}",
    "trainer.threads=1",  # in every process alike: the order of sums depends on it
]


@pytest.fixture(scope="module")
def uninterrupted(base_model, scenes, tmp_path_factory) -> Path:
    """The run of these steps. Look, do not touch."""
    runs = tmp_path_factory.mktemp("uninterrupted")
    trained(*short_run(base_model, scenes, runs), *NOTHING_BESIDE, "callbacks.checkpoints.every=null")
    return only_run(runs)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_interrupted_and_resumed_equals_uninterrupted(number, code, base_model, scenes, uninterrupted, tmp_path):
    words = [*short_run(base_model, scenes, tmp_path / "runs"), *NOTHING_BESIDE]
    command = Command(["train", *words, "callbacks.checkpoints.every=5"], tmp_path / "said.txt")
    assert command.wait(lambda: "checkpoint" in command.out), command.outcome()
    command.send(number)
    done = command.outcome()
    assert done.code == code, done.err
    assert "Traceback" not in done.err and "everything is saved" in done.out
    run = only_run(tmp_path / "runs")
    stopped = int((run / "checkpoints/latest").resolve().name.removeprefix("step-"))
    assert 5 <= stopped < STEPS
    trained(f"resume={run}")
    assert_equal(tensors(run, STEPS), tensors(uninterrupted, STEPS))
