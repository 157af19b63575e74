"""Extractors and the cache of their features."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from mamoe.data.geometry.joint import Geometry
from mamoe.errors import ConfigError, DatasetError
from mamoe.evaluation.features.extractors import ExtractorName, load_extractor
from mamoe.evaluation.features.store import common_size, features_of, list_pictures, read_through
from mamoe.machine.processes import Processes
from mamoe.randomness import generator_for


def picture(seed: int, height: int = 40, width: int = 56) -> np.ndarray:
    noise = torch.rand(3, 5, 7, generator=generator_for(seed, "picture"))
    smooth = torch.nn.functional.interpolate(noise[None], size=(height, width), mode="bilinear")[0]
    return (smooth * 255).byte().permute(1, 2, 0).numpy()


@pytest.fixture(scope="module")
def pixels():
    return load_extractor("pixels")


@pytest.fixture(scope="module")
def alexnet_file(tmp_path_factory):
    """AlexNet's convolutions with random weights, in the layout of the real file."""
    from torchvision.models import alexnet

    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = alexnet(weights=None).features
    path = tmp_path_factory.mktemp("weights") / "alexnet.safetensors"
    save_file({f"features.{key}": weight.contiguous() for key, weight in network.state_dict().items()}, path)
    return path


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "pictures"
    made.mkdir()
    for i in (10, 2, 1):
        Image.fromarray(picture(i)).save(made / f"{i}.png")
    return made


def test_pixels_are_mean_colours(pixels):
    image = picture(0)
    found = pixels([image]).reshape(3, 8, 8)
    assert found[1, 2, 3] == pytest.approx(image[10:15, 21:28, 1].mean() / 255, rel=1e-5)


def test_alexnet_is_torchvisions(alexnet_file):
    from torchvision.models import alexnet

    extractor = load_extractor("alexnet", alexnet_file)
    network = alexnet(weights=None).features
    network.load_state_dict({k.removeprefix("features."): w for k, w in load_file(alexnet_file).items()})
    image = picture(0, 224, 224)
    plain = torch.from_numpy(image).permute(2, 0, 1)[None] / 255
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    wanted = network.eval()((plain - mean[:, None, None]) / deviation[:, None, None]).mean((2, 3))
    torch.testing.assert_close(extractor([image]), wanted, rtol=1e-4, atol=1e-6)


def test_features_do_not_depend_on_order_batch_mates_or_batch_size(alexnet_file):
    extractor = replace(load_extractor("alexnet", alexnet_file), batch_size=4)
    images = [picture(i) for i in range(6)]
    found = extractor(images)
    assert torch.equal(extractor(images[::-1]), found.flip(0))
    assert torch.equal(extractor(images[5:]), found[5:])
    torch.testing.assert_close(replace(extractor, batch_size=3)(images), found, rtol=1e-4, atol=1e-7)


def test_inception_is_torch_fidelitys(tmp_path, monkeypatch):
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3 as Theirs

    path, none = tmp_path / "weights.safetensors", tmp_path / "none.pth"
    torch.save({}, none)
    with monkeypatch.context() as patch, torch.random.fork_rng():
        torch.manual_seed(0)
        patch.setattr(Theirs, "load_state_dict", lambda self, state: None)  # keep the random weights
        theirs = Theirs("inception", ["2048"], feature_extractor_weights_path=str(none))
    save_file(theirs.state_dict(), path)
    image = picture(0, 120, 90)
    wanted = theirs(torch.from_numpy(image).permute(2, 0, 1)[None])[0]
    legacy, clean = (replace(load_extractor(name, path), batch_size=1) for name in ("inception", "inception-clean"))
    torch.testing.assert_close(legacy([image]), wanted)
    assert legacy.identity == clean.identity and legacy.preprocessing.name != clean.preprocessing.name
    assert (clean([image]) - wanted).abs().max() > 1e-3 * wanted.abs().max()
    pillow = np.stack(
        [np.asarray(Image.fromarray(image[..., c].astype(np.float32)).resize((299, 299), 3)) for c in range(3)]
    )
    torch.testing.assert_close(clean.preprocessing.apply(image), torch.from_numpy(pillow).clip(0, 255) / 128 - 1)


def test_clip_and_dinov2_from_a_local_folder(tmp_path):
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection, Dinov2Config, Dinov2Model

    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        clip_config = CLIPVisionConfig(**small, intermediate_size=16, image_size=28, patch_size=14, projection_dim=8)
        clip = CLIPVisionModelWithProjection(clip_config).eval()
        dino = Dinov2Model(Dinov2Config(**small, mlp_ratio=1, image_size=28, patch_size=14)).eval()
    clip.save_pretrained(tmp_path / "clip")
    dino.save_pretrained(tmp_path / "dino")
    image = picture(0)
    extractor = load_extractor("clip", tmp_path / "clip")
    inputs = extractor.preprocessing.apply(image)[None]
    assert inputs.shape == (1, 3, 28, 28)
    torch.testing.assert_close(extractor([image]), clip(pixel_values=inputs).image_embeds.detach())
    extractor = load_extractor("dinov2", tmp_path / "dino")
    inputs = extractor.preprocessing.apply(image)[None]
    token = dino(pixel_values=inputs).last_hidden_state[:, 0].detach()
    torch.testing.assert_close(extractor([image]), token, rtol=1e-4, atol=1e-5)


def test_what_cannot_be_loaded_says_what_to_do(tmp_path, alexnet_file):
    with pytest.raises(ConfigError, match="there are inception, inception-clean, clip"):
        load_extractor("resnet")
    with pytest.raises(ConfigError, match=r"alexnet=FILE\.safetensors"):
        load_extractor("alexnet")
    with pytest.raises(ConfigError, match="nothing is there"):
        load_extractor("alexnet", tmp_path / "absent")
    with pytest.raises(ConfigError, match="does not hold the weights of torchvision's vgg16"):
        load_extractor("vgg16", alexnet_file)
    with pytest.raises(ConfigError, match="Without a network"):
        load_extractor("dinov2", tmp_path)


def test_cache_is_by_contents_extractor_and_preprocessing(folder, tmp_path, pixels, monkeypatch):
    cache, paths = tmp_path / "cache", list_pictures(folder)
    assert [path.name for path in paths] == ["1.png", "2.png", "10.png"]
    first = features_of(paths, pixels, cache)
    assert torch.equal(first.values, pixels([picture(i) for i in (1, 2, 10)]))
    calls = []
    watched = replace(pixels, network=lambda inputs: calls.append(len(inputs)) or inputs.flatten(1))
    (folder / "2.png").rename(folder / "3.png")  # its contents are known
    again = features_of(list_pictures(folder), watched, cache)
    assert not calls and torch.equal(again.values, first.values)
    Image.fromarray(picture(7)).save(folder / "3.png")
    features_of(list_pictures(folder), watched, cache)
    assert len(calls) == 1
    features_of(list_pictures(folder), watched, cache, geometry=Geometry(size=(32, 32), crop="center"))
    features_of(list_pictures(folder), replace(watched, identity="other"), cache)
    assert len(calls) == 3
    about = [json.loads(path.read_text()) for path in cache.glob("*/about.json")]
    assert {(a["extractor"], a["preprocessing"][:18]) for a in about} == {
        ("pixels", "mean colours of 8x"),
        ("other", "mean colours of 8x"),
        ("pixels", "centre crop of 32x"),
    }


def test_damaged_entries_are_made_again(folder, tmp_path, pixels):
    cache = tmp_path / "cache"
    first = features_of(list_pictures(folder), pixels, cache)
    for entry in cache.glob("*/*.safetensors"):
        entry.write_bytes(entry.read_bytes()[:20])
    assert torch.equal(features_of(list_pictures(folder), pixels, cache).values, first.values)
    assert not list(cache.rglob("*.partial"))


def test_processes_share_the_work(folder, tmp_path, pixels, monkeypatch):
    """Two at once, each with its batches, come to what one process makes."""
    made, meeting = [], Barrier(2)
    monkeypatch.setattr(Processes, "wait", lambda self: meeting.wait(60) if self.count > 1 else None)
    one_by_one = replace(pixels, batch_size=1, network=lambda inputs: made.append(1) or inputs.flatten(1))
    paths = list_pictures(folder)
    alone = features_of(paths, one_by_one, tmp_path / "alone").values
    made.clear()
    with ThreadPoolExecutor(2) as pool:
        both = [
            pool.submit(features_of, paths, one_by_one, tmp_path / "shared", processes=Processes(rank=rank, count=2))
            for rank in (0, 1)
        ]
        assert all(torch.equal(found.result(60).values, alone) for found in both)
    assert len(made) == 3


def test_pictures_of_several_sizes_are_refused(folder, tmp_path):
    Image.fromarray(picture(0, 24, 32)).save(folder / "5.png")
    paths = list_pictures(folder)
    with pytest.raises(DatasetError, match=r"generated: 40x56 \(3 pictures\), 24x32 \(1 pictures\)"):
        common_size({"generated": paths})
    assert common_size({"generated": paths}, Geometry(size=(16, 24), crop="center")) == (16, 24)
    assert common_size({"generated": paths[:2]}, Geometry(size=16)) == (16, 16)
    assert read_through(paths[0], Geometry(size=(16, 24), crop="random")).shape == (16, 24, 3)


def test_buckets_are_a_preprocessing_of_their_own(folder, tmp_path, pixels):
    """Squeezed to one size and brought to the buckets about it: other pixels, other names, other entries."""
    Image.fromarray(picture(0, 24, 60)).save(folder / "5.png")
    paths, cache = list_pictures(folder), tmp_path / "cache"
    squeezed, bucketed = Geometry(size=(32, 32)), Geometry(size=(32, 32), buckets=True)
    found = [features_of(paths, pixels, cache, geometry=geometry) for geometry in (squeezed, bucketed)]
    for features, geometry in zip(found, (squeezed, bucketed), strict=True):
        assert torch.equal(features.values, pixels([read_through(path, geometry) for path in paths]))
    assert not torch.equal(found[0].values, found[1].values)
    assert found[1].preprocessing.startswith("resized to the bucket of its aspect, about 32x32; ")
    with pytest.raises(ValueError, match="another extractor"):
        found[0].fits(found[1])
    assert common_size({"generated": paths}, bucketed) == (32, 32)
    assert common_size({"generated": paths}, replace(bucketed, size=32)) == (32, 32)


def test_folders_without_pictures(tmp_path):
    with pytest.raises(DatasetError, match="holds no pictures"):
        list_pictures(tmp_path)
    with pytest.raises(DatasetError, match="There is no folder"):
        list_pictures(tmp_path / "absent")


def test_features_of_another_extractor_are_refused(folder, tmp_path, pixels):
    ours = features_of(list_pictures(folder), pixels, tmp_path / "cache")
    for change in ({"identity": "other"}, {"preprocessing": replace(pixels.preprocessing, name="other")}):
        theirs = features_of(list_pictures(folder), replace(pixels, **change), tmp_path / "cache")
        with pytest.raises(ValueError, match="another extractor"):
            ours.fits(theirs)


def test_every_extractor_can_be_named():
    assert {name.value for name in ExtractorName} == {
        *("inception", "inception-clean", "clip", "dinov2", "alexnet", "vgg16", "pixels")
    }
