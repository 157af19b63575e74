"""``mamoe prepare segment`` with a tiny network of each family: whole, deterministic, gone on with, shared."""

import json
import re
import shlex

import numpy as np
import pytest
from PIL import Image

from apart import Command
from factories import mamoe
from mamoe.prepare.check import check_folder
from mamoe.prepare.segment import networks
from mamoe.vocabulary.panoptic import read_panoptic
from mamoe.vocabulary.taxonomy import Taxonomy
from tiny_segmenters import segformer, tiny_segmenter

TAXONOMY = Taxonomy.load("cityscapes")


def segment(photos, out, network, *words):
    given = ["--model", network, "--classes", "cityscapes", "--score", "0.1", "--min-area", "4", "--device", "cpu"]
    return mamoe("prepare", "segment", photos, out, *given, *words)


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_data_set_with_scores(photos, network, tmp_path):
    out = tmp_path / "town"
    outcome = segment(photos, out, network)
    assert outcome.code == 0, outcome.err
    assert re.search(r"3 of the network's 4 labels are classes of cityscapes:\n  road, route -> road\n", outcome.out)
    assert outcome.out.index("->") < outcome.out.index("5 pictures")
    assert check_folder(out).problems == ()
    known = {row.id for row in TAXONOMY.classes if row.name in ("road", "car", "person")} | {TAXONOMY.void_id}
    for path in sorted((out / "panoptic/train").iterdir()):
        panoptic = read_panoptic(path)
        with Image.open(photos / path.name) as photo:
            assert panoptic.size == (photo.height, photo.width)
        assert set(np.unique(panoptic.class_id).tolist()) <= known
        told = json.loads((out / "scores/train" / f"{path.stem}.json").read_text())
        assert {int(segment) for segment in told["segments"]} == set(panoptic.classes)
        assert all(0 <= one["score"] <= 1 for one in told["segments"].values()) and 0 <= told["confidence"] <= 1


@pytest.mark.slow
def test_neither_batches_nor_tiles_nor_sessions_change_a_map(photos, network, tmp_path, monkeypatch):
    whole = tmp_path / "whole"
    words = ("--tile", "48")
    assert segment(photos, whole, network, *words, "--batch", "1").code == 0
    assert segment(photos, tmp_path / "again", network, *words, "--batch", "1").code == 0
    assert contents(whole) == contents(tmp_path / "again")
    calls, real = [], networks.Loaded.answers

    def stopped(self, images):
        calls.append(len(images))
        if len(calls) > 3:
            raise KeyboardInterrupt
        return real(self, images)

    with monkeypatch.context() as patch:
        patch.setattr(networks.Loaded, "answers", stopped)
        assert segment(photos, tmp_path / "killed", network, *words, "--batch", "1").code == 130
    assert not (tmp_path / "killed").exists()
    calls.clear()
    monkeypatch.setattr(
        networks.Loaded, "answers", lambda self, images: calls.append(len(images)) or real(self, images)
    )
    assert segment(photos, tmp_path / "killed", network, *words, "--batch", "1").code == 0
    assert contents(whole) == contents(tmp_path / "killed")
    rest = len(calls)
    calls.clear()
    assert segment(photos, tmp_path / "batched", network, *words, "--batch", "4").code == 0
    assert max(calls) > 1 and len(calls) < rest + 4
    for path in (whole / "panoptic/train").iterdir():
        one, other = read_panoptic(path), read_panoptic(tmp_path / "batched/panoptic/train" / path.name)
        assert (one.class_id == other.class_id).mean() > 0.99, "batched sums round differently"


def test_tasks_share_the_work(photos, network, tmp_path, monkeypatch):
    assert segment(photos, tmp_path / "whole", network).code == 0
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        outcome = segment(photos, tmp_path / "shared", network, "--batch", "1")
        assert outcome.code == 0, outcome.err
        assert (tmp_path / "shared").exists() == (rank == "1")
    for name in ("dataset.json", "data.yaml"):
        assert (tmp_path / "shared" / name).exists()
    assert set(contents(tmp_path / "shared")) == set(contents(tmp_path / "whole"))


def test_parts_are_what_fuse_takes(photos, network, tmp_path):
    outcome = segment(photos, tmp_path / "parts", network, "--parts")
    assert outcome.code == 0 and "5 maps of classes in semantic/" in outcome.out, outcome.err
    assert (
        "Next: mamoe prepare fuse" if network.name != "segformer" else "Next: mamoe prepare import folder"
    ) in outcome.out
    following = shlex.split(outcome.out.partition("Next: mamoe ")[2])
    assert mamoe(*following).code == 0 and (tmp_path / "parts_fused/data.yaml").is_file()
    told = json.loads((tmp_path / "parts/dataset.json").read_text())
    assert told["pictures"] == 5 and len(told["files"]) == 5
    assert (tmp_path / "parts/instances.json").exists() == (network.name != "segformer")
    if network.name == "segformer":
        return
    assert segment(photos, tmp_path / "direct", network).code == 0
    words = ["--semantic", tmp_path / "parts/semantic", "--instances", tmp_path / "parts/instances.json"]
    rules = ["--classes", "cityscapes", "--score", "0.1", "--min-area", "4"]
    fused = mamoe("prepare", "fuse", photos, tmp_path / "fused", *words, *rules)
    assert fused.code == 0, fused.err
    for path in (tmp_path / "direct/panoptic/train").iterdir():
        assert path.read_bytes() == (tmp_path / "fused/panoptic/train" / path.name).read_bytes()


def test_a_dry_run_shows_the_mapping_alone(photos, network, tmp_path, monkeypatch):
    monkeypatch.setattr(networks, "load_transformers", None)
    for words in ((), ("--parts",)):
        outcome = segment(photos, tmp_path / "out", network, "--dry-run", "--map", "chandelier=sky", *words)
        assert outcome.code == 0 and "chandelier -> sky" in outcome.out and "dry run" in outcome.out, outcome.err
    assert not list(tmp_path.glob("*out*"))


def test_what_goes_wrong_is_said(photos, tmp_path):
    (tmp_path / "empty").mkdir()
    outcome = segment(photos, tmp_path / "out", tmp_path / "empty")
    assert outcome.code == 2 and "Cannot load the segmenter" in outcome.err
    (tmp_path / "other").mkdir()
    (tmp_path / "other/config.json").write_text('{"model_type": "clip", "architectures": ["CLIPModel"]}')
    outcome = segment(photos, tmp_path / "out", tmp_path / "other")
    assert outcome.code == 2 and "is a CLIPModel; wanted one of Mask2Former" in outcome.err
    outcome = segment(photos, tmp_path / "out", tmp_path / "empty", "--parts", "--link")
    assert outcome.code == 2 and "leave out --link" in outcome.err


def test_a_picture_that_cannot_be_read_is_named(photos, network, tmp_path):
    (photos / "street2.png").write_bytes(b"no picture")
    for words in ((), ("--parts",)):
        outcome = segment(photos, tmp_path / "out", network, *words)
        assert outcome.code == 3 and "street2.png" in outcome.err, outcome
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_killed_at_any_moment_it_goes_on(tmp_path):
    folder = tiny_segmenter(segformer, tmp_path / "segformer")
    rng = np.random.default_rng(5)
    (tmp_path / "photos").mkdir()
    for i in range(40):
        Image.fromarray(rng.integers(0, 256, (48, 80, 3), dtype=np.uint8)).save(tmp_path / f"photos/{i:02}.png")
    assert segment(tmp_path / "photos", tmp_path / "whole", folder, "--batch", "2").code == 0
    words = ["prepare", "segment", tmp_path / "photos", tmp_path / "out", "--model", folder, "--classes", "cityscapes"]
    words += ["--score", "0.1", "--min-area", "4", "--device", "cpu", "--batch", "2"]
    command = Command(words, tmp_path / "said.txt")
    command.wait(lambda: finished(tmp_path) >= 7)
    command.kill()
    done = finished(tmp_path)
    assert 7 <= done < 40 and not (tmp_path / "out").exists()
    outcome = mamoe(*words)
    assert outcome.code == 0, outcome.err
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def finished(folder):
    return sum(path.read_bytes().count(b"\n") for path in folder.glob(".out.partial-*/.journal/*.jsonl"))
