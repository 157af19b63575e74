"""Caches and buckets in whole runs: pictures of three aspects, some of them seen mirrored."""

import gc
import json
import shutil
import weakref
from pathlib import Path

import numpy as np
import pytest
from diffusers import AutoencoderKL
from PIL import Image

from factories import mamoe, only_run, short_run
from mamoe import PanopticMap
from mamoe.assemble import training
from mamoe.training.loop.metrics import read_rows
from mamoe.training.step.module import DiffusionModule
from wholeruns import assert_equal, cut_back, tensors, trained

CUTS = [(64, 64), (40, 64), (64, 64), (64, 48), (40, 64), (64, 64)]  # what is left of each picture, (H, W)
STEPS = 4  # of 2 pictures: the 6 pictures of pass 0 and some of pass 1


@pytest.fixture(scope="module")
def mixed(scenes, tmp_path_factory) -> Path:
    """The scenes, cut to several sizes."""
    folder = tmp_path_factory.mktemp("mixed") / "data"
    shutil.copytree(scenes, folder)
    for kind in ("images", "panoptic"):
        for split in ("train", "val"):
            for path, (height, width) in zip(sorted((folder / kind / split).iterdir()), CUTS, strict=False):
                Image.open(path).crop((0, 0, width, height)).save(path)
    for split in ("train", "val"):  # no prompts for what was cut away
        path = folder / f"instance_prompts_{split}.json"
        seen = {map.name: PanopticMap.read(map).classes for map in (folder / "panoptic" / split).iterdir()}
        prompts = json.loads(path.read_text())
        path.write_text(
            json.dumps({n: {i: text for i, text in of.items() if int(i) in seen[n]} for n, of in prompts.items()})
        )
    return folder


def words(base: Path, data: Path, runs: Path) -> list[str]:
    return [*short_run(base, data, runs), "data.buckets=true", "data.flip=0.5", "callbacks.samples.steps=1"]


@pytest.fixture(scope="module")
def plain_run(base_model, mixed, tmp_path_factory) -> Path:
    """A run that encodes every picture in every step."""
    runs = tmp_path_factory.mktemp("plain")
    trained(*words(base_model, mixed, runs), "cache.latents=false")
    return only_run(runs)


def shards(runs: Path, kind: str) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in (runs / "cache" / kind).rglob("*.safetensors")}


def pictures(run: Path) -> list[np.ndarray]:
    return [np.asarray(Image.open(path)).astype(int) for path in sorted((run / "samples").rglob("*.png"))]


@pytest.mark.slow
def test_a_cached_run_equals_an_uncached_one_bit_for_bit_and_holds_no_autoencoder(
    plain_run, base_model, mixed, tmp_path, monkeypatch
):
    said = mamoe("cache", *words(base_model, mixed, tmp_path), "cache.latents=true")
    assert said.code == 0, said.err
    assert "latents: 15 made, 15 there" in said.out  # 6 training pictures, each also mirrored, and 3 for validation
    before = shards(tmp_path, "latents") | shards(tmp_path, "text")

    loaded, alive, sizes = [], [], []
    load, step = training.base_of, DiffusionModule.training_step

    def watched_load(*where):
        base = load(*where)
        loaded.extend(weakref.ref(network) for network in (base.vae, base.text_encoder))
        return base

    def watched_step(self, batch, batch_idx):
        gc.collect()
        alive.extend(network() is not None for network in loaded)
        assert batch.image is None
        sizes.append(tuple(batch.moments.shape[-2:]))
        return step(self, batch, batch_idx)

    monkeypatch.setattr(training, "base_of", watched_load)
    monkeypatch.setattr(DiffusionModule, "training_step", watched_step)
    trained(*words(base_model, mixed, tmp_path), "cache.latents=true")
    run = only_run(tmp_path)
    assert len(loaded) == 2 and len(alive) == 2 * STEPS and not any(alive)
    assert len(set(sizes)) == 3
    assert shards(tmp_path, "latents") | shards(tmp_path, "text") == before  # found, not made again
    assert_equal(tensors(run, STEPS), tensors(plain_run, STEPS))
    assert read_rows(run / "metrics.csv") == read_rows(plain_run / "metrics.csv")
    for one, other in zip(pictures(run), pictures(plain_run), strict=True):
        # Freshly loaded weights lie elsewhere in memory, which may turn the last bit of a matrix product.
        assert abs(one - other).max() <= 1


@pytest.mark.slow
def test_resumed_in_the_middle_of_a_bucketed_pass_equals_uninterrupted(plain_run, tmp_path):
    copy = cut_back(plain_run, tmp_path / "copy", 2)
    trained(f"resume={copy}")
    assert_equal(tensors(copy, STEPS), tensors(plain_run, STEPS))

    copy = cut_back(plain_run, tmp_path / "other", 2)
    refused = mamoe("train", f"resume={copy}", "data.batch_size=4")
    assert refused.code == 2 and "batch_size was 2 and is 4" in refused.err


def test_only_what_changed_is_encoded_again_and_nothing_is_overwritten(base_model, scenes, tmp_path):
    data, base = tmp_path / "data", tmp_path / "base"
    shutil.copytree(scenes, data)
    shutil.copytree(base_model, base)
    command = ["cache", *short_run(base, data, tmp_path), "data.flip=1"]

    def made() -> list[str]:
        said = mamoe(*command)
        assert said.code == 0, said.err
        return [line.split(" in ")[0].split(" (")[0] for line in said.out.splitlines() if ": " in line][-2:]

    assert made()[1] == "latents: 15 made, 15 there"  # unmirrored ones for train/stable_loss
    assert made() == [made()[0], "latents: 0 made, 15 there"]
    before = shards(tmp_path, "latents")

    picture = sorted((data / "images/train").iterdir())[0]
    Image.fromarray(255 - np.asarray(Image.open(picture))).save(picture)
    assert made()[1] == "latents: 2 made, 17 there"

    vae = AutoencoderKL.from_pretrained(base / "vae")
    vae.encoder.conv_in.bias.data += 1
    vae.save_pretrained(base / "vae")
    assert made()[1] == "latents: 15 made, 15 there"
    now = shards(tmp_path, "latents")
    assert all(now[path] == content for path, content in before.items())
    assert len({path.parent for path in now}) == 2


UNCACHED, CACHED = "cache.latents=false", "cache.latents=true"


@pytest.mark.usefixtures("data_workers")
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than the machine has processors
@pytest.mark.parametrize(
    ("crop", "ways"),
    [
        ("random", [(UNCACHED, 0), (UNCACHED, 2), (UNCACHED, 4)]),
        ("center", [(UNCACHED, 0), (CACHED, 0), (CACHED, 4)]),
    ],
)
def test_losses_depend_neither_on_workers_nor_on_the_cache(crop, ways, base_model, scenes, tmp_path):
    """With flips, crops and dropped prompts; metrics.csv is equal to the last byte, and so are the checkpoints."""
    seen = []
    for number, (cache, workers) in enumerate(ways):
        runs = tmp_path / str(number)
        drawn = [f"data.crop={crop}", "data.size=[40,48]", "data.flip=0.5", "objective.prompt_dropout=0.5"]
        counted = [cache, f"cache.folder={tmp_path / 'cache'}", f"data.num_workers={workers}"]
        trained(*short_run(base_model, scenes, runs), *drawn, *counted, "callbacks.samples=null")
        run = only_run(runs)
        seen.append(((run / "metrics.csv").read_bytes(), tensors(run, STEPS)))
    for metrics, weights in seen[1:]:
        assert metrics == seen[0][0]
        assert_equal(weights, seen[0][1])


@pytest.mark.slow
def test_a_condition_that_enters_as_a_latent_is_the_same_beside_cached_pictures(base_model, mixed, tmp_path):
    runs = [tmp_path / "plain", tmp_path / "cached"]
    for folder, cached in zip(runs, ("false", "true"), strict=True):
        shown = ["method=concat", "data.condition=classes", "callbacks.samples=null"]
        trained(*words(base_model, mixed, folder)[:-1], *shown, f"cache.latents={cached}")
    assert_equal(*(tensors(only_run(folder), STEPS) for folder in runs))


def test_a_method_that_cannot_take_a_bucket_says_so_before_anything_is_encoded(base_model, mixed, tmp_path):
    shown = ["method=controlnet_xs", "data.condition=classes", "cache.latents=true"]
    outcome = trained(*words(base_model, mixed, tmp_path), *shown, code=2)
    assert "height and width are multiples of 16 pixels" in outcome.err
    assert "72x56 (1 pictures)" in outcome.err and "data.multiple=16" in outcome.err
    assert {path.name for path in (tmp_path / "cache").iterdir()} == {"check"}
