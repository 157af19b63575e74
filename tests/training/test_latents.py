"""Latents from a cache are those that would be encoded anew."""

from __future__ import annotations

import pytest
import torch
from diffusers import AutoencoderKL

from factories import drawn_data
from mamoe.data.dataset import LayoutDataset
from mamoe.data.encoded import LatentCache
from mamoe.data.geometry.joint import Geometry
from mamoe.errors import ConfigError
from mamoe.models.autoencoder import vae_fingerprint
from mamoe.models.latents import LatentScaling
from mamoe.storage.shards import CacheError
from mamoe.training.step import latents
from mamoe.training.step.latents import fill_latents, moments_of
from mamoe.vocabulary.taxonomy import Taxonomy


def new_vae(seed: int = 0) -> AutoencoderKL:
    torch.manual_seed(seed)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(4, 4, 4, 4),
        norm_num_groups=2,
        shift_factor=0.5,
    ).eval()


@pytest.fixture(scope="module")
def vae() -> AutoencoderKL:
    return new_vae()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return drawn_data(tmp_path_factory.mktemp("drawn"), {"train": 5})


def dataset(folder, split: str = "train", **geometry) -> LayoutDataset:
    return LayoutDataset(
        images=folder / "images",
        panoptic_maps=folder / "panoptic",
        split=split,
        prompts=folder / "prompts_{split}.csv",
        instance_prompts=None,
        taxonomy=Taxonomy.load("scenes"),
        geometry=Geometry(**{"size": (32, 48), "flip": 0.5, **geometry}),
        seed=3,
    )


def pictures(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(256, (count, 3, 16, 24), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def test_moments_are_those_of_the_posterior_and_do_not_depend_on_batch_mates(vae):
    x = pictures(3)
    with torch.no_grad():
        posterior = vae.encode(x / 127.5 - 1).latent_dist
    both = moments_of(vae, x)
    torch.testing.assert_close(both[:, 0], posterior.mean, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(both[:, 1], posterior.std, atol=1e-5, rtol=1e-4)
    assert all(torch.equal(moments_of(vae, x[i : i + 1])[0], both[i]) for i in range(3))


@pytest.mark.parametrize("reduced", [False, True])
def test_moments_have_the_same_bits_for_any_number_of_threads(vae, reduced):
    x, before, found = pictures(3), torch.get_num_threads(), []
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            with torch.autocast("cpu", torch.bfloat16, enabled=reduced):
                found.append(moments_of(vae, x))
            assert torch.get_num_threads() == threads and not found[-1].requires_grad
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(found[0], other) for other in found[1:])
    plain = moments_of(vae, x)
    assert torch.equal(plain, found[0]) is not reduced  # the caller's number format is that of every thread


def test_large_pictures_are_encoded_one_after_another_with_the_same_result(vae, monkeypatch):
    x = pictures(3)
    together = moments_of(vae, x)
    monkeypatch.setattr(latents, "_SMALL", 0)
    torch.testing.assert_close(moments_of(vae, x), together, atol=1e-5, rtol=1e-4)


def test_scaling_is_what_pipelines_undo(vae):
    x, scaling = torch.randn(2, 4, 2, 3), LatentScaling.of(vae)
    assert torch.allclose(scaling.unscaled(scaling.scaled(x)), x, atol=1e-6)
    torch.testing.assert_close(scaling.scaled(x) / vae.config["scaling_factor"] + vae.config["shift_factor"], x)


@pytest.mark.parametrize("geometry", [{}, {"crop": "center"}, {"size": 32, "buckets": True}])
def test_encoded_samples_carry_the_moments_of_the_very_pixels_others_get(vae, folder, tmp_path, geometry):
    plain = dataset(folder, **geometry)
    encoded = plain.encoded(LatentCache(tmp_path, "A"))
    assert fill_latents(encoded._latents, [encoded], vae, threads=2) == 10
    assert fill_latents(encoded._latents, [encoded], vae) == 0
    mirrored = set()
    for epoch in range(3):
        for index in range(5):
            a, b = plain[epoch, index], encoded[epoch, index]
            assert b.image is None and torch.equal(b.moments, moments_of(vae, a.image[None])[0])
            assert (a.panoptic.segment_id == b.panoptic.segment_id).all() and a.prompts == b.prompts
            mirrored.add(torch.equal(a.image, plain.unaugmented()[index].image))
    assert mirrored == {True, False}
    with pytest.raises(ValueError, match="no pixels"):
        b.picture  # noqa: B018


def test_two_builders_share_the_work_and_agree(vae, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(latents, "SHARD", 2)
    plain = dataset(folder)
    first, second = (plain.encoded(LatentCache(tmp_path, "A")) for _ in range(2))
    made = []

    def meanwhile(done: int, total: int) -> None:  # the other builder does everything while the first is at its start
        if not made:
            made.append(0)
            made[0] = fill_latents(second._latents, [second], vae)

    mine = fill_latents(first._latents, [first], vae, progress=meanwhile)
    assert made == [10] and mine == 2  # the shard it was working on
    again = plain.encoded(LatentCache(tmp_path, "A"))
    assert again.missing() == [] and len(again._latents) == 10


def test_what_cannot_be_cached_is_refused_with_the_reason(folder, tmp_path):
    cache = LatentCache(tmp_path, "A")
    with pytest.raises(ConfigError, match="random crop shows another part"):
        dataset(folder, crop="random").encoded(cache)
    with pytest.raises(ConfigError, match="extra transforms"):
        dataset(folder, extra=[lambda *pair: pair]).encoded(cache)
    with pytest.raises(CacheError, match=r"lacks a picture as resized to 32x48, cut at \(0, 0\) to 32x48"):
        dataset(folder).encoded(cache)[0]


def test_fingerprint_knows_the_encoding_half_and_the_precision(vae):
    one = vae_fingerprint(vae, "32-true")
    assert one == vae_fingerprint(new_vae(), "32-true")
    assert len({one, vae_fingerprint(vae, "bf16-mixed"), vae_fingerprint(new_vae(1), "32-true")}) == 3
    other = new_vae()
    other.decoder.conv_out.bias.data += 1  # does not change a posterior
    assert one == vae_fingerprint(other, "32-true")
