"""The command's surface: help at once, exit codes, and one clear message for every mistake."""

import json
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

from factories import Outcome, break_picture, drawn_data, mamoe, short_run

HEAVY = ("torch", "torchvision", "diffusers", "transformers", "lightning", "hydra", "numpy")
COMMANDS = (
    "demo",
    "train",
    "sample",
    "evaluate",
    "benchmark",
    "prepare",
    "check",
    "scenes",
    "new-base",
    "export",
    "presets",
    "env",
)


def refused(outcome: Outcome, code: int, *words: str) -> None:
    assert outcome.code == code, outcome
    assert any(line.startswith("Error: ") for line in outcome.err.splitlines()), outcome  # notes may stand before it
    assert "Traceback" not in outcome.err + outcome.out
    for word in words:
        assert word in outcome.err, outcome.err


def modules_after(program: str) -> tuple[set[str], str]:
    code = f"{program}\nimport sys, json; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    *before, modules = done.stdout.splitlines()
    return {name.partition(".")[0] for name in json.loads(modules)}, "\n".join(before)


# Nothing heavy before it is needed.


def test_import_loads_nothing_heavy():
    started = time.perf_counter()
    loaded, _ = modules_after("import mamoe; mamoe.__all__")
    assert not loaded & set(HEAVY)
    assert time.perf_counter() - started < 3


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["sample", "-h"], ["demo", "--help"]])
def test_help_loads_nothing_heavy(words):
    program = (
        f"import sys; sys.argv = {['mamoe', *words]}\nfrom mamoe.cli import main\ntry: main()\nexcept SystemExit: pass"
    )
    loaded, said = modules_after(program)
    assert not loaded & set(HEAVY)
    assert "Usage" in said and "mamoe" in said


def test_a_wrong_configuration_is_refused_before_anything_heavy_loads():
    program = "import sys; sys.argv = ['mamoe', 'train', 'data.bach_size=1']\n"
    program += "from mamoe.cli import main\ntry: main()\nexcept SystemExit as e: assert e.code == 2"
    loaded, _ = modules_after(program)
    assert not loaded & {"torch", "diffusers", "transformers", "lightning"}


def test_help_names_every_command():
    outcome = mamoe("--help")
    assert outcome.code == 0
    assert all(f" {name} " in outcome.out for name in COMMANDS)


def test_the_version_is_said_without_a_command():
    import mamoe as package

    outcome = mamoe("--version")
    assert outcome.code == 0 and outcome.out.strip() == f"mamoe {package.__version__}"


def test_public_names_are_there():
    import mamoe as package

    for name in package.__all__:
        assert getattr(package, name).__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'Panoptic'"):
        _ = package.Panoptic


# Exit code 2: the configuration.


def test_unknown_key():
    refused(mamoe("train", "trainer.max_step=4"), 2, "trainer.max_step", "did you mean trainer.max_steps?")


def test_missing_data_root(base_model, tmp_path):
    refused(mamoe("train", "data=folder"), 2, "data.root must be given")


@pytest.mark.parametrize("path", ["no/such/model", "package:huge", "package:../configs"])
def test_unknown_base_model(path, scenes, tmp_path):
    words = [*short_run(tmp_path, scenes, tmp_path / "runs"), f"model.path={path}"]
    refused(mamoe("train", *words), 2, path)
    assert not (tmp_path / "runs/demo").exists()


def test_base_model_without_weights(scenes, tmp_path):
    (tmp_path / "empty/unet").mkdir(parents=True)
    words = short_run(tmp_path / "empty", scenes, tmp_path / "runs")
    refused(mamoe("train", *words), 2, "model.path=", "diffusers layout")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("layout.grouping=thinks", ["thinks", "things"]),
        ("layout.policy=most", ["layout.policy", "'all', 'things' or 'background'"]),
        ("data.size=[60,64]", ["size"]),
        ("optimizer._target_=os.system", ["optimizer", "os.system"]),
        ("callbacks.extra=[{_target_: os.system}]", ["callbacks.extra", "os.system"]),
        ("logger.extra=[{_target_: builtins.print}]", ["logger.extra", "builtins.print"]),
        ("data.transforms=[{_target_: torch.hub.load}]", ["data.transforms", "torch.hub.load"]),
        ("lr_scheduler._target_=torch.hub.load", ["lr_scheduler", "torch.hub.load"]),
        ("objective={prediction: epsilon, zero_snr: true, snr_gamma: null, prompt_dropout: 0}", ["prediction"]),
        ("layout.moe_levels=[7]", ["7"]),
        ("layout.blocks=[0,99]", ["layout.blocks", "[99]", "transformer blocks: 0 to"]),
        ("layout.blocks=[-1]", ["layout.blocks"]),
        ("trainer.accelerator=abacus", ["abacus"]),
        ("trainer.strategy=chaos", ["chaos"]),
        ("trainer.devices=0", ["devices"]),
    ],
)
def test_settings_that_do_not_fit(override, words, base_model, scenes, tmp_path):
    refused(mamoe("train", *short_run(base_model, scenes, tmp_path), "cache.latents=false", override), 2, *words)


@pytest.mark.parametrize("override", ["layout.blocks=[99]", "layout.moe_levels=[7]"])
def test_places_that_the_network_has_not_are_refused_before_anything_is_encoded(override, base_model, scenes, tmp_path):
    words = [*short_run(base_model, scenes, tmp_path), f"cache.folder={tmp_path / 'cache'}", override]
    refused(mamoe("train", *words), 2, override.split("=")[0].split(".")[1])
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["check"]


@pytest.mark.parametrize("command", [["train"], ["cache"], ["benchmark", "--dry-run", "benchmark=tiny"]])
def test_nonsense_is_refused_by_every_command_that_trains(command):
    nonsense = {"layout.policy": "nonsense", "layout.grouping": "nothing", "layout.expert_resize": "cubic"}
    nonsense |= {"layout.pool_threshold": "7", "optimizer.lr": "abc"}
    words = [f"{key}={value}" for key, value in nonsense.items()]
    refused(mamoe(*command, *words), 2, *nonsense, *nonsense.values())


def test_an_option_train_does_not_have():
    refused(mamoe("train", "--epochs=4"), 2, "--epochs=4", "key=value")


def test_sample_without_a_run(scenes, tmp_path):
    words = ["--panoptic", scenes / "panoptic/test", "--out", tmp_path / "out"]
    refused(mamoe("sample", tmp_path / "no_run", *words), 2, "no_run")
    refused(mamoe("sample", scenes, *words), 2, str(scenes))
    assert not (tmp_path / "out").exists()


def test_sample_of_a_checkpoint_that_is_not_there(finished_run, scenes, tmp_path):
    words = ["--panoptic", scenes / "panoptic/test", "--out", tmp_path / "out", "--checkpoint", "3"]
    refused(mamoe("sample", finished_run, *words), 2, "step-00000002", "step-00000004")


def test_sample_on_a_device_there_is_not(finished_run, scenes, tmp_path):
    words = ["--panoptic", scenes / "panoptic/test", "--out", tmp_path / "out", "--device", "abacus"]
    refused(mamoe("sample", finished_run, *words), 2, "abacus")


def test_resume_of_a_run_that_is_not_there(tmp_path):
    refused(mamoe("train", f"resume={tmp_path / 'nothing'}"), 2, "resume=", "there is no run there")


def test_export_into_a_full_folder(finished_run, scenes):
    refused(mamoe("export", finished_run, scenes), 2, "is not empty")


def test_export_without_a_run(tmp_path):
    refused(mamoe("export", tmp_path / "no_run", tmp_path / "out"), 2, "no_run")
    assert not (tmp_path / "out").exists()


def test_new_base_over_something(scenes, tmp_path):
    refused(mamoe("new-base", scenes, tmp_path), 2, "exists")


def test_command_line_mistakes_are_the_parsers():
    assert mamoe("trian").code == 2
    assert mamoe("sample").code == 2
    assert mamoe("prepare", "pictionary", "a", "b").code == 2


def test_a_place_that_cannot_be_written(finished_run, scenes, tmp_path):
    (tmp_path / "file").write_text("mine")
    within = tmp_path / "file" / "out"
    refused(mamoe("scenes", within, "--train", "1"), 2, str(within))
    refused(mamoe("demo", "--out", within, "--steps", "1"), 2, str(within))
    refused(mamoe("sample", finished_run, "--panoptic", scenes / "panoptic/test", "--out", within), 2, str(within))
    refused(mamoe("export", finished_run, within), 2, str(within))
    refused(mamoe("export", finished_run, tmp_path / "file"), 2, "file")
    refused(mamoe("export", finished_run, "/proc/out"), 2, "/proc/out")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (OSError(28, "No space left on device", "out/a.png"), 6, ["out/a.png", "No space left on device"]),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore"), 5, ["CUDA out of memory", "GiB"]),
        (MemoryError(), 5, ["no memory left"]),
    ],
)
def test_what_runs_out_has_its_own_exit_code(error, code, words, monkeypatch, tmp_path):
    monkeypatch.setattr("mamoe.scenes.write_scenes", Mock(side_effect=error))
    refused(mamoe("scenes", tmp_path), code, *words)


def test_a_fault_of_ours_keeps_its_trace(monkeypatch, tmp_path):
    monkeypatch.setattr("mamoe.scenes.write_scenes", Mock(side_effect=RuntimeError("shapes differ")))
    with pytest.raises(RuntimeError, match="shapes differ"):
        mamoe("scenes", tmp_path)


# Exit code 3: the data.


def test_data_that_is_not_there(base_model, tmp_path):
    words = short_run(base_model, tmp_path / "nowhere", tmp_path / "runs")
    refused(mamoe("train", *words), 3, "images/train", "panoptic/train", "prompts_train.csv")
    assert not (tmp_path / "runs").exists()


def test_prepare_from_the_wrong_place(scenes, tmp_path):
    for source_format in ("cityscapes", "camvid", "coco"):
        refused(mamoe("prepare", source_format, tmp_path / "nowhere", tmp_path / "out"), 3, "nowhere")
        refused(mamoe("prepare", source_format, scenes, tmp_path / "out"), 3, str(scenes))
        assert not (tmp_path / "out").exists()


def test_check_lists_what_is_wrong(tmp_path):
    data = drawn_data(tmp_path / "data", {"train": 3})
    assert mamoe("check", data, "--taxonomy", "scenes").code == 0
    break_picture(data / "images/train/scene_000001.png")
    (data / "panoptic/train/scene_000002.png").unlink()
    outcome = mamoe("check", data, "--taxonomy", "scenes")
    refused(outcome, 3, "2 problems")
    assert "scene_000001.png" in outcome.out and "scene_000002.png has no panoptic map" in outcome.out
    refused(mamoe("check", data), 3, "2 problems")
    refused(mamoe("check", data, "--taxonomy", "scene"), 2, "scenes")
    refused(mamoe("check", data, "--taxonomy", "camvid"), 2, "scenes", "camvid")
    refused(mamoe("check", tmp_path / "nowhere"), 3, "nowhere")


def test_new_base_without_pictures(tmp_path):
    refused(mamoe("new-base", tmp_path / "nowhere", tmp_path / "out"), 3, "mamoe scenes")


@pytest.mark.parametrize("size", ["12", "100"])
def test_scenes_of_odd_sizes(size, tmp_path):
    refused(mamoe("scenes", tmp_path / "out", "--height", size, "--train", "1"), 2, size)


def test_sample_with_wrong_prompts(finished_run, scenes, tmp_path):
    words = ["sample", finished_run, "--panoptic", scenes / "panoptic/test", "--out", tmp_path / "out"]
    wrong = tmp_path / "prompts.csv"
    wrong.write_text("name,text\nscene_000000.png,a street\n")
    refused(mamoe(*words, "--prompts", wrong), 3, "prompts.csv", "line 1", "img_name,prompt")
    wrong.write_text("img_name,prompt\nscene_000000.png,a street\n")
    refused(mamoe(*words, "--prompts", wrong), 3, "scene_000001.png has no prompt")
    wrong.write_text('{"scene_000000.png": {"4000": "a red car"}}')
    refused(mamoe(*words, "--instance-prompts", wrong), 3, "scene_000000.png", "4000")
    wrong.write_text('{"other.png": {"4000": "a red car"}}')
    refused(mamoe(*words, "--instance-prompts", wrong), 3, "names none of the maps", "scene_000000.png")
    refused(mamoe(*words, "--prompts", tmp_path / "nowhere.csv"), 3, "nowhere.csv")
    assert not (tmp_path / "out").exists()


def test_sample_from_a_folder_without_maps(finished_run, tmp_path):
    (tmp_path / "empty").mkdir()
    for folder in ("empty", "nowhere"):
        words = ["--panoptic", tmp_path / folder, "--out", tmp_path / "out"]
        refused(mamoe("sample", finished_run, *words), 3, folder)


def test_pictures_of_somebody_else_are_kept(finished_run, scenes, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    mine = out / "scene_000000.png"
    mine.write_text("mine")
    refused(mamoe("sample", finished_run, "--panoptic", scenes / "panoptic/test", "--out", out), 3, "overwritten")
    assert mine.read_text() == "mine" and list(out.iterdir()) == [mine]


# What goes well.


def test_scenes_tell_the_next_command(tmp_path):
    words = ("--train", "1", "--val", "1", "--test", "0", "--height", "64", "--width", "64")
    outcome = mamoe("scenes", tmp_path / "data", *words)
    assert outcome.code == 0 and f"mamoe train data=scenes data.root={tmp_path / 'data'}" in outcome.out
    assert sorted(Path(path).name for path in (tmp_path / "data/images").iterdir()) == ["test", "train", "val"]


def test_only_our_own_lines_are_seen(finished_run, scenes, tmp_path):
    words = ["--panoptic", scenes / "panoptic/test", "--out", tmp_path / "out", "--steps", "1"]
    outcome = mamoe("sample", finished_run, *words)
    assert outcome.code == 0 and outcome.err == ""
    assert f"2 pictures in {tmp_path / 'out'}, 2 of them new" in " ".join(outcome.out.split())
