"""`mamoe init`: what it prints runs as it stands, and nothing is overwritten."""

import shlex
from pathlib import Path

import numpy as np
import pytest
import typer
import yaml
from PIL import Image

from factories import drawn_data, mamoe, only_run
from mamoe.commands.init import bases, name_for
from mamoe.config.compose import compose
from mamoe.config.train import validated

CLASSES = """
classes:
  - {value: 3, name: water, thing: false}
  - {value: 7, name: boat, thing: true, prompt: a boat}
void: [0]
"""


def next_commands(outcome):
    assert outcome.code == 0, outcome.err
    return [shlex.split(line.removeprefix("Next: ")) for line in outcome.out.splitlines() if line.startswith("Next: ")]


def watched_less(experiment: Path) -> None:
    """What is drawn and measured beside two steps takes a hundred times as long as these; ten pictures take seconds."""
    settings = experiment.read_text()
    assert "callbacks:" not in settings
    assert "data:" not in settings.replace("/data:", "")
    fewer = "callbacks: {samples: null, validation: {images: 1}}\ndata: {batch_size: 2}\n"
    experiment.write_text(settings + fewer)


def run_all(commands):
    for words in commands:
        assert words[0] == "mamoe"
        done = mamoe(*words[1:])
        assert done.code == 0, (words, done.err, done.out)


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def harbour(folder: Path, count: int = 4) -> None:
    """Photographs and label pictures as an annotation tool leaves them: one number a class, no splits."""
    rng = np.random.default_rng(0)
    for name in ("photos", "labels"):
        (folder / name).mkdir()
    for i in range(count):
        classes = np.full((64, 128), 3, np.uint8)
        classes[20:40, 10 + 8 * i : 60 + 8 * i] = 7
        Image.fromarray(classes).save(folder / f"labels/{i}.png")
        Image.fromarray(rng.integers(0, 255, (64, 128, 3), np.uint8)).save(folder / f"photos/{i}.png")
    (folder / "classes.yaml").write_text(CLASSES)


@pytest.mark.slow
def test_label_pictures_the_printed_commands_run(here):
    harbour(here)
    words = ["--images", "photos", "--maps", "labels", "--classes", "classes.yaml", "--steps", "2", "--yes"]
    commands = next_commands(mamoe("init", *words, "--memory", "0", "--name", "harbour"))
    assert [words[:3] for words in commands] == [
        ["mamoe", "prepare", "import"],
        ["mamoe", "check", "data/harbour"],
        ["mamoe", "train", "experiment=harbour"],
    ]
    watched_less(here / "configs/experiment/harbour.yaml")
    run_all(commands)
    (checkpoint,) = only_run(here / "runs", "harbour").glob("checkpoints/step-*")
    assert checkpoint.name == "step-00000002" and '"boat"' in (checkpoint / "recipe.json").read_text()


@pytest.mark.slow
def test_a_data_set_of_this_package_is_used_as_it_lies(here):
    drawn_data(here / "town", {"train": 3, "val": 2, "test": 1})
    said = mamoe("init", "--images", "town/images", "--maps", "town/panoptic", "--steps", "2", "--yes")
    assert "used as they lie" in said.err
    commands = next_commands(said)
    assert commands == [["mamoe", "check", "town"], ["mamoe", "train", "experiment=town"]]
    before = sorted(here.joinpath("town").rglob("*"))
    watched_less(here / "configs/experiment/town.yaml")
    run_all(commands)
    assert sorted(here.joinpath("town").rglob("*")) == before
    assert only_run(here / "runs", "town").joinpath("checkpoints/step-00000002").is_dir()


def test_what_is_written_composes_for_every_base(here):
    harbour(here)
    wanted = dict.fromkeys(("flux_dev", "flux2_dev", "qwen_image"), "nf4")
    wanted |= dict.fromkeys(("flux2_klein", "z_image", "sd35_medium"), "bf16")
    for base in bases():
        words = ["--images", "photos", "--maps", "labels", "--classes", "classes.yaml", "--memory", "24", "--yes"]
        assert mamoe("init", *words, "--base", base, "--name", f"on_{base}").code == 0
        config = validated(compose([f"experiment=on_{base}"]))
        taxonomy = yaml.safe_load((here / f"configs/taxonomy/on_{base}.yaml").read_text())
        assert [row["name"] for row in taxonomy["classes"]] == ["water", "boat"]
        assert config.name == f"on_{base}" and config.data.root == f"data/on_{base}"
        assert config.trainer.gpu_gib == (None if base in ("tiny", "tiny_dit") else 24)
        assert config.model.path == validated(compose([f"model={base}"])).model.path
        patches = base.startswith(("tiny_dit", "pixart", "flux", "qwen", "sd35", "z_image"))
        assert config.data.multiple == (16 if patches else 8)
        # Of these adapters alone are trained, beside weights in as few bits as the card asks for.
        adapters = base.startswith(("flux", "qwen", "sd35", "z_image"))
        assert config.method.name == ("lora_experts" if adapters else "full")
        assert config.model.frozen_precision == wanted.get(base, "fp32")
    listed = mamoe("presets", "data").out
    assert "data=on_tiny" in listed and "Made by `mamoe init`" in listed


def test_panoptic_maps_without_folders_of_splits_are_told_where_to_go(here):
    """An import would read their colours as classes."""
    drawn_data(here / "town", {"train": 2, "val": 1, "test": 1})
    words = ["--images", "town/images/train", "--maps", "town/panoptic/train", "--classes", "scenes", "--yes"]
    refused = mamoe("init", *words)
    assert refused.code == 3 and "town/panoptic/train/train" in refused.err and not (here / "configs").exists()


@pytest.mark.slow
def test_the_shipped_transformer_trains_with_what_is_written(here):
    drawn_data(here / "town", {"train": 3, "val": 2, "test": 1})
    words = ["--images", "town/images", "--maps", "town/panoptic", "--base", "tiny_dit", "--steps", "2", "--yes"]
    commands = next_commands(mamoe("init", *words))
    watched_less(here / "configs/experiment/town.yaml")
    run_all(commands)
    assert only_run(here / "runs", "town").joinpath("checkpoints/step-00000002").is_dir()


def test_nothing_is_overwritten(here):
    harbour(here)
    words = ["--images", "photos", "--maps", "labels", "--classes", "classes.yaml", "--yes", "--name", "harbour"]
    (here / "configs/experiment").mkdir(parents=True)
    (here / "configs/experiment/harbour.yaml").write_text("mine: 1\n")
    refused = mamoe("init", *words)
    assert refused.code == 2 and "configs/experiment/harbour.yaml would be overwritten" in refused.err
    assert (here / "configs/experiment/harbour.yaml").read_text() == "mine: 1\n"
    assert not (here / "configs/data").exists() and not (here / "configs/taxonomy").exists()


@pytest.mark.parametrize(
    ("change", "message", "code"),
    [
        ({"--name": "camvid"}, "data=camvid ships with the package", 2),
        ({"--name": "../x"}, "small letters", 2),
        ({"--base": "sd3"}, "There is no base model sd3", 2),
        ({"--base": "sd15", "--memory": "6"}, "smallest preset is for 12 GB", 2),
        ({"--images": "nowhere"}, "There is no folder nowhere", 3),
        ({"--maps": "nowhere"}, "There is no nowhere", 3),
        ({"--classes": "none.yaml"}, "Cannot read the class table none.yaml", 2),
        ({"--classes": None}, "What do the values in labels mean?", 2),
        ({"--maps": None}, "give --maps", 2),
    ],
)
def test_what_cannot_be_meant_is_refused(here, change, message, code):
    harbour(here)
    words = {"--images": "photos", "--maps": "labels", "--classes": "classes.yaml", "--memory": "0", **change}
    given = [part for key, value in words.items() if value is not None for part in (key, value)]
    refused = mamoe("init", *given, "--yes")
    assert refused.code == code and message in refused.err, refused
    assert not (here / "configs").exists()


def test_asked_it_takes_answers(here, monkeypatch):
    """Places that are not there and models nobody knows are asked for again at once."""
    harbour(here)
    answers = iter(["fotos", "photos", "labels", "classes.yaml", "sd3", "tiny", "0", "yard"])

    def asked(text, **options):
        while True:
            try:
                return options.get("value_proc", options.get("type", str))(next(answers))
            except typer.BadParameter as again:
                refusals.append(str(again))

    refusals: list[str] = []
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("typer.prompt", asked)
    assert mamoe("init").code == 0 and (here / "configs/experiment/yard.yaml").is_file()
    assert len(refusals) == 2 and "no fotos" in refusals[0] and "there are flux" in refusals[1]


def test_names_come_of_folders():
    assert name_for(Path("My Photos (2)")) == "my_photos_2"
    assert name_for(Path("2024")) == "data_2024"
